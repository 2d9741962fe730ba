package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// join connects to the servers and opens the queue. A cluster that is starting, or is electing, is asked again.
func join(ctx context.Context, urls string, log *slog.Logger) (*nats.Conn, *queue.Queue, error) {
	nc, err := nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 2*time.Second)
		q, err := queue.Open(try, nc, queue.Config{})
		done()
		if err == nil {
			return nc, q, nil
		}
		log.Info("the queue is not there yet", "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			nc.Close()
			return nil, nil, err
		}
	}
}

// tenants are the apps of the fleet, each with a channel whose sockets are all on one node.
const tenants = 32

func appID(i int) string { return fmt.Sprintf("tenant-%02d", i) }

func appOf(i int, url string) webhook.App {
	return webhook.App{ID: appID(i), Key: appID(i), Secret: webhook.Secret(fmt.Sprint("secret of ", i)), Webhooks: []webhook.Webhook{{
		URL: url, EventTypes: []webhook.EventType{webhook.TypeMemberAdded, webhook.TypeClientEvent, webhook.TypeMemberRemoved},
	}}}
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
