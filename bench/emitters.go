package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookprom"
)

// openWebhook opens this library with a Sender that does nothing. It routes, encodes, batches and signs.
func openWebhook(c emitCase) (emitter, error) {
	cfg := emitConfig(c)
	if c.Metrics {
		cfg.Hooks = webhookprom.New(webhookprom.Config{}).Hooks()
	}
	d, err := webhook.New(cfg)
	if err != nil {
		return emitter{}, err
	}
	ids := make([]string, c.Workers)
	for worker := range ids {
		ids[worker] = appID(c.app(worker))
	}
	events := newSource()
	e := emitter{
		emit: func(worker, i int) error {
			return d.Emit(ids[worker], webhook.MemberAdded(events.event(i)))
		},
		settle: func() error { return d.Flush(context.Background()) },
		lost:   func(int) int { return unsent(d) },
		prompt: true,
	}
	if c.Burst == 0 {
		e.settle, err = keepBusy(d, &c, &e)
	}
	return e, err
}

func emitConfig(c emitCase) webhook.Config {
	return webhook.Config{
		Apps:                   emitApps(c),
		BatchWindow:            time.Hour, // batches are full, or flushed, however slow the machine is
		MaxQueuedBytes:         4 << 30,   // never refuses
		MaxEndpointQueuedBytes: 4 << 30,
		Sender:                 webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil }),
	}
}

// openDurable opens the same in a directory.
func openDurable(c emitCase) (emitter, error) {
	q, err := queueSpec{Dir: c.Dir}.open(emitConfig(c))
	if err != nil {
		return emitter{}, err
	}
	events, id := newSource(), appID(0)
	return emitter{
		emit:   func(_, i int) error { return q.Emit(id, webhook.MemberAdded(events.event(i))) },
		settle: func() error { return q.await(q.stored().Accepted / 1000 * 1000) },
		prompt: true,
	}, nil
}

// keepBusy puts half a batch into every endpoint. As chunks are whole batches it stays that much for ever, so that the
// next chunk finds an endpoint at work, and not one that has gone to rest and starts anew. It returns a function that
// waits until no more is left.
func keepBusy(d *webhook.Dispatcher, c *emitCase, e *emitter) (settle func() error, err error) {
	const half = 500
	for worker := range c.apps() {
		if err := e.emitSome(worker, half); err != nil {
			return nil, err
		}
	}
	return func() error {
		waitForRoom(d, uint64(half*c.apps()*c.Copies))
		return nil
	}, nil
}

// unsent counts the events that did not arrive, once all were sent.
func unsent(d *webhook.Dispatcher) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = d.Flush(ctx) // what is left is counted
	s := d.Stats()
	return int(s.Queued - s.Delivered + s.Rejected)
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
	return emitter{prompt: true, emit: func(worker, i int) error {
		channel, user := events.event(i)
		copies := floors[c.app(worker)]
		for j := range copies {
			copies[j].emit(channel, user)
		}
		return nil
	}}, nil
}
