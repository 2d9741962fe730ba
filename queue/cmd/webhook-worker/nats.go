package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook/queue"
)

// A natsServer is where the queue is.
type natsServer struct{ url, creds string }

// flags adds those that say which.
func (s *natsServer) flags(a *arguments) {
	a.StringVar(&s.url, "nats", "", "`URL` of the NATS server, or several with commas: nats://user:password@host:4222, or tls://…\n"+
		"Without the flag NATS_URL in the environment, where ps does not show a password.")
	a.StringVar(&s.creds, "creds", "", "`file` with the NATS user's credentials. Without the flag NATS_CREDS in the environment")
	a.check(func() error {
		if s.url == "" {
			s.url = os.Getenv("NATS_URL")
		}
		if s.creds == "" {
			s.creds = os.Getenv("NATS_CREDS")
		}
		if s.url == "" {
			return errors.New("-nats: is missing; give the URL of a NATS server, such as -nats nats://127.0.0.1:4222, or set NATS_URL")
		}
		if _, err := hosts(s.url); err != nil {
			return err
		}
		if s.creds != "" {
			f, err := os.Open(s.creds)
			if err != nil {
				return fmt.Errorf("-creds: %w", err)
			}
			return f.Close()
		}
		return nil
	})
}

// hosts is what can be said of URLs without telling a password. So errors name the place, and not the text.
func hosts(urls string) (string, error) {
	var all []string
	for i, text := range strings.Split(urls, ",") {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return "", fmt.Errorf("-nats: URL %d is not like nats://user:password@host:4222; in a password, write / as %%2F and so on", i+1)
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return "", fmt.Errorf("-nats: URL %d: begin it with nats://, tls://, ws:// or wss://", i+1)
		}
		all = append(all, u.Scheme+"://"+u.Host)
	}
	return strings.Join(all, ", "), nil
}

// connect connects, for as long as the process lives.
func (s *natsServer) connect(log *slog.Logger) (*nats.Conn, error) {
	where, err := hosts(s.url)
	if err != nil {
		return nil, err
	}
	name, _ := os.Hostname()
	options := []nats.Option{
		nats.Name("webhook-worker " + name),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), // what cannot be said now is said again, see queue
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // else it is closed
				log.Warn("the connection to NATS is lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS again", "server", nc.ConnectedAddr()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS says", "error", err) }),
	}
	if s.creds != "" {
		options = append(options, nats.UserCredentials(s.creds))
	}
	nc, err := nats.Connect(s.url, options...)
	if err != nil {
		return nil, fmt.Errorf("-nats: no connection to %s: %w", where, err)
	}
	return nc, nil
}

// patience is how long a cluster may take to have a leader, and a request to be answered meanwhile.
const (
	patience = 30 * time.Second
	oneTry   = 5 * time.Second
)

// open opens the queue. While a cluster elects a leader nobody answers, so it tries for some time.
func open(ctx context.Context, nc *nats.Conn, cfg queue.Config, log *slog.Logger) (*queue.Queue, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for tries := 0; ; tries++ {
		once, done := context.WithTimeout(ctx, oneTry)
		q, err := queue.Open(once, nc, cfg)
		done()
		if err == nil || !passes(nc, err) || ctx.Err() != nil {
			return q, explained(err)
		}
		if tries == 0 {
			log.Warn("the queue does not answer, tried again", "error", err, "deadline", patience)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, explained(err)
		}
	}
}

// explained adds to an error what to do about it, where that is known.
func explained(err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("-nats: %w: JetStream is not enabled there (nats-server -js), or its cluster has no leader", err)
	}
	return err
}

// openExisting is open for who only looks: a mistaken URL is no reason to make a queue there.
func openExisting(ctx context.Context, s *natsServer, log *slog.Logger) (*nats.Conn, *queue.Queue, error) {
	nc, err := s.connect(log)
	if err != nil {
		return nil, nil, err
	}
	q, err := existing(ctx, nc, log)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, q, nil
}

func existing(ctx context.Context, nc *nats.Conn, log *slog.Logger) (*queue.Queue, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	once, done := context.WithTimeout(ctx, oneTry)
	defer done()
	if _, err := js.Stream(once, "WH_EV"); errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, errors.New("-nats: there is no queue on this server yet; a worker or a server that emits makes it")
	}
	return open(ctx, nc, queue.Config{}, log)
}

// passes reports whether an error may be over in a moment. A lone server has JetStream from its start or never.
func passes(nc *nats.Conn, err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code == 503
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return nc.ConnectedClusterName() != ""
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionReconnecting)
}
