package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
	"github.com/nats-io/nats.go"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/webhookprom"
)

// handover is how long a worker has in the end. Requests on the wire take HandoverWait of it at the most.
const handover = 25 * time.Second

// options are the flags of a worker.
type options struct {
	server       natsServer
	apps         appsFile
	metrics      string
	queue        queue.Config
	lease        time.Duration
	batchEvents  int
	pusherTiming bool
	publicOnly   bool
	level        slog.Level
}

func (o *options) parse(args []string, stdout io.Writer) error {
	a := newArguments("webhook-worker", usage)
	o.server.flags(a)
	a.StringVar((*string)(&o.apps), "apps", "", "`file` with a JSON array of apps in soketi's format. It replaces the queue's apps, now and at SIGHUP: start\n"+
		"all workers with the same, or none. Without the flag the apps are those that servers have put into the queue")
	a.StringVar(&o.metrics, "metrics", "", "`address` for /metrics (Prometheus) and /healthz, such as 127.0.0.1:9090. Without the flag there is neither")
	a.DurationVar(&o.lease, "lease", 3*time.Second, "how long a worker may be silent until others take its partitions")
	a.IntVar(&o.queue.Partitions, "partitions", 0, "of a new queue, and fixed then: the most workers that can share it (default 16)")
	a.IntVar(&o.queue.Replicas, "replicas", 0, "servers that each keep a copy (default 3 in a cluster, else 1)")
	a.IntVar(&o.batchEvents, "batch-events", 1000, "most events in a request; 1 sends each on its own")
	a.BoolVar(&o.pusherTiming, "pusher-timing", true, "wait for members and channels that come back, and spare webhooks, as Pusher does")
	a.BoolVar(&o.publicOnly, "public-only", false, "refuse endpoints that are not on the public internet; use it where tenants choose URLs")
	a.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return a.parse(args, stdout)
}

// config is the Dispatcher's.
func (o *options) config(log *slog.Logger, metrics *webhookprom.Metrics) (webhook.Config, error) {
	cfg := webhook.Config{MaxBatchEvents: o.batchEvents, Logger: log, Hooks: metrics.Hooks()}
	if o.pusherTiming {
		cfg = cfg.WithPusherTiming()
	}
	if !o.publicOnly {
		return cfg, nil
	}
	sender, err := webhook.NewHTTPSender(webhook.HTTPConfig{DialControl: ssrf.New(ssrf.WithAnyPort()).Safe})
	cfg.Sender = sender
	return cfg, err
}

// work delivers until ctx ends, and hands over then.
func work(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	if err := o.parse(args, stdout); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP) // from now on: its default would end the process
	defer signal.Stop(again)
	apps, err := o.apps.load()
	if err != nil {
		return err
	}
	listener, err := o.listen()
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	nc, err := o.server.connect(log)
	if err != nil {
		return err
	}
	defer nc.Close()
	q, err := open(ctx, nc, o.queue, log)
	if err != nil {
		return err
	}
	if err := o.apps.put(ctx, q, apps, log); err != nil {
		return err
	}
	return o.deliver(ctx, nc, q, listener, again, log)
}

func (o *options) listen() (net.Listener, error) {
	if o.metrics == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", o.metrics)
	if err != nil {
		return nil, fmt.Errorf("-metrics: %w", err)
	}
	return listener, nil
}

func (o *options) deliver(ctx context.Context, nc *nats.Conn, q *queue.Queue, listener net.Listener, again <-chan os.Signal, log *slog.Logger) error {
	metrics := webhookprom.New(webhookprom.Config{})
	cfg, err := o.config(log, metrics)
	if err != nil {
		return err
	}
	worker, err := q.NewWorker(queue.WorkerConfig{Config: cfg, Lease: o.lease})
	if err != nil {
		return err
	}
	m := monitor{worker, nc}
	if listener != nil {
		defer m.serve(listener, metrics)()
		log.Info("serving /metrics and /healthz", "address", listener.Addr().String())
	}
	var following sync.WaitGroup
	following.Go(func() { o.apps.follow(ctx, q, log, again) })
	log.Info("delivering", "server", nc.ConnectedAddr())
	<-ctx.Done()
	following.Wait()
	log.Info("handing over; a second signal ends the process at once", "deadline", handover)
	limited, cancel := context.WithTimeout(context.Background(), handover)
	defer cancel()
	err = worker.Close(limited)
	s := worker.Stats()
	log.Info("stopped", "read", s.Read, "delivered", s.Delivered, "dead", s.Dead)
	return errors.Join(err, s.Err)
}
