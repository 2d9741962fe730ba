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

// A durableQueue is an emitter and a worker.
type durableQueue struct {
	*queue.Emitter
	worker func() queue.WorkerStats
	close  func() error
}

// openQueue opens the queue with everything as it comes.
func openQueue(spec queueSpec, cfg webhook.Config) (*durableQueue, error) {
	ctx, cancel := context.WithTimeout(context.Background(), childTime)
	defer cancel()
	if spec.Dir != "" {
		l, err := embedded.Open(ctx, spec.Dir, embedded.Config{Config: cfg})
		if err != nil {
			return nil, err
		}
		return &durableQueue{l.Emitter, func() queue.WorkerStats { return l.Stats().Worker }, func() error { return closing(l.Close) }}, nil
	}
	return openFleet(ctx, spec, cfg)
}

// openFleet opens a node and a worker that have a connection each, as if they were apart.
func openFleet(ctx context.Context, spec queueSpec, cfg webhook.Config) (q *durableQueue, err error) {
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
	return &durableQueue{node, worker.Stats, func() error { return errors.Join(closing(node.Close), closing(worker.Close)) }}, nil
}

func closing(end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return end(ctx)
}

// openDurableSender opens the queue like openWebhookSender its Dispatcher.
func openDurableSender(spec sendSpec) (eventSender, error) {
	q, err := openQueue(spec.Queue, webhook.Config{Apps: []webhook.App{benchApp(spec.URL)}, MaxBatchEvents: spec.Batch})
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
		close: q.close,
	}, nil
}

// await waits until n events were delivered.
func (q *durableQueue) await(n uint64) error {
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
