package webhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A canaryLog collects everything that the library says anywhere.
type canaryLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *canaryLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *canaryLog) note(values ...any) {
	for _, v := range values {
		fmt.Fprintf(l, "%v %+v %#v %s %q\n", v, v, v, v, v)
	}
}

func (l *canaryLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A secret, a password in a URL, a token in a query and an Authorization header appear in no log line at any
// level, no error, nothing that a hook is told as text and no JSON of an App, whatever goes wrong.
func TestCanaries(t *testing.T) {
	var said canaryLog
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, refusing.Close()) // a port where nobody listens
	failing := newEndpoint(t, func(c net.Conn, n int64) bool {
		switch n % 4 {
		case 0:
			return reset(c)
		case 1:
			return say(c, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
		case 2:
			return say(c, "HTTP/1.1 302 Found\r\nLocation: http://user:CANARY@[::bad/?CANARY\r\nContent-Length: 6\r\n\r\nanswer")
		}
		return say(c, "gibberish CANARY\r\n\r\n") && false
	})
	hosts := []string{refusing.Addr().String(), failing.url[len("http://") : len(failing.url)-1], "name.invalid"}

	logger := slog.New(slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := newSender(t, func(c *webhook.HTTPConfig) {
		c.Timeout = time.Second
		transport := webhook.NewTransport(*c)
		dialer := &net.Dialer{Resolver: brokenResolver(t, true)}
		transport.DialContext = dialer.DialContext
		c.Transport = transport
	})
	var sends atomic.Int64
	cfg := webhook.Config{MaxBatchEvents: 1, Logger: logger, RetryFor: -1, Sender: webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		if sends.Add(1) == 2 {
			panic(fmt.Sprint(d)) // what a careless Sender may say
		}
		return s.Send(ctx, d)
	})}
	cfg.Hooks = webhook.Hooks{
		Attempt:     func(d *webhook.Delivery, a webhook.Attempt) { said.note(d, *d, a, a.Err) },
		Endpoint:    func(s webhook.EndpointStatus) { said.note(s) },
		Delivered:   func(d *webhook.Delivery, _ time.Duration) { said.note(d, *d) },
		Undelivered: func(d *webhook.Delivery, err error) { said.note(d, *d, err) },
		Rejected:    func(app string, e webhook.Event, err error) { said.note(app, e, err) },
	}
	app := webhook.App{ID: "app", Key: "app-key", Secret: "CANARY"}
	for _, host := range hosts {
		app.Webhooks = append(app.Webhooks, webhook.Webhook{
			URL: "http://user:CANARY@" + host + "/hook?token=CANARY#CANARY", EventTypes: every,
			Headers: map[string]string{"Authorization": "Bearer CANARY"},
		})
	}
	cfg.MaxInFlight = 1
	cfg.Apps = []webhook.App{app}
	d := newDispatcher(t, fast(cfg))
	for range 4 {
		_ = d.Emit("app", webhook.ChannelOccupied("room"))
		require.NoError(t, d.Flush(t.Context()))
	}
	_ = d.Emit("app", webhook.ChannelOccupied(""))
	_ = d.Emit("nobody", webhook.ChannelOccupied("room"))

	bad := app
	bad.Webhooks = append([]webhook.Webhook{}, app.Webhooks...)
	bad.Webhooks[0].URL = "ftp://user:CANARY@localhost/?CANARY"
	bad.Webhooks[1].URL = "http://user:CANARY/@localhost:CANARY/?CANARY"
	bad.Webhooks[2].Headers = map[string]string{"Authorization": "Bearer CANARY\n"}
	said.note(d.SetApp(bad), app, &app, d.Stats(), d, d.Endpoints("app"))
	asJSON, err := json.Marshal(app)
	require.NoError(t, err)
	said.note(string(asJSON))

	emit(t, d, "app", webhook.ChannelOccupied("room"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = d.Close(ctx)
	var left *webhook.UndeliveredError
	require.True(t, errors.As(err, &left))
	said.note(err, left, left.Deliveries)
	said.note(s.Send(t.Context(), &webhook.Delivery{URL: "http://user:CANARY@" + hosts[0] + "/?CANARY", Header: http.Header{"Bad\nName": {"CANARY"}}}))

	if before, after, found := strings.Cut(said.String(), "CANARY"); found {
		t.Fatalf("…%sCANARY%s…", before[max(0, len(before)-200):], after[:min(len(after), 50)])
	}
	for _, want := range []string{"refused", "500", "302", "malformed HTTP status code [redacted]", "no such host", "webhook undelivered", "panic", "webhook attempt", "webhook endpoint is failing"} {
		require.Contains(t, said.String(), want, "or the test has not seen this case")
	}
}
