package webhookspool_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookspool"
	"github.com/pusherhooks/webhook/webhooktest"
)

// What one process could not deliver, the next one does.
func Example() {
	dir, _ := os.MkdirTemp("", "webhooks")
	defer os.RemoveAll(dir)
	app := webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	app.Webhooks = []webhook.Webhook{{URL: backend.URL, EventTypes: []webhook.EventType{webhook.TypeMemberAdded}}}

	process := func(grace time.Duration, events ...webhook.Event) {
		spool, err := webhookspool.Open(dir, webhookspool.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			fmt.Println(err)
			return
		}
		d, err := webhook.New(webhook.Config{Apps: []webhook.App{app}, Hooks: webhook.Hooks{Undelivered: spool.Undelivered}})
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := spool.Redeliver(d); err != nil {
			fmt.Println(err)
		}
		for _, e := range events {
			_ = d.Emit("shop", e)
		}
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		err = spool.Close(ctx, d)
		fmt.Println("stopped; all has arrived:", err == nil)
	}
	backend.Answer(http.StatusServiceUnavailable)
	process(50*time.Millisecond, webhook.MemberAdded("presence-room", "ada"))
	backend.Answer(http.StatusOK)
	process(time.Minute, webhook.MemberAdded("presence-room", "bob"))
	for _, e := range backend.Events() {
		fmt.Println(e.Name, e.UserID)
	}
	// Output:
	// stopped; all has arrived: false
	// stopped; all has arrived: true
	// member_added ada
	// member_added bob
}
