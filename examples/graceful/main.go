// Graceful shows how a server loses no webhook over a restart: what could not be delivered before the process
// ends is written to a file, and the next process delivers it. It emits an event every 10ms until it gets
// SIGTERM or SIGINT.
//
//	go run ./examples/graceful http://localhost:8080/webhooks
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/pusherhooks/webhook"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: graceful URL")
	}
	if err := run(os.Args[1], "undelivered.json", 5*time.Second); err != nil {
		log.Fatal(err)
	}
}

func run(url, file string, grace time.Duration) error {
	var mu sync.Mutex
	var undelivered []*webhook.Delivery
	dispatcher, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{
			ID: "app", Key: "app-key", Secret: "app-secret",
			Webhooks: []webhook.Webhook{{URL: url, EventTypes: []webhook.EventType{webhook.TypeSubscriptionCount}}},
		}},
		Logger: slog.Default(), // says when nothing listens at the URL
		// Called for what is given up while the server runs, and for everything that Close hands back.
		Hooks: webhook.Hooks{Undelivered: func(d *webhook.Delivery, _ error) {
			mu.Lock()
			defer mu.Unlock()
			undelivered = append(undelivered, d)
		}},
	})
	if err != nil {
		return err
	}
	if err := redeliver(dispatcher, file); err != nil { // before the first event, so that channels stay in order
		return err
	}

	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	for count := 0; stopped.Err() == nil; count++ {
		if err := dispatcher.Emit("app", webhook.SubscriptionCount("room", count)); err != nil {
			return err
		}
		fmt.Println("accepted", count)
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := dispatcher.Close(ctx); err != nil {
		log.Print(err)
	}
	return save(file, undelivered)
}

// redeliver queues what an earlier process has saved. The file stays until save: if this process is killed,
// the next one sends it again, and receivers drop what they have seen by its Webhook-Id.
func redeliver(dispatcher *webhook.Dispatcher, file string) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var deliveries []*webhook.Delivery
	if err := json.Unmarshal(data, &deliveries); err != nil {
		return err
	}
	return dispatcher.Redeliver(deliveries...)
}

// save replaces the file at once. It holds the app's headers and URLs, so nobody else may read it.
func save(file string, deliveries []*webhook.Delivery) error {
	data, err := json.Marshal(deliveries)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file+".new", data, 0o600), os.Rename(file+".new", file))
}
