package h2test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// timeout is HTTPConfig.Timeout in these tests. Pings and write timeouts are parts of it.
const timeout = 500 * time.Millisecond

// newSender returns one that speaks HTTP/2.
func newSender(t *testing.T) *webhook.HTTPSender {
	t.Helper()
	s, err := webhook.NewHTTPSender(webhook.HTTPConfig{HTTP2: true, TLS: &tls.Config{RootCAs: identity.roots}, Timeout: timeout})
	require.NoError(t, err)
	t.Cleanup(s.CloseIdleConnections)
	return s
}

// newDispatcher starts one whose sender speaks HTTP/2, unless cfg has another, and that sends each event by itself.
func newDispatcher(t *testing.T, cfg webhook.Config) *webhook.Dispatcher {
	t.Helper()
	if cfg.Sender == nil {
		cfg.Sender = newSender(t)
	}
	cfg.MaxBatchEvents, cfg.MaxInFlight = 1, 1
	cfg.MaxEventBytes = 1 << 20
	d, err := webhook.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = d.Close(ctx)
		settles(t, "the dispatcher ends", func() bool { return d.Stats().ActiveEndpoints == 0 })
	})
	return d
}

// testApp returns an app with one webhook for every event.
func testApp(id, url string) webhook.App {
	return webhook.App{ID: id, Key: id + "-key", Secret: webhook.Secret(id + "-secret"),
		Webhooks: []webhook.Webhook{{URL: url, EventTypes: webhook.EventTypes()}}}
}

// apps returns n apps, each with a path of its own on one host.
func apps(n int, url string) (all []webhook.App) {
	for i := range n {
		all = append(all, testApp(fmt.Sprint("app", i), fmt.Sprint(url, "/", i)))
	}
	return all
}

// large is an event that no window of a server here holds.
var large = webhook.ClientEvent("private-room", "client-large", []byte(`"`+strings.Repeat("x", 500_000)+`"`), "", "")

var small = webhook.ChannelOccupied("room")

// sockets counts the process's open sockets, or returns 0 where /proc does not tell.
func sockets() (n int) {
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// heap returns the bytes that are live.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools held goes with the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// settles waits up to ten seconds for a condition that nothing announces, and returns how long it took.
func settles(t *testing.T, what string, condition func() bool) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		switch took := time.Since(start); {
		case condition():
			return took
		case took > 10*time.Second:
			require.Fail(t, "not within ten seconds: "+what)
		}
	}
}
