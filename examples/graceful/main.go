// Graceful shows how a server loses no webhook over a restart: what could not be delivered while it ran, and before
// it ends, is written to a directory, and the next process delivers it. It emits an event every 10ms until it gets
// SIGTERM or SIGINT.
//
//	go run ./examples/graceful http://localhost:8080/webhooks
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookspool"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: graceful URL")
	}
	if err := run(os.Args[1], "undelivered", 5*time.Second); err != nil {
		log.Fatal(err)
	}
}

func run(url, dir string, grace time.Duration) error {
	spool, err := webhookspool.Open(dir, webhookspool.Config{Logger: slog.Default()})
	if err != nil {
		return err
	}
	dispatcher, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{
			ID: "app", Key: "app-key", Secret: "app-secret",
			Webhooks: []webhook.Webhook{{URL: url, EventTypes: []webhook.EventType{webhook.TypeSubscriptionCount}}},
		}},
		Logger: slog.Default(), // says when nothing listens at the URL
		Hooks:  webhook.Hooks{Undelivered: spool.Undelivered},
	})
	if err != nil {
		return err
	}
	if err := spool.Redeliver(dispatcher); err != nil { // before the first event, so that channels stay in order
		log.Print(err) // and no reason not to start
	}

	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	for count := 0; stopped.Err() == nil; count++ {
		if err := dispatcher.Emit("app", webhook.SubscriptionCount("room", count)); err != nil {
			log.Print(err) // the queue is full, for example: this one is lost, and the next may not be
		} else {
			fmt.Println("accepted", count)
		}
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := spool.Close(ctx, dispatcher); err != nil { // closes both
		log.Print(err)
	}
	return nil
}
