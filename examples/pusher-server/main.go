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
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/queue/embedded"
	"github.com/pusherhooks/webhook/webhookprom"
)

type options struct {
	config, listen, pusherJS string
	state, durable, nats     string // where webhooks are kept, at most one is set
	shutdown                 time.Duration
	demo, pusherTiming       bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("pusher-server", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.config, "config", "", "`file` with the apps, in soketi's format")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:6001", "`address` to listen on")
	flags.DurationVar(&o.shutdown, "shutdown", 10*time.Second, "how long a shutdown may take")
	flags.StringVar(&o.state, "state", "", "`directory` that keeps webhooks which were not delivered (default \"undelivered\")")
	flags.StringVar(&o.durable, "durable", "", "`directory` that keeps every webhook until it is delivered, whatever happens to the process")
	flags.StringVar(&o.nats, "nats", "", "`URL` of a NATS server with JetStream that keeps every webhook; workers deliver them")
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
	switch {
	case o.durable != "" && o.nats != "":
		return o, errors.New("-durable and -nats: webhooks are kept in one place, leave one of the two out")
	case o.state != "" && o.durable+o.nats != "":
		return o, errors.New("-state: is for webhooks in memory, leave it out with -durable and -nats")
	case o.state == "":
		o.state = "undelivered"
	}
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
func webhookConfig(apps []app, o options, log *slog.Logger) (webhook.Config, error) {
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
	cfg.Logger = log // says at once when an endpoint is down, and why, and when an event is refused
	return cfg, nil
}

// openEmitter opens where the server's events go: durable is one line, and a fleet two. In memory a spool has to
// keep what is not delivered; the others have all of it stored anyway.
func openEmitter(ctx context.Context, o options, cfg webhook.Config, metrics *webhookprom.Metrics) (emitter, error) {
	switch {
	case o.durable != "":
		cfg.Hooks = metrics.Hooks()
		local, err := embedded.Open(ctx, o.durable, embedded.Config{Config: cfg})
		return durable{local}, err
	case o.nats != "":
		nc, err := nats.Connect(o.nats, nats.MaxReconnects(-1)) // the default gives up after two minutes
		if err != nil {
			return nil, connectError(err)
		}
		q, err := queue.Open(ctx, nc, queue.Config{})
		if err != nil {
			nc.Close()
			return nil, err
		}
		return joinFleet(ctx, nc, q, cfg)
	}
	return openSpooled(ctx, o.state, cfg, metrics)
}

// run serves until ctx ends, then shuts down. It returns nil only if every webhook has arrived, or is stored.
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
	cfg, err := webhookConfig(apps, o, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen) // if somebody else has the address, nothing is delivered
	if err != nil {
		return err
	}
	metrics := webhookprom.New(webhookprom.Config{})
	out, err := openEmitter(ctx, o, cfg, metrics)
	if err != nil {
		_ = listener.Close()
		return err
	}
	s := newServer(apps, out, log)
	if o.demo {
		demonstration.hub = s.byID[demoID]
	}
	s.routes(mux)
	registry := prometheus.NewRegistry()
	registry.MustRegister(out.collectors(metrics)...)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return s.serve(ctx, listener, mux, out, o.shutdown)
}

// serve serves until ctx ends, and closes out in the end.
func (s *server) serve(ctx context.Context, listener net.Listener, handler http.Handler, out emitter, patience time.Duration) (err error) {
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
	s.log.Info("shutting down", "deadline", patience)
	deadline, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.shutdown(deadline, web)
	err = errors.Join(err, out.Close(deadline)) // with what the sockets' end has emitted
	s.log.Info("stopped", "webhooks", out)
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
	_ = s.tracker.Flush(ctx) // if time is up, what came too late is rejected
}
