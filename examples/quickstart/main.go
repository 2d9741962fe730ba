// Quickstart shows the library at work: a backend on loopback, a dispatcher with two apps, events of every
// type from several goroutines, a first attempt that fails and is retried, and a graceful shutdown. It prints
// what the backend received, batch by batch, and exits with an error if anything is missing.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	shop := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret"}
	chat := webhook.App{ID: "chat", Key: "chat-key", Secret: "chat-secret"}

	// The customers' backends. This one stands for both, and is down at first: it answers the first request
	// of all with 503.
	backend := webhooktest.NewReceiver(shop, chat)
	defer backend.Close()
	backend.Fail(1, http.StatusServiceUnavailable)

	shop.Webhooks = []webhook.Webhook{{
		URL:        backend.URL + "/shop/orders",
		EventTypes: []webhook.EventType{webhook.TypeChannelOccupied, webhook.TypeChannelVacated, webhook.TypeCacheMiss},
		Filter:     webhook.Filter{ChannelNameStartsWith: "private-", ChannelNameEndsWith: "-orders"},
		Headers:    map[string]string{"Authorization": "Bearer from-the-shop"},
	}}
	chat.Webhooks = []webhook.Webhook{{
		URL: backend.URL + "/chat",
		EventTypes: []webhook.EventType{
			webhook.TypeClientEvent, webhook.TypeMemberAdded, webhook.TypeMemberRemoved, webhook.TypeSubscriptionCount,
		},
	}}

	dispatcher, err := webhook.New(webhook.Config{
		Apps:         []webhook.App{shop, chat},
		RetryWaitMin: 100 * time.Millisecond, // the default is a second
		Hooks:        webhook.Hooks{Endpoint: tell},
	})
	if err != nil {
		return err
	}

	wanted := emit(dispatcher)

	// A server does this last, after it has closed its websockets.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := dispatcher.Close(ctx); err != nil {
		return err
	}
	return report(dispatcher.Stats(), backend, wanted)
}

// tell says at once when an endpoint does not accept what it gets, and why: it answers 503, nothing listens there.
// Config.Logger would be told the same.
func tell(s webhook.EndpointStatus) {
	if s.State != webhook.EndpointOK {
		fmt.Printf("endpoint %s of app %s is %v: %s\n", s.URL, s.AppID, s.State, s.LastError)
	}
}

// emit has three rooms live through the same day at once and returns how many of the events the webhooks ask
// for.
func emit(dispatcher *webhook.Dispatcher) (wanted int) {
	rooms := []string{"berlin", "lagos", "lima"}
	var day sync.WaitGroup
	for _, city := range rooms {
		orders, presence := "private-"+city+"-orders", "presence-"+city
		day.Go(func() {
			for _, e := range []struct {
				app   string
				event webhook.Event
			}{
				{"shop", webhook.ChannelOccupied(orders)},
				{"shop", webhook.CacheMiss("private-cache-" + city + "-orders")},
				{"shop", webhook.ChannelOccupied("public-" + city)}, // the filter keeps it back
				{"chat", webhook.MemberAdded(presence, "ada")},
				{"chat", webhook.SubscriptionCount("room-"+city, 1)},
				{"chat", webhook.ClientEvent(presence, "client-hello", json.RawMessage(`{"to":"<everyone>"}`), "123.456", "ada")},
				{"chat", webhook.MemberRemoved(presence, "ada")},
				{"chat", webhook.ChannelVacated(presence)}, // nobody asks for this type
				{"shop", webhook.ChannelVacated(orders)},
			} {
				if err := dispatcher.Emit(e.app, e.event); err != nil {
					log.Printf("emit: %v", err)
				}
			}
		})
	}
	day.Wait()
	return 7 * len(rooms)
}

// report prints what arrived and compares it with what should have.
func report(stats webhook.Stats, backend *webhooktest.Receiver, wanted int) error {
	arrived := 0
	for _, delivery := range backend.Deliveries() {
		fmt.Printf("\nPOST %s: %d events in %d bytes, signed by %s, Webhook-Id %s…\n",
			delivery.Path, len(delivery.Events), len(delivery.Body), delivery.Key, delivery.ID[:6])
		for _, e := range delivery.Events {
			fmt.Printf("  %-18s  %s%s\n", e.Name, e.Channel, details(e))
		}
		arrived += len(delivery.Events)
	}
	fmt.Printf("\nemitted %d, wanted and queued %d, delivered %d in %d requests, undelivered %d\n",
		stats.Emitted, stats.Queued, stats.Delivered, stats.Requests, stats.Undelivered)
	if arrived != wanted || stats.Delivered != uint64(wanted) {
		return fmt.Errorf("%d of %d events arrived", arrived, wanted)
	}
	return nil
}

// details returns what an event has beside its name and channel.
func details(e webhooktest.Event) string {
	switch e.Name {
	case webhook.TypeMemberAdded, webhook.TypeMemberRemoved:
		return "  user " + e.UserID
	case webhook.TypeSubscriptionCount:
		return fmt.Sprintf("  count %d", e.SubscriptionCount)
	case webhook.TypeClientEvent:
		return fmt.Sprintf("  %s from user %s, data %s", e.Event, e.UserID, e.Data)
	}
	return ""
}
