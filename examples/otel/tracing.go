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
// base makes the requests; it takes the place of the default Transport, see newTransport.
func newSender(cfg webhook.HTTPConfig, base http.RoundTripper, provider trace.TracerProvider) (webhook.Sender, error) {
	cfg.Transport = otelhttp.NewTransport(withoutQuery{base},
		otelhttp.WithTracerProvider(provider),
		// Not the global propagator: it may add baggage, which is not for a tenant's eyes.
		otelhttp.WithPropagators(propagation.TraceContext{}),
		// Its metrics have a label for the host, and the number of hosts is the tenants' choice.
		otelhttp.WithMeterProvider(noop.NewMeterProvider()),
	)
	sender, err := webhook.NewHTTPSender(cfg)
	if err != nil {
		return nil, err
	}
	return traced(sender, provider.Tracer("github.com/pusherhooks/webhook/examples/otel")), nil
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

// newTransport returns a transport with the settings that the library's own has and net/http's has not.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.DisableCompression = true         // or an endpoint's answer would be inflated
	t.MaxResponseHeaderBytes = 64 << 10 // instead of 10 MB
	t.MaxIdleConns = 1024               // instead of 100: there are many endpoints
	t.MaxIdleConnsPerHost = 256         // instead of 2: and many of them may be on one host
	return t
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
