package main

import (
	"context"
	"fmt"
	"log"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

func TestRun(t *testing.T) { require.NoError(t, run()) }

// Who forgets to start the backend is told.
func Example_nothingListens() {
	shop := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret", Webhooks: []webhook.Webhook{
		{URL: "http://127.0.0.1:1/orders", EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}},
	}}
	dispatcher, err := webhook.New(webhook.Config{
		Apps:     []webhook.App{shop},
		RetryFor: -1, // an example does not wait
		Hooks:    webhook.Hooks{Endpoint: tell},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := dispatcher.Emit("shop", webhook.ChannelOccupied("orders")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(dispatcher.Close(context.Background()))
	// Output:
	// endpoint http://127.0.0.1:1 of app shop is failing: dial tcp 127.0.0.1:1: connect: connection refused
	// webhook: undelivered (deliveries: 1, events: 1): dial tcp 127.0.0.1:1: connect: connection refused
}
