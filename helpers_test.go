package webhook_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

// TestMain fails the package if its tests leave a goroutine or, where /proc tells, a socket behind.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	socketsBefore := sockets()
	code := m.Run()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // which leaves a goroutine of its own
	if code == 0 && !fuzzing && !settles(func() bool { return runtime.NumGoroutine() <= before }) {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	if code == 0 && !settles(func() bool { return sockets() <= socketsBefore }) {
		fmt.Fprintf(os.Stderr, "%d sockets left open\n", sockets()-socketsBefore)
		code = 1
	}
	os.Exit(code)
}

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

// settles waits up to ten seconds for a condition that nothing announces.
func settles(condition func() bool) bool {
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond) // in a bubble this lets everybody else go on
	}
	return true
}

// every asks for all types of events, on all channels.
var every = webhook.EventTypes()

// testApp returns an app with one webhook for every event to each of the URLs.
func testApp(id string, urls ...string) webhook.App {
	app := webhook.App{ID: id, Key: id + "-key", Secret: webhook.Secret(id + "-secret")}
	for _, url := range urls {
		app.Webhooks = append(app.Webhooks, webhook.Webhook{URL: url, EventTypes: every})
	}
	return app
}

// newReceiver starts a receiver that the test's end stops.
func newReceiver(t testing.TB, apps ...webhook.App) *webhooktest.Receiver {
	r := webhooktest.NewReceiver(apps...)
	t.Cleanup(r.Close)
	return r
}

// newDispatcher starts a dispatcher that the test's end closes, with a check of its accounts.
func newDispatcher(t testing.TB, cfg webhook.Config) *webhook.Dispatcher {
	t.Helper()
	d, err := webhook.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = d.Close(ctx) // what it returns is the concern of tests that call it themselves
		checkAccounts(t, d)
	})
	return d
}

// checkAccounts is for a dispatcher at rest: everything queued has ended one way or the other, and nothing of
// it is held.
func checkAccounts(t testing.TB, d *webhook.Dispatcher) {
	t.Helper()
	settles(func() bool { return d.Stats().ActiveEndpoints == 0 }) // a Send that Close has ended may take a moment
	s := d.Stats()
	require.Equal(t, s.Queued, s.Delivered+s.Undelivered+s.Dropped+s.Pending, "%+v", s)
	require.Zero(t, s.Pending, "%+v", s)
	require.Zero(t, s.PendingBytes, "%+v", s)
	require.Zero(t, s.Held, "%+v", s)
	require.Zero(t, s.ActiveEndpoints, "%+v", s)
}

// fast returns cfg with waits of milliseconds.
func fast(cfg webhook.Config) webhook.Config {
	cfg.RetryWaitMin, cfg.RetryWaitMax = 2*time.Millisecond, 10*time.Millisecond
	return cfg
}

// newSender returns a Sender like the default one.
func newSender(t testing.TB, change ...func(*webhook.HTTPConfig)) *webhook.HTTPSender {
	t.Helper()
	cfg := webhook.HTTPConfig{}
	for _, f := range change {
		f(&cfg)
	}
	s, err := webhook.NewHTTPSender(cfg)
	require.NoError(t, err)
	t.Cleanup(s.CloseIdleConnections)
	return s
}

// A recorder is a Sender that keeps what it is given and answers what a test wants.
type recorder struct {
	answer func(ctx context.Context, d *webhook.Delivery) error // nil: accept

	mu   sync.Mutex
	sent []*webhook.Delivery
}

func (r *recorder) Send(ctx context.Context, d *webhook.Delivery) error {
	r.mu.Lock()
	r.sent = append(r.sent, d.Clone())
	r.mu.Unlock()
	if r.answer == nil {
		return nil
	}
	return r.answer(ctx, d)
}

// deliveries returns what was sent so far.
func (r *recorder) deliveries() []*webhook.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*webhook.Delivery(nil), r.sent...)
}

// batches returns the channels of the events of each delivery so far.
func (r *recorder) batches(t testing.TB) [][]string {
	t.Helper()
	var all [][]string
	for _, d := range r.deliveries() {
		all = append(all, channels(t, d.Body))
	}
	return all
}

// An envelope is a body as a receiver reads it.
type envelope struct {
	TimeMS int64               `json:"time_ms"`
	Events []webhooktest.Event `json:"events"`
}

func parse(t testing.TB, body []byte) envelope {
	t.Helper()
	var e envelope
	require.NoError(t, json.Unmarshal(body, &e), "%s", body)
	return e
}

// countsInOrder checks that the subscription counts of each channel arrived as 0, 1, 2, and returns how many each has.
func countsInOrder(t testing.TB, sent *recorder) map[string]int {
	t.Helper()
	next := map[string]int{}
	for _, delivery := range sent.deliveries() {
		for _, e := range parse(t, delivery.Body).Events {
			require.Equal(t, next[e.Channel], e.SubscriptionCount, e.Channel)
			next[e.Channel]++
		}
	}
	return next
}

// channels returns the channels of a body's events, in order.
func channels(t testing.TB, body []byte) []string {
	t.Helper()
	var names []string
	for _, e := range parse(t, body).Events {
		names = append(names, e.Channel)
	}
	return names
}

func emit(t testing.TB, d *webhook.Dispatcher, appID string, events ...webhook.Event) {
	t.Helper()
	for _, e := range events {
		require.NoError(t, d.Emit(appID, e))
	}
}

func closeNow(t testing.TB, d *webhook.Dispatcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, d.Close(ctx))
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}
