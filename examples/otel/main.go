// Command otel shows how webhooks are traced with OpenTelemetry: a backend fails twice and then accepts, and the
// spans of the three attempts are printed as they end.
//
// tracing.go is what a server would take from here.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run delivers two events to a backend on loopback and prints the spans to w.
func run(ctx context.Context, w io.Writer) (err error) {
	app := webhook.App{ID: "1", Key: "key", Secret: "secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	backend.Fail(2, http.StatusServiceUnavailable)
	app.Webhooks = []webhook.Webhook{{URL: backend.URL, EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}}}

	// A server exports to a collector, and in batches: trace.WithBatcher.
	provider := trace.NewTracerProvider(trace.WithSyncer(&printer{w: w}), trace.WithIDGenerator(deliveryIDs{}))
	defer func() { err = errors.Join(err, provider.Shutdown(ctx)) }()

	sender, closeIdle, err := newSender(webhook.HTTPConfig{}, provider)
	if err != nil {
		return err
	}
	defer closeIdle()
	dispatcher, err := webhook.New(webhook.Config{
		Apps:         []webhook.App{app},
		RetryWaitMin: 10 * time.Millisecond, // the default is a second
		Sender:       sender,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dispatcher.Close(ctx)) }()
	for _, channel := range []string{"a", "b"} {
		if err := dispatcher.Emit("1", webhook.ChannelOccupied(channel)); err != nil {
			return err
		}
	}
	return dispatcher.Flush(ctx)
}

// A printer is an exporter that prints a line for each span. It numbers the traces.
type printer struct {
	w      io.Writer
	traces []string
}

// ExportSpans implements trace.SpanExporter.
func (p *printer) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	for _, span := range spans {
		id := span.SpanContext().TraceID().String()
		if !slices.Contains(p.traces, id) {
			p.traces = append(p.traces, id)
		}
		line := fmt.Sprintf("trace %d: %s (%s): %s", slices.Index(p.traces, id)+1, span.Name(), span.SpanKind(), span.Status().Code)
		for _, key := range []attribute.Key{"http.response.status_code", "webhook.events"} {
			if value, ok := find(span.Attributes(), key); ok {
				line += fmt.Sprintf(", %s %s", key, value.String())
			}
		}
		if _, err := fmt.Fprintln(p.w, line); err != nil {
			return err
		}
	}
	return nil
}

// Shutdown implements trace.SpanExporter.
func (p *printer) Shutdown(context.Context) error { return nil }

// find returns the last value of a key: a span may have set it twice.
func find(attributes []attribute.KeyValue, key attribute.Key) (value attribute.Value, ok bool) {
	for _, a := range attributes {
		if a.Key == key {
			value, ok = a.Value, true
		}
	}
	return value, ok
}
