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
		fmt.Println(err)
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
	// webhook: undelivered (deliveries: 1, events: 1): context deadline exceeded
	// room
}

// A server whose customers choose their URLs keeps them away from its own network. Package code.dny.dev/ssrf
// knows more ranges than this guard does, and plugs in the same way.
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
