package main

import (
	"context"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pusherhooks/webhook"
)

// newSender returns a Sender by HTTP that makes a span of every delivery, with a child of kind client for each
// of its attempts. The endpoint gets the latter's traceparent header.
//
// The Dispatcher does not close the connections of a Sender that it did not make: closeIdle is to be called
// after its Close.
func newSender(cfg webhook.HTTPConfig, provider trace.TracerProvider) (s webhook.Sender, closeIdle func(), err error) {
	base := webhook.NewTransport(cfg) // the library's own, with its bounds and cfg's DialControl
	cfg.DialControl = nil             // so that is no longer the Sender's business
	cfg.Transport = otelhttp.NewTransport(withoutQuery{base},
		otelhttp.WithTracerProvider(provider),
		// Not the global propagator: it may add baggage, which is not for a tenant's eyes.
		otelhttp.WithPropagators(propagation.TraceContext{}),
		// Its metrics have a label for the host, and the number of hosts is the tenants' choice.
		otelhttp.WithMeterProvider(noop.NewMeterProvider()),
	)
	sender, err := webhook.NewHTTPSender(cfg)
	if err != nil {
		return nil, nil, err
	}
	tracer := provider.Tracer("github.com/pusherhooks/webhook/examples/otel")
	return traced(sender, tracer), base.CloseIdleConnections, nil
}

// traced makes a span of every Send. Without it each attempt would be a trace of its own, as an event's own
// trace has long ended when its batch leaves.
func traced(next webhook.Sender, tracer trace.Tracer) webhook.Sender {
	return webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		ctx, span := tracer.Start(ctx, "webhook delivery", trace.WithAttributes(
			attribute.String("webhook.id", d.ID),
			attribute.String("webhook.app_id", d.AppID),
			attribute.Int("webhook.events", d.Events),
		))
		defer span.End()
		err := next.Send(ctx, d)
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		return err
	})
}

// withoutQuery is the RoundTripper below otelhttp. It takes the query, which often holds a token, off the URL in
// otelhttp's span.
type withoutQuery struct{ base http.RoundTripper }

func (t withoutQuery) RoundTrip(req *http.Request) (*http.Response, error) {
	u := *req.URL
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	trace.SpanFromContext(req.Context()).SetAttributes(attribute.String("url.full", u.String()))
	return t.base.RoundTrip(req)
}
