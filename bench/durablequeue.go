package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/queue/embedded"
)

// A queueSpec says where a durable queue is: in a directory, or on servers.
type queueSpec struct {
	Dir     string
	Servers []string // their URLs
	PIDs    []int    // of the servers, whose CPU time counts
}

// A webhooks is a Dispatcher, in memory or behind a queue.
type webhooks struct {
	webhook.Emitter
	stored func() queue.EmitterStats
	worker func() queue.WorkerStats
	close  func(context.Context) error
}

// open opens the queue with everything as it comes; without any, events stay in memory.
func (spec queueSpec) open(cfg webhook.Config) (*webhooks, error) {
	ctx, cancel := context.WithTimeout(context.Background(), childTime)
	defer cancel()
	switch {
	case spec.Dir != "":
		l, err := embedded.Open(ctx, spec.Dir, embedded.Config{Config: cfg})
		if err != nil {
			return nil, err
		}
		return &webhooks{l, l.Emitter.Stats, func() queue.WorkerStats { return l.Stats().Worker }, l.Close}, nil
	case len(spec.Servers) > 0:
		return spec.openFleet(ctx, cfg)
	}
	d, err := webhook.New(cfg)
	if err != nil {
		return nil, err
	}
	stored := func() (s queue.EmitterStats) {
		s.Accepted = d.Stats().Emitted
		s.Durable = s.Accepted
		return s
	}
	return &webhooks{d, stored, func() queue.WorkerStats { return queue.WorkerStats{Stats: d.Stats()} }, d.Close}, nil
}

// openFleet opens a node and a worker that have a connection each, as if they were apart.
func (spec queueSpec) openFleet(ctx context.Context, cfg webhook.Config) (*webhooks, error) {
	var queues [2]*queue.Queue
	for i := range queues {
		nc, err := nats.Connect(strings.Join(spec.Servers, ","))
		if err != nil {
			return nil, err
		}
		if queues[i], err = queue.Open(ctx, nc, queue.Config{}); err != nil {
			return nil, err
		}
	}
	worker, err := queues[0].NewWorker(ctx, queue.WorkerConfig{Config: cfg})
	if err != nil {
		return nil, err
	}
	node, err := queues[1].NewEmitter(queue.EmitterConfig{})
	if err != nil {
		return nil, err
	}
	return &webhooks{node, node.Stats, worker.Stats, func(ctx context.Context) error {
		return errors.Join(node.Close(ctx), worker.Close(ctx))
	}}, nil
}

// end closes it.
func (q *webhooks) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return q.close(ctx)
}

// openDurableSender opens the queue like openWebhookSender its Dispatcher.
func openDurableSender(spec sendSpec) (eventSender, error) {
	q, err := spec.Queue.open(webhook.Config{Apps: []webhook.App{benchApp(spec.URL)}, MaxBatchEvents: spec.Batch})
	if err != nil {
		return eventSender{}, err
	}
	events, app, emitted := newSource(), appID(0), uint64(0)
	// In memory only what the endpoint has not had waits; here also what is not stored, and what is not read.
	room := uint64(64 * spec.Batch)
	return eventSender{
		send: func(n int) error {
			for i := range n {
				if i%spec.Batch == 0 {
					if err := q.await(emitted - min(emitted, room)); err != nil {
						return err
					}
				}
				if err := q.Emit(app, webhook.MemberAdded(events.event(i))); err != nil {
					return err
				}
				emitted++
			}
			return q.await(emitted)
		},
		close: q.end,
	}, nil
}

// await waits until n events were delivered.
func (q *webhooks) await(n uint64) error {
	for deadline := time.Now().Add(childTime); ; time.Sleep(100 * time.Microsecond) {
		switch s := q.worker(); {
		case s.Err != nil:
			return s.Err
		case s.Delivered >= n:
			return nil
		case s.Dead > 0:
			return fmt.Errorf("%d dead letters", s.Dead)
		case time.Now().After(deadline):
			return fmt.Errorf("%d of %d events delivered", s.Delivered, n)
		}
	}
}

func benchApp(url string) webhook.App {
	return webhook.App{ID: appID(0), Key: appKey, Secret: appSecret, Webhooks: []webhook.Webhook{{
		URL: url, EventTypes: []webhook.EventType{eventType},
	}}}
}
