package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

func Example() {
	app := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret"}
	backend := webhooktest.NewReceiver(app) // stands for the customer's backend
	defer backend.Close()
	app.Webhooks = []webhook.Webhook{{
		URL:        backend.URL + "/webhooks",
		EventTypes: []webhook.EventType{webhook.TypeMemberAdded, webhook.TypeMemberRemoved},
		Filter:     webhook.Filter{ChannelNameStartsWith: "presence-"},
	}}

	d, err := webhook.New(webhook.Config{Apps: []webhook.App{app}})
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range []webhook.Event{
		webhook.MemberAdded("presence-room", "user-7"),
		webhook.MemberRemoved("presence-room", "user-7"),
		webhook.ChannelVacated("presence-room"), // nobody asked for it
	} {
		if err := d.Emit("shop", e); err != nil {
			log.Print(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		log.Print(err)
	}
	for _, e := range backend.Events() {
		fmt.Println(e.Name, e.Channel, e.UserID)
	}
	// Output:
	// member_added presence-room user-7
	// member_removed presence-room user-7
}

// soketi's configuration is read as it is.
func ExampleApp() {
	var apps []webhook.App
	err := json.Unmarshal([]byte(`[{
		"id": "shop", "key": "shop-key", "secret": "shop-secret",
		"webhooks": [{
			"url": "https://shop.example/webhooks?token=t0k3n",
			"event_types": ["channel_occupied", "channel_vacated"],
			"filter": {"channel_name_starts_with": "private-"},
			"headers": {"Authorization": "Bearer abc"}
		}]
	}]`), &apps)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", apps[0]) // without what is secret
	// Output:
	// {ID:shop Key:shop-key Secret:[redacted] Webhooks:[{https://shop.example/webhooks [channel_occupied channel_vacated] {ChannelNameStartsWith:private- ChannelNameEndsWith:} [Authorization]}]}
}

// Every fault of a configuration is reported at once.
func ExampleNew_faults() {
	_, err := webhook.New(webhook.Config{Apps: []webhook.App{{
		ID: "shop", Key: "shop-key",
		Webhooks: []webhook.Webhook{{URL: "/hook", EventTypes: []webhook.EventType{webhook.TypeCacheMiss}}},
	}}})
	fmt.Println(err)
	// Output:
	// webhook: invalid config:
	// apps[0] "shop": secret: must not be empty
	// apps[0] "shop": webhooks[0].url: must be an absolute http or https URL, got "/hook"
}

// What Close could not deliver in time is complete and signed. It survives being stored, and another process
// sends it.
func ExampleDispatcher_Redeliver() {
	app := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	app.Webhooks = []webhook.Webhook{{URL: backend.URL, EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}}}

	backend.Answer(http.StatusServiceUnavailable)
	d, err := webhook.New(webhook.Config{Apps: []webhook.App{app}})
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Emit("shop", webhook.ChannelOccupied("room")); err != nil {
		log.Print(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	var stored []byte
	var undelivered *webhook.UndeliveredError
	if err := d.Close(ctx); errors.As(err, &undelivered) {
		fmt.Println(len(undelivered.Deliveries), "undelivered:", errors.Is(err, context.DeadlineExceeded))
		if stored, err = json.Marshal(undelivered.Deliveries); err != nil {
			log.Fatal(err)
		}
	}

	backend.Answer(http.StatusOK)
	var deliveries []*webhook.Delivery
	if err := json.Unmarshal(stored, &deliveries); err != nil {
		log.Fatal(err)
	}
	next, err := webhook.New(webhook.Config{Apps: []webhook.App{app}})
	if err != nil {
		log.Fatal(err)
	}
	if err := next.Redeliver(deliveries...); err != nil {
		log.Print(err)
	}
	if err := next.Close(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Println(backend.Events()[0].Channel)
	// Output:
	// 1 undelivered: true
	// room
}

// A server whose customers choose their URLs keeps them away from its own network with a guard: take the one of
// examples/ssrf, on code.dny.dev/ssrf. This one shows where it plugs in and is none to copy. It lets shared, translated and
// tunnelled addresses through (100.64.0.0/10, 64:ff9b::/96, 2002::/16), and with them the metadata of some clouds.
func ExampleHTTPConfig_addressGuard() {
	guard := func(_, address string, _ syscall.RawConn) error {
		ip, err := netip.ParseAddrPort(address) // resolved: a name cannot hide an address
		if err != nil {
			return err
		}
		if a := ip.Addr().Unmap(); !a.IsGlobalUnicast() || a.IsPrivate() {
			return fmt.Errorf("%s is not a public address", a)
		}
		return nil
	}
	sender, err := webhook.NewHTTPSender(webhook.HTTPConfig{DialControl: guard})
	if err != nil {
		log.Fatal(err)
	}

	internal := webhooktest.NewReceiver()
	defer internal.Close()
	err = sender.Send(context.Background(), &webhook.Delivery{URL: internal.URL, Body: []byte("{}")})
	fmt.Println(strings.Contains(err.Error(), "address refused: 127.0.0.1 is not a public address"))
	fmt.Println(len(internal.Requests()), "requests arrived")
	// Output:
	// true
	// 0 requests arrived
}

// A receiver verifies before it believes, and drops what it has seen: delivery is at least once.
func ExampleVerify() {
	var mu sync.Mutex
	seen := map[string]bool{} // in a real backend, with an expiry
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			return
		}
		if err := webhook.Verify("shop-key", "shop-secret", r.Header, body); err != nil {
			http.Error(w, "not signed by the app", http.StatusUnauthorized)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if id := r.Header.Get("Webhook-Id"); !seen[id] {
			seen[id] = true
			fmt.Println(string(body))
		}
	}

	body := `{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"room"}]}`
	for _, secret := range []webhook.Secret{"shop-secret", "shop-secret", "forged"} {
		req := httptest.NewRequest(http.MethodPost, "/webhooks", http.NoBody)
		req.Body = io.NopCloser(strings.NewReader(body))
		req.Header.Set("X-Pusher-Key", "shop-key")
		req.Header.Set("X-Pusher-Signature", webhook.Sign(secret, []byte(body)))
		req.Header.Set("Webhook-Id", "1")
		w := httptest.NewRecorder()
		handler(w, req)
		fmt.Println(w.Code)
	}
	// Output:
	// {"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"room"}]}
	// 200
	// 200
	// 401
}

// soketi's environment is read as it is. Batching is off unless it is enabled there.
func ExampleConfigFromEnv() {
	for name, value := range map[string]string{"WEBHOOKS_BATCHING": "true", "WEBHOOKS_BATCHING_DURATION": "100"} {
		if err := os.Setenv(name, value); err != nil {
			log.Fatal(err)
		}
		defer func() { _ = os.Unsetenv(name) }()
	}
	cfg, err := webhook.ConfigFromEnv()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cfg.MaxBatchEvents == 1, cfg.BatchWindow)
	// Output:
	// false 100ms
}

// A channel that is occupied again within three seconds was never vacated.
func ExampleConfig_WithPusherTiming() {
	cfg := webhook.Config{
		Apps: []webhook.App{{
			ID: "shop", Key: "shop-key", Secret: "shop-secret",
			Webhooks: []webhook.Webhook{{
				URL:        "https://shop.example/webhooks",
				EventTypes: []webhook.EventType{webhook.TypeChannelOccupied, webhook.TypeChannelVacated},
			}},
		}},
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil }),
	}.WithPusherTiming()
	d, err := webhook.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range []webhook.Event{
		webhook.ChannelOccupied("room"),
		webhook.ChannelVacated("room"), // a page is reloaded
		webhook.ChannelOccupied("room"),
	} {
		if err := d.Emit("shop", e); err != nil {
			log.Print(err)
		}
	}
	if err := d.Close(context.Background()); err != nil {
		log.Print(err)
	}
	stats := d.Stats()
	fmt.Println("delivered", stats.Delivered, "suppressed", stats.Suppressed)
	// Output:
	// delivered 1 suppressed 2
}

// Wants saves preparing an event that nobody asks for.
func ExampleDispatcher_Wants() {
	d, err := webhook.New(webhook.Config{Apps: []webhook.App{{
		ID: "shop", Key: "shop-key", Secret: "shop-secret",
		Webhooks: []webhook.Webhook{{
			URL:        "https://shop.example/webhooks",
			EventTypes: []webhook.EventType{webhook.TypeClientEvent},
			Filter:     webhook.Filter{ChannelNameStartsWith: "private-"},
		}},
	}}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Wants("shop", webhook.TypeClientEvent, "private-room"))
	fmt.Println(d.Wants("shop", webhook.TypeClientEvent, "presence-room")) // the filter is for other channels
	fmt.Println(d.Wants("shop", webhook.TypeCacheMiss, "private-room"))    // nobody asked for the type
	fmt.Println(d.Wants("shoe", webhook.TypeClientEvent, "private-room"))  // no such app
	// Output:
	// true
	// false
	// false
	// false
}

// Apps come, change and go while events flow. What is queued goes where it was meant to go.
func ExampleDispatcher_SetApp() {
	d, err := webhook.New(webhook.Config{
		BatchWindow: time.Minute, // Flush does not wait for it
		Sender: webhook.SenderFunc(func(_ context.Context, d *webhook.Delivery) error {
			fmt.Println(d.URL, d.Events)
			return nil
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	emit := func(events ...webhook.Event) {
		for _, e := range events {
			if err := d.Emit("shop", e); err != nil {
				fmt.Println(err)
			}
		}
		if err := d.Flush(context.Background()); err != nil {
			log.Print(err)
		}
	}
	app := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret"}
	for _, url := range []string{"https://old.example/", "https://new.example/"} {
		app.Webhooks = []webhook.Webhook{{URL: url, EventTypes: []webhook.EventType{webhook.TypeMemberAdded}}}
		if err := d.SetApp(app); err != nil {
			log.Print(err)
		}
		emit(webhook.MemberAdded("presence-room", "ada"), webhook.MemberAdded("presence-room", "bob"))
	}
	d.RemoveApp("shop")
	emit(webhook.MemberAdded("presence-room", "eve"))
	if err := d.Close(context.Background()); err != nil {
		log.Print(err)
	}
	// Output:
	// https://old.example/ 2
	// https://new.example/ 2
	// webhook: unknown app "shop"
}

// Stats account for every event, one for each endpoint that wants it.
func ExampleDispatcher_Stats() {
	types := []webhook.EventType{webhook.TypeChannelOccupied}
	d, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{
			ID: "shop", Key: "shop-key", Secret: "shop-secret",
			Webhooks: []webhook.Webhook{
				{URL: "https://up.example/", EventTypes: types},
				{URL: "https://down.example/", EventTypes: types},
			},
		}},
		BatchWindow: time.Minute, // Close does not wait for it
		Sender: webhook.SenderFunc(func(_ context.Context, d *webhook.Delivery) error {
			if strings.Contains(d.URL, "down") {
				return fmt.Errorf("%w: nobody there", webhook.ErrFinal)
			}
			return nil
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, channel := range []string{"a", "b", ""} { // a channel needs a name
		if err := d.Emit("shop", webhook.ChannelOccupied(channel)); err != nil {
			fmt.Println(err)
		}
	}
	if err := d.Close(context.Background()); err != nil {
		fmt.Println(err)
	}
	s := d.Stats()
	fmt.Println("emitted", s.Emitted, "rejected", s.Rejected)
	fmt.Println("queued", s.Queued, "delivered", s.Delivered, "undelivered", s.Undelivered, "pending", s.Pending)
	// Output:
	// webhook: invalid event: channel: must not be empty
	// webhook: undelivered (deliveries: 1, events: 2): webhook: never to be tried again: nobody there
	// emitted 2 rejected 1
	// queued 4 delivered 2 undelivered 2 pending 0
}

// Both conditions must hold; an empty one holds for every channel.
func ExampleFilter_Match() {
	f := webhook.Filter{ChannelNameStartsWith: "private-", ChannelNameEndsWith: "-admin"}
	fmt.Println(f.Match("private-shop-admin"), f.Match("private-shop"), webhook.Filter{}.Match("shop"))
	// Output:
	// true false true
}

// Hooks tell the server what became of its events.
func ExampleHooks() {
	d, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{
			ID: "shop", Key: "shop-key", Secret: "shop-secret",
			Webhooks: []webhook.Webhook{{
				URL:        "https://shop.example/webhooks",
				EventTypes: []webhook.EventType{webhook.TypeMemberAdded},
			}},
		}},
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
			return fmt.Errorf("%w: nobody there", webhook.ErrFinal)
		}),
		Hooks: webhook.Hooks{
			Undelivered: func(d *webhook.Delivery, err error) { // d can be stored, and passed to Redeliver
				fmt.Printf("undelivered: %d for app %s: %v\n", d.Events, d.AppID, err)
			},
			Rejected: func(appID string, e webhook.Event, err error) { // within Emit: no I/O here, but to count
				fmt.Printf("rejected: %s of app %s: %v\n", e.Type, appID, err)
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, userID := range []string{"", "ada"} {
		_ = d.Emit("shop", webhook.MemberAdded("presence-room", userID))
	}
	_ = d.Close(context.Background())
	// Output:
	// rejected: member_added of app shop: webhook: invalid event: user_id: must not be empty for member_added
	// undelivered: 1 for app shop: webhook: never to be tried again: nobody there
}

// Hooks.Attempt sees what is retried long before it is undelivered.
func ExampleHooks_attempt() {
	app := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	backend.Fail(1, http.StatusServiceUnavailable)
	app.Webhooks = []webhook.Webhook{{URL: backend.URL, EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}}}

	d, err := webhook.New(webhook.Config{
		Apps:         []webhook.App{app},
		RetryWaitMin: time.Millisecond,
		Hooks: webhook.Hooks{Attempt: func(d *webhook.Delivery, a webhook.Attempt) {
			fmt.Println(d.AppID, a.N, a.Status, a.Err, a.RetryIn > 0)
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Emit("shop", webhook.ChannelOccupied("room")); err != nil {
		log.Print(err)
	}
	if err := d.Flush(context.Background()); err != nil { // Close would not await the time of the retry
		log.Print(err)
	}
	if err := d.Close(context.Background()); err != nil {
		log.Print(err)
	}
	// Output:
	// shop 1 503 endpoint answered 503 Service Unavailable true
	// shop 2 200 <nil> false
}

// A Sender of one's own takes deliveries that are signed and complete, here to a queue that survives the process.
func ExampleSenderFunc() {
	var queue []json.RawMessage
	enqueue := func(_ context.Context, d *webhook.Delivery) error {
		message, err := json.Marshal(d)
		if err != nil {
			return err
		}
		queue = append(queue, message) // one endpoint only; several would call this concurrently
		return nil
	}
	d, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{
			ID: "shop", Key: "shop-key", Secret: "shop-secret",
			Webhooks: []webhook.Webhook{{
				URL:        "https://shop.example/webhooks",
				EventTypes: []webhook.EventType{webhook.TypeChannelOccupied},
			}},
		}},
		Sender: webhook.SenderFunc(enqueue),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Emit("shop", webhook.ChannelOccupied("room")); err != nil {
		log.Print(err)
	}
	if err := d.Close(context.Background()); err != nil {
		log.Print(err)
	}

	var delivery webhook.Delivery // in another process, which has no secret
	if err := json.Unmarshal(queue[0], &delivery); err != nil {
		log.Fatal(err)
	}
	fmt.Println(delivery.URL, delivery.Events)
	fmt.Println(webhook.Verify("shop-key", "shop-secret", delivery.Header, delivery.Body))
	// Output:
	// https://shop.example/webhooks 1
	// <nil>
}
