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
	Workers int      // if there are servers
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

// openFleet opens a node and workers that have a connection each, as if they were apart.
func (spec queueSpec) openFleet(ctx context.Context, cfg webhook.Config) (*webhooks, error) {
	q, err := spec.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := q.ReplaceApps(ctx, cfg.Apps); err != nil {
		return nil, err
	}
	cfg.Apps = nil
	node, err := q.NewEmitter(queue.EmitterConfig{})
	if err != nil {
		return nil, err
	}
	workers := make([]*queue.Worker, spec.Workers)
	for i := range workers {
		if q, err = spec.connect(ctx); err != nil {
			return nil, err
		}
		if workers[i], err = q.NewWorker(queue.WorkerConfig{Config: cfg}); err != nil {
			return nil, err
		}
	}
	if err := shared(workers); err != nil {
		return nil, err
	}
	sum := func() (all queue.WorkerStats) {
		for _, w := range workers {
			s := w.Stats()
			all.Delivered += s.Delivered
			all.Dead += s.Dead
			all.Err = errors.Join(all.Err, s.Err)
		}
		return all
	}
	return &webhooks{node, node.Stats, sum, func(ctx context.Context) error {
		err := node.Close(ctx)
		for _, w := range workers {
			err = errors.Join(err, w.Close(ctx))
		}
		return err
	}}, nil
}

// shared waits until each worker has its share of the partitions.
func shared(workers []*queue.Worker) error {
	const partitions = 16 // as by default
	for _, w := range workers {
		for deadline := time.Now().Add(time.Minute); len(w.Partitions()) != partitions/len(workers); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("a worker has %d of %d partitions", len(w.Partitions()), partitions)
			}
		}
	}
	return nil
}

func (spec queueSpec) connect(ctx context.Context) (*queue.Queue, error) {
	nc, err := nats.Connect(strings.Join(spec.Servers, ","))
	if err != nil {
		return nil, err
	}
	return queue.Open(ctx, nc, queue.Config{})
}

// end closes it.
func (q *webhooks) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return q.close(ctx)
}

// openDurableSender opens the queue like openWebhookSender its Dispatcher.
func openDurableSender(spec sendSpec) (eventSender, error) {
	apps := benchApps(max(1, spec.Apps), spec.URL)
	q, err := spec.Queue.open(webhook.Config{Apps: apps, MaxBatchEvents: spec.Batch})
	if err != nil {
		return eventSender{}, err
	}
	events, emitted := newSource(), uint64(0)
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
				app := &apps[i/spec.Batch%len(apps)] // whole batches, so that none waits for its window to end
				if err := q.Emit(app.ID, webhook.MemberAdded(events.event(i))); err != nil {
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

// benchApps have a webhook each.
func benchApps(n int, url string) []webhook.App {
	apps := make([]webhook.App, n)
	for i := range apps {
		apps[i] = webhook.App{ID: appID(i), Key: appKey, Secret: appSecret, Webhooks: []webhook.Webhook{{
			URL: url, EventTypes: []webhook.EventType{eventType},
		}}}
	}
	return apps
}
