package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/queue/embedded"
	"github.com/pusherhooks/webhook/webhookprom"
	"github.com/pusherhooks/webhook/webhookspool"
)

// An emitter takes the server's events. LogValue is what became of them, for the log's last line.
type emitter interface {
	webhook.Emitter
	slog.LogValuer
	collectors(m *webhookprom.Metrics) []prometheus.Collector
	Close(ctx context.Context) error // returns nil only if nothing accepted is lost
}

// spooled is a Dispatcher in memory, with a directory for what it could not deliver.
type spooled struct {
	*webhook.Dispatcher
	spool *webhookspool.Spool
}

func openSpooled(ctx context.Context, dir string, cfg webhook.Config, metrics *webhookprom.Metrics) (emitter, error) {
	spool, err := webhookspool.Open(dir, webhookspool.Config{Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	cfg.Hooks = metrics.Hooks(webhook.Hooks{Undelivered: spool.Undelivered})
	d, err := webhook.New(cfg)
	if err != nil {
		return nil, errors.Join(err, spool.Close(ctx, nil))
	}
	if err := spool.Redeliver(d); err != nil { // before any new event
		cfg.Logger.Error("some webhooks of an earlier run are not redelivered", "error", err)
	}
	return spooled{d, spool}, nil
}

// Close waits for the webhooks, and keeps those that did not arrive.
func (s spooled) Close(ctx context.Context) error { return s.spool.Close(ctx, s.Dispatcher) }

func (s spooled) LogValue() slog.Value {
	stats := s.Stats()
	return slog.GroupValue(slog.Uint64("emitted", stats.Emitted), slog.Uint64("delivered", stats.Delivered), slog.Uint64("undelivered", stats.Undelivered))
}

func (s spooled) collectors(m *webhookprom.Metrics) []prometheus.Collector {
	return []prometheus.Collector{
		m.Collector(s.Dispatcher),
		gauge("webhook_spool_bytes", "Disk space of undelivered webhooks.", func() float64 { return float64(s.spool.Stats().Bytes) }),
		counter("webhook_spool_lost_total", "Undelivered webhooks that found no room on disk.", func() float64 { return float64(s.spool.Stats().Lost) }),
	}
}

// durable is an engine, an emitter and a worker in this process, on a directory.
type durable struct{ *embedded.Local }

// Stats are those of the Dispatcher inside.
func (d durable) Stats() webhook.Stats { return d.Local.Stats().Worker.Stats }

func (d durable) LogValue() slog.Value {
	stats := d.Local.Stats()
	return slog.GroupValue(slog.Uint64("emitted", stats.Emitter.Accepted), slog.Uint64("stored", stats.Emitter.Durable),
		slog.Uint64("delivered", stats.Worker.Delivered), slog.Uint64("dead", stats.Worker.Dead))
}

func (d durable) collectors(m *webhookprom.Metrics) []prometheus.Collector {
	return append(emitterCollectors(func() queue.EmitterStats { return d.Local.Stats().Emitter }),
		m.Collector(d),
		counter("webhook_worker_dead_events_total", "Events given up and stored as dead letters.", func() float64 { return float64(d.Local.Stats().Worker.Dead) }),
		gauge("webhook_worker_up", "1 while webhooks are delivered, 0 if the worker has stopped by itself.", func() float64 {
			if d.Local.Stats().Worker.Err != nil {
				return 0
			}
			return 1
		}),
	)
}

// fleet emits into a queue that many servers share. Its workers are other processes, and deliver.
type fleet struct {
	*queue.Emitter
	nc *nats.Conn
}

// joinFleet makes this server's apps those of the queue: all servers of a fleet have the same.
func joinFleet(ctx context.Context, nc *nats.Conn, q *queue.Queue, cfg webhook.Config) (emitter, error) {
	err := q.ReplaceApps(ctx, cfg.Apps)
	var e *queue.Emitter
	if err == nil {
		e, err = q.NewEmitter(queue.EmitterConfig{Logger: cfg.Logger})
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return fleet{e, nc}, nil
}

// Close returns when all that was accepted is stored.
func (f fleet) Close(ctx context.Context) error {
	defer f.nc.Close()
	return f.Emitter.Close(ctx)
}

func (f fleet) LogValue() slog.Value {
	stats := f.Stats()
	return slog.GroupValue(slog.Uint64("emitted", stats.Accepted), slog.Uint64("stored", stats.Durable))
}

func (f fleet) collectors(*webhookprom.Metrics) []prometheus.Collector {
	return emitterCollectors(f.Stats)
}

// connectError is err without the URL, which may hold a password.
func connectError(err error) error {
	if _, invalid := errors.AsType[*url.Error](err); invalid {
		err = errors.New("not a URL like nats://user:password@host:4222")
	}
	return fmt.Errorf("-nats: %w", err)
}

func emitterCollectors(stats func() queue.EmitterStats) []prometheus.Collector {
	return []prometheus.Collector{
		counter("webhook_emitter_accepted_events_total", "Events accepted.", func() float64 { return float64(stats().Accepted) }),
		counter("webhook_emitter_stored_events_total", "Events stored.", func() float64 { return float64(stats().Durable) }),
		counter("webhook_emitter_refused_events_total", "Events refused.", func() float64 { return float64(stats().Refused) }),
		counter("webhook_emitter_retries_total", "Attempts to store that failed.", func() float64 { return float64(stats().Retries) }),
		gauge("webhook_emitter_unsynced_events", "Events accepted and not stored yet.", func() float64 { return float64(stats().Unsynced) }),
	}
}

func counter(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}
