package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pusherhooks/webhook"
)

// newSender returns a Sender by HTTP that makes a span of every attempt, with a child of kind client for its request.
// The endpoint gets the latter's traceparent header.
//
// The Dispatcher does not close the connections of a Sender that it did not make: closeIdle is to be called
// after its Close.
func newSender(cfg webhook.HTTPConfig, provider trace.TracerProvider) (s webhook.Sender, closeIdle func(), err error) {
	cfg.WrapTransport = func(base http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(withoutQuery{base},
			otelhttp.WithTracerProvider(provider),
			// Not the global propagator: it may add baggage, which is not for a tenant's eyes.
			otelhttp.WithPropagators(propagation.TraceContext{}),
			// Its metrics have a label for the host, and the number of hosts is the tenants' choice.
			otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		)
	}
	sender, err := webhook.NewHTTPSender(cfg)
	if err != nil {
		return nil, nil, err
	}
	tracer := provider.Tracer("github.com/pusherhooks/webhook/examples/otel")
	return traced(sender, tracer), sender.CloseIdleConnections, nil
}

// traced makes a span of every Send, which is one attempt to deliver. It has no parent: an event's own trace has long
// ended when its batch leaves.
func traced(next webhook.Sender, tracer trace.Tracer) webhook.Sender {
	return webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		ctx, span := tracer.Start(context.WithValue(ctx, deliveryKey{}, d.ID), "webhook attempt",
			trace.WithNewRoot(), trace.WithAttributes(
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

// A deliveryKey leads to the id of the delivery that is being sent.
type deliveryKey struct{}

// deliveryIDs is an IDGenerator for the TracerProvider. It makes the trace ID of an attempt out of the Webhook-Id: so
// all attempts of a delivery are in one trace, also those of the process that delivers it after a restart. A sampler
// that goes by the trace ID takes all of them, or none.
type deliveryIDs struct{}

// NewIDs implements sdk/trace's IDGenerator.
func (g deliveryIDs) NewIDs(ctx context.Context) (id trace.TraceID, span trace.SpanID) {
	if delivery, ok := ctx.Value(deliveryKey{}).(string); ok {
		hash := sha256.Sum256([]byte(delivery))
		copy(id[:], hash[:])
	} else {
		_, _ = rand.Read(id[:]) // never fails
	}
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements sdk/trace's IDGenerator.
func (deliveryIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	_, _ = rand.Read(id[:])
	return id
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
