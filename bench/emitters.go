package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/pusherhooks/webhook"
)

// openWebhook opens this library with a Sender that does nothing. It routes, encodes, batches and signs.
func openWebhook(c emitCase) (emitter, error) {
	d, err := webhook.New(webhook.Config{
		Apps:                   emitApps(c),
		MaxQueuedBytes:         4 << 30, // never refuses
		MaxEndpointQueuedBytes: 4 << 30,
		Sender:                 webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil }),
	})
	if err != nil {
		return emitter{}, err
	}
	ids := make([]string, c.Workers)
	for worker := range ids {
		ids[worker] = appID(c.app(worker))
	}
	events := newSource()
	return emitter{
		emit: func(worker, i int) error {
			return d.Emit(ids[worker], webhook.MemberAdded(events.event(i)))
		},
		settle: func() error { return d.Flush(context.Background()) },
		lost: func(int) int {
			s := d.Stats()
			return int(s.Queued - s.Delivered + s.Rejected)
		},
	}, nil
}

func appID(app int) string { return fmt.Sprintf("app-%d", app) }

func emitApps(c emitCase) []webhook.App {
	wanted := webhook.EventType(eventType)
	if c.Type != "" {
		wanted = webhook.EventType(c.Type)
	}
	apps := make([]webhook.App, c.apps())
	for a := range apps {
		apps[a] = webhook.App{ID: appID(a), Key: appKey, Secret: appSecret}
		for endpoint := range c.Copies {
			apps[a].Webhooks = append(apps[a].Webhooks, webhook.Webhook{
				URL:        fmt.Sprintf("http://127.0.0.1/%d", endpoint),
				EventTypes: []webhook.EventType{wanted},
				Filter:     webhook.Filter{ChannelNameStartsWith: c.Filter},
			})
		}
	}
	return apps
}

// floor is what no batcher can do without: a lock and the encoded event.
type floor struct {
	mu  sync.Mutex
	buf []byte
	_   [64]byte // two floors on two cores share no cache line
}

func (f *floor) emit(channel, user string) {
	f.mu.Lock()
	if len(f.buf) > 64<<10 {
		f.buf = f.buf[:0]
	}
	f.buf = appendEvent(f.buf, channel, user)
	f.mu.Unlock()
}

func openFloor(c emitCase) (emitter, error) {
	floors := make([][]floor, c.apps())
	for a := range floors {
		floors[a] = make([]floor, c.Copies)
	}
	events := newSource()
	return emitter{emit: func(worker, i int) error {
		channel, user := events.event(i)
		copies := floors[c.app(worker)]
		for j := range copies {
			copies[j].emit(channel, user)
		}
		return nil
	}}, nil
}
