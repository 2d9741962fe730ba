// Quickstart shows the library at work: a backend on loopback, a dispatcher with two apps, sockets that come and go on
// several goroutines and cause events of every type, a first attempt that fails and is retried, and a graceful shutdown. It prints
// what the backend received, batch by batch, and exits with an error if anything is missing.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
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

	wanted, err := live(dispatcher)
	if err != nil {
		return err
	}

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

// live has three cities live through the same day at once and returns how many of the events the webhooks ask for. It
// does what a server does when websockets are opened, say something, and are closed; package channels makes the events.
func live(dispatcher *webhook.Dispatcher) (wanted int, err error) {
	tracker := channels.New(dispatcher, channels.Options{})
	cities := []string{"berlin", "lagos", "lima"}
	faults := make([]error, len(cities))
	var day sync.WaitGroup
	for i, city := range cities {
		day.Go(func() { faults[i] = errors.Join(order(tracker, city), chat(tracker, city)) })
	}
	day.Wait()
	return 10 * len(cities), errors.Join(faults...)
}

// order is a customer of the shop: five events that its webhook asks for.
func order(tracker *channels.Tracker, city string) error {
	socket, err := tracker.Connect("shop", "1."+city)
	if err != nil {
		return err
	}
	defer socket.Leave() // the websocket is closed: both of its channels are vacated
	cached := "private-cache-" + city + "-orders"
	for _, channel := range []string{"private-" + city + "-orders", cached, "public-" + city} { // the filter keeps the last back
		if _, err := socket.Subscribe(channel, channels.Member{}); err != nil {
			return err
		}
	}
	tracker.CacheMiss("shop", cached)
	return nil
}

// chat is a visitor of the chat: five events again, with the room's count as they come and go.
func chat(tracker *channels.Tracker, city string) error {
	socket, err := tracker.Connect("chat", "2."+city)
	if err != nil {
		return err
	}
	defer socket.Leave()
	presence := "presence-" + city
	ada := channels.Member{UserID: "ada", Info: json.RawMessage(`{"name":"Ada"}`)}
	if _, err := socket.Subscribe(presence, ada); err != nil {
		return err
	}
	if _, err := socket.Subscribe("room-"+city, channels.Member{}); err != nil {
		return err
	}
	return socket.ClientEvent(presence, "client-hello", json.RawMessage(`{"to":"<everyone>"}`))
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
	return checkStories(backend.Deliveries())
}

// checkStories checks that what each webhook was told can be true: it knows only the types that it asks for.
func checkStories(all []webhooktest.Request) error {
	return webhooktest.CheckStory(all, webhooktest.StoryOptions{Types: []webhook.EventType{
		webhook.TypeMemberAdded, webhook.TypeMemberRemoved,
	}, Ended: true})
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
