// Pusher-server is a small Pusher server (protocol 7) with webhooks, built around the webhook library as a
// real one would be. README.md says what is in it and what is not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookprom"
	"github.com/pusherhooks/webhook/webhookspool"
)

type options struct {
	config, listen, state, pusherJS string
	shutdown                        time.Duration
	demo, pusherTiming              bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("pusher-server", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.config, "config", "", "`file` with the apps, in soketi's format")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:6001", "`address` to listen on")
	flags.DurationVar(&o.shutdown, "shutdown", 10*time.Second, "how long a shutdown may take")
	flags.StringVar(&o.state, "state", "undelivered", "`directory` that keeps webhooks which were not delivered")
	flags.BoolVar(&o.pusherTiming, "pusher-timing", true, "wait for members and channels that come back, and spare webhooks, as Pusher does")
	flags.BoolVar(&o.demo, "demo", false, "add a demo app, its backend and a page (the default without -config)")
	flags.StringVar(&o.pusherJS, "pusher-js", "e2e/node_modules/pusher-js/dist/web/pusher.min.js", "`file` with pusher-js, for the demo's page")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.demo = o.demo || o.config == ""
	return o, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pusher-server:", err)
		os.Exit(1)
	}
}

// webhookConfig is all there is to configure in the library: soketi's environment decides about batching, its
// file about the endpoints.
func webhookConfig(apps []app, o options, metrics *webhookprom.Metrics, spool *webhookspool.Spool, log *slog.Logger) (webhook.Config, error) {
	cfg, err := webhook.ConfigFromEnv()
	if err != nil {
		return cfg, err
	}
	if o.pusherTiming {
		cfg = cfg.WithPusherTiming()
	}
	if o.demo && os.Getenv("WEBHOOKS_BATCHING")+os.Getenv("SOKETI_WEBHOOKS_BATCHING") == "" {
		cfg.MaxBatchEvents = 0 // a page about batches should show some
	}
	for _, a := range apps {
		cfg.Apps = append(cfg.Apps, a.App)
	}
	cfg.Logger = log // also says at once when an endpoint is down, and why
	cfg.Hooks = metrics.Hooks(webhook.Hooks{Rejected: logRejected(log), Undelivered: spool.Undelivered})
	return cfg, nil
}

// metricsHandler serves the metrics of one dispatcher and its spool in Prometheus' format.
func metricsHandler(metrics *webhookprom.Metrics, d *webhook.Dispatcher, spool *webhookspool.Spool) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.Collector(d),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "webhook_spool_bytes", Help: "Disk space of undelivered webhooks."},
			func() float64 { return float64(spool.Stats().Bytes) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "webhook_spool_lost_total", Help: "Undelivered webhooks that found no room on disk."},
			func() float64 { return float64(spool.Stats().Lost) }))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// logRejected counts the events that the library had no room for, and logs about them once a second at the
// most and on a goroutine of its own: Emit calls it with a hub's lock held.
func logRejected(log *slog.Logger) func(string, webhook.Event, error) {
	var rejected, logged atomic.Int64
	return func(appID string, e webhook.Event, err error) {
		n, now, last := rejected.Add(1), time.Now().Unix(), logged.Load()
		if now > last && logged.CompareAndSwap(last, now) {
			go log.Error("webhook event rejected", "app", appID, "type", e.Type, "error", err, "so_far", n)
		}
	}
}

// run serves until ctx ends, then shuts down. It returns nil only if every webhook has arrived.
func run(ctx context.Context, o options, log *slog.Logger) (err error) {
	var apps []app
	if o.config != "" {
		if apps, err = loadApps(o.config); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	var demonstration *demo
	if o.demo {
		if demonstration, err = newDemo(o.pusherJS, log); err != nil {
			return err
		}
		defer demonstration.close() // last of all: it is the backend that the webhooks go to
		apps = append(apps, demonstration.app)
		demonstration.routes(mux)
	}
	spool, err := webhookspool.Open(o.state, webhookspool.Config{Logger: log})
	if err != nil {
		return err
	}
	metrics := webhookprom.New(webhookprom.Config{})
	cfg, err := webhookConfig(apps, o, metrics, spool, log)
	if err != nil {
		return errors.Join(err, spool.Close(ctx, nil))
	}
	dispatcher, err := webhook.New(cfg)
	if err != nil {
		return errors.Join(err, spool.Close(ctx, nil))
	}
	s := newServer(apps, dispatcher, log)
	if o.demo {
		demonstration.hub = s.byID[demoID]
	}
	s.routes(mux)
	mux.Handle("GET /metrics", metricsHandler(metrics, dispatcher, spool))
	return s.listenAndServe(ctx, o, mux, dispatcher, spool)
}

func (s *server) listenAndServe(ctx context.Context, o options, handler http.Handler, d *webhook.Dispatcher, spool *webhookspool.Spool) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return errors.Join(err, spool.Close(ctx, d))
	}
	if err := spool.Redeliver(d); err != nil { // before any new event
		s.log.Error("some webhooks of an earlier run are not redelivered", "error", err)
	}
	ctx, stop := context.WithCancel(ctx)
	web := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: callTime,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the demo's streams
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	s.log.Info("listening", "url", "http://"+listener.Addr().String())
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stop()
	s.log.Info("shutting down", "deadline", o.shutdown)
	deadline, cancel := context.WithTimeout(context.Background(), o.shutdown)
	defer cancel()
	s.shutdown(deadline, web)
	err = errors.Join(err, spool.Close(deadline, d)) // waits for the webhooks, those about the sockets too
	stats := d.Stats()
	s.log.Info("stopped", "emitted", stats.Emitted, "delivered", stats.Delivered, "undelivered", stats.Undelivered)
	return err
}

// shutdown stops accepting and turns everybody out, which emits the last events.
func (s *server) shutdown(ctx context.Context, web *http.Server) {
	calls, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	if web.Shutdown(calls) != nil {
		_ = web.Close() // a call that takes so long is cut off
	}
	s.closeSockets()
	_ = s.tracker.Flush(ctx) // if time is up, Hooks.Rejected tells what came too late
}
