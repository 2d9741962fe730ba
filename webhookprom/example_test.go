package webhookprom_test

import (
	"context"
	"fmt"
	"log"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookprom"
	"github.com/pusherhooks/webhook/webhooktest"
)

func Example() {
	app := webhook.App{ID: "1", Key: "key", Secret: "secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	app.Webhooks = []webhook.Webhook{{URL: backend.URL, EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}}}

	metrics := webhookprom.New(webhookprom.Config{})
	dispatcher, err := webhook.New(webhook.Config{Apps: []webhook.App{app}, Hooks: metrics.Hooks()})
	if err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry() // to be served by promhttp.HandlerFor
	registry.MustRegister(metrics.Collector(dispatcher))

	for _, event := range []webhook.Event{webhook.ChannelOccupied("a"), webhook.ChannelOccupied("b"), webhook.ChannelOccupied("")} {
		if err := dispatcher.Emit("1", event); err != nil {
			fmt.Println(err)
		}
	}
	if err := dispatcher.Close(context.Background()); err != nil {
		log.Fatal(err)
	}

	text, err := testutil.GatherAndFormat(registry, expfmt.TypeTextPlain,
		"webhook_events_delivered_total", "webhook_events_rejected_total", "webhook_requests_total")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(withoutComments(text))
	// Output:
	// webhook: invalid event: channel: must not be empty
	// webhook_events_delivered_total 2
	// webhook_events_rejected_total{reason="closed"} 0
	// webhook_events_rejected_total{reason="invalid_event"} 1
	// webhook_events_rejected_total{reason="other"} 0
	// webhook_events_rejected_total{reason="queue_full"} 0
	// webhook_events_rejected_total{reason="unknown_app"} 0
	// webhook_requests_total{status="2xx"} 1
	// webhook_requests_total{status="3xx"} 0
	// webhook_requests_total{status="4xx"} 0
	// webhook_requests_total{status="5xx"} 0
	// webhook_requests_total{status="error"} 0
}

// A server with hooks of its own hands them to Hooks, which calls them too.
func ExampleMetrics_Hooks() {
	metrics := webhookprom.New(webhookprom.Config{})
	own := webhook.Hooks{
		Rejected: func(appID string, _ webhook.Event, err error) { fmt.Printf("app %s: %v\n", appID, err) },
	}
	dispatcher, err := webhook.New(webhook.Config{Hooks: metrics.Hooks(own)})
	if err != nil {
		log.Fatal(err)
	}
	if err := dispatcher.Emit("7", webhook.ChannelOccupied("a")); err == nil {
		log.Fatal("there is no app 7")
	}
	if err := dispatcher.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// app 7: webhook: unknown app "7"
}
