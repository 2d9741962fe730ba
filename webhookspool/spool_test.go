package webhookspool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

const patience = 20 * time.Second

// testApp has one webhook, with a header that must not be seen anywhere but on disk and on the wire.
func testApp(id, url string) webhook.App {
	return webhook.App{ID: id, Key: id + "-key", Secret: webhook.Secret(id + "-secret"), Webhooks: []webhook.Webhook{{
		URL: url + "/hooks?token=hidden", EventTypes: []webhook.EventType{webhook.TypeSubscriptionCount},
		Headers: map[string]string{"Authorization": "Bearer hidden"},
	}}}
}

// testConfig sends each event on its own, and tries it once.
func testConfig(apps ...webhook.App) webhook.Config {
	return webhook.Config{Apps: apps, MaxBatchEvents: 1, MaxInFlight: 1, RetryFor: -1, RetryWaitMin: time.Millisecond, RetryWaitMax: time.Millisecond}
}

func open(t *testing.T, dir string, cfg Config) *Spool {
	t.Helper()
	s, err := Open(dir, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.shut() })
	return s
}

func start(t *testing.T, s *Spool, cfg webhook.Config) *webhook.Dispatcher {
	t.Helper()
	cfg.Hooks.Undelivered = s.Undelivered
	d, err := webhook.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = d.Close(ctx)
	})
	require.NoError(t, s.Redeliver(d))
	return d
}

func emit(t *testing.T, d *webhook.Dispatcher, app string, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		require.NoError(t, d.Emit(app, webhook.SubscriptionCount("room", n)))
	}
}

// shutdown closes with so little time that what is pending comes back.
func shutdown(t *testing.T, s *Spool, d *webhook.Dispatcher) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.Close(ctx, d)
}

// delivery makes one that could have come from a dispatcher, with a body of its number and some filler.
func delivery(app, url string, n, filler int) *webhook.Delivery {
	body := fmt.Appendf(nil, `{"time_ms":1700000000000,"events":[{"name":"subscription_count","channel":"room%s","subscription_count":%d}]}`,
		strings.Repeat("-", filler), n)
	return &webhook.Delivery{ID: fmt.Sprint("id-", n), AppID: app, URL: url, Body: body, Events: 1, CreatedAt: time.Now(), Header: http.Header{
		"Content-Type": {"application/json"}, "X-Pusher-Key": {app + "-key"}, "X-Pusher-Signature": {"00"}, "Webhook-Id": {fmt.Sprint("id-", n)},
		"Authorization": {"Bearer hidden"},
	}}
}

func numbers(r *webhooktest.Receiver) (got []int) {
	for _, e := range r.Events() { // each Webhook-Id once
		got = append(got, e.SubscriptionCount)
	}
	return got
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	require.NoError(t, err)
	return paths
}

func asides(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.broken*"))
	require.NoError(t, err)
	return paths
}

// What a process could not deliver, given up early or left at its end, the next one delivers, in order; then it
// leaves the disk. No file can be read by others, and no log line tells what is in it.
func TestUndeliveredIsDeliveredByTheNextProcess(t *testing.T) {
	receiver := webhooktest.NewReceiver()
	defer receiver.Close()
	app := testApp("app", receiver.URL)
	receiver.Accept(app)
	receiver.Answer(http.StatusServiceUnavailable)
	dir := filepath.Join(t.TempDir(), "made", "spool")
	var log bytes.Buffer
	cfg := Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}

	s := open(t, dir, cfg)
	d := start(t, s, testConfig(app))
	emit(t, d, "app", 1, 2, 3)
	require.Eventually(t, func() bool { return s.Stats().Stored == 3 }, patience, time.Millisecond)
	emit(t, d, "app", 4, 5)
	err := shutdown(t, s, d)
	require.ErrorContains(t, err, "are kept in "+dir)
	var undelivered *webhook.UndeliveredError
	require.ErrorAs(t, err, &undelivered)

	for _, path := range append(segments(t, dir), filepath.Join(dir, "lock")) {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
	}
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	receiver.Answer(http.StatusOK)
	s = open(t, dir, cfg)
	d = start(t, s, testConfig(app))
	emit(t, d, "app", 6)
	require.NoError(t, shutdown(t, s, d))
	require.Equal(t, []int{1, 2, 3, 4, 5, 6}, numbers(receiver))
	require.Empty(t, segments(t, dir))
	require.NotContains(t, log.String(), "hidden")
	require.Contains(t, log.String(), "deliveries=5")
}

// Hooks and Close's error tell of the same deliveries: each is stored once.
func TestCloseStoresEachDeliveryOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Config{})
	hung := make(chan struct{})
	cfg := testConfig(testApp("app", "http://127.0.0.1"))
	cfg.Sender = webhook.SenderFunc(func(ctx context.Context, _ *webhook.Delivery) error {
		<-ctx.Done()
		<-hung
		return ctx.Err()
	})
	d := start(t, s, cfg)
	emit(t, d, "app", 1, 2, 3, 4, 5)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Close(ctx, d), "5 deliveries are kept")
	close(hung)
	require.EqualValues(t, 5, s.Stats().Stored)
	require.Zero(t, s.Stats().Lost)
	require.NoError(t, s.Close(t.Context(), d), "a second call does nothing")
}

// While Redeliver's deliveries are on their way their file stays: who dies then sends them once more.
func TestFileStaysUntilAllOfItHasEnded(t *testing.T) {
	receiver := webhooktest.NewReceiver()
	defer receiver.Close()
	app := testApp("app", receiver.URL)
	receiver.Accept(app)
	dir := t.TempDir()
	s := open(t, dir, Config{})
	s.Undelivered(delivery("app", app.Webhooks[0].URL, 1, 0), errors.New("no answer"))
	receiver.Hang()
	start(t, s, testConfig(app))
	require.Eventually(t, func() bool { return len(receiver.Requests()) == 1 }, patience, time.Millisecond)
	require.Len(t, segments(t, dir), 1)
	receiver.Release()
	require.Eventually(t, func() bool { return len(segments(t, dir)) == 0 }, patience, time.Millisecond)
}

// A server that has forgotten the hook loses nothing by it: what was stored stays.
func TestForgottenHook(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	s := open(t, dir, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.Undelivered(delivery("app", "http://127.0.0.1", 1, 0), errors.New("no answer"))
	cfg := testConfig(testApp("app", "http://127.0.0.1"))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return errors.New("no answer") })
	d, err := webhook.New(cfg)
	require.NoError(t, err)
	require.NoError(t, s.Redeliver(d))
	s.waiting.Wait()
	require.Len(t, segments(t, dir), 1)
	require.Contains(t, log.String(), "set Hooks.Undelivered")
	require.NoError(t, shutdown(t, s, d))
}

// What finds no room in the dispatcher's memory stays on disk, and behind it all of its endpoint, for the next call.
func TestNoRoomInTheQueue(t *testing.T) {
	receiver := webhooktest.NewReceiver()
	defer receiver.Close()
	app := testApp("app", receiver.URL)
	receiver.Accept(app)
	dir := t.TempDir()
	s := open(t, dir, Config{})
	var want []int
	for n := range 100 {
		s.Undelivered(delivery("app", app.Webhooks[0].URL, n, 20_000*(n%10/9)), errors.New("no answer")) // small ones could overtake a large one
		want = append(want, n)
	}
	cfg := testConfig(app)
	cfg.MaxEndpointQueuedBytes = 160 << 10
	receiver.Hang()
	d := start(t, s, cfg)
	require.Less(t, s.Stats().Redelivered, uint64(100))
	receiver.Release()
	for i := 0; s.Stats().Redelivered < 100; i++ {
		require.Less(t, i, 20)
		require.NoError(t, d.Flush(t.Context()))
		s.waiting.Wait()
		require.Len(t, segments(t, dir), 1)
		require.NoError(t, s.Redeliver(d))
	}
	require.NoError(t, shutdown(t, s, d))
	require.Equal(t, want, numbers(receiver))
	require.Empty(t, segments(t, dir))
	require.Len(t, receiver.Deliveries(), 100)
	require.Len(t, receiver.Requests(), 100, "and none of them twice")
}

// One app's dead endpoint takes half of the disk at the most, and leaves room for the others. What is lost is said
// and counted.
func TestAnAppHoldsAsMuchAsIsFree(t *testing.T) {
	var log bytes.Buffer
	s := open(t, t.TempDir(), Config{MaxBytes: 100_000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for n := range 1000 {
		s.Undelivered(delivery("noisy", "http://127.0.0.1", n, 100), errors.New("no answer"))
	}
	held := s.Stats().Bytes
	require.InDelta(t, 50_000, held, 1000)
	require.EqualValues(t, 1000, s.Stats().Stored+s.Stats().Lost)
	require.Equal(t, 1, strings.Count(log.String(), "webhook lost"), "a line a second at the most")
	require.Contains(t, log.String(), ErrNoRoom.Error())
	require.NotContains(t, log.String(), "hidden")
	lost := s.Stats().Lost
	for n := range 10 {
		s.Undelivered(delivery("quiet", "http://127.0.0.1", n, 100), errors.New("no answer"))
	}
	require.Equal(t, lost, s.Stats().Lost)
}

// When what was redelivered is given up again and finds no room, its old copy stays; that of other apps does not.
func TestOldCopyStaysIfTheNewOneFindsNoRoom(t *testing.T) {
	receiver := webhooktest.NewReceiver()
	defer receiver.Close()
	dead, well := testApp("dead", receiver.URL), testApp("well", receiver.URL)
	receiver.Accept(well) // and not dead: its signatures are refused
	dir := t.TempDir()
	cfg := Config{MaxBytes: 40_000}
	s := open(t, dir, cfg)
	for n := range 100 {
		s.Undelivered(delivery("dead", dead.Webhooks[0].URL, n, 0), errors.New("no answer"))
	}
	stored := s.Stats().Stored
	require.Less(t, stored, uint64(100))
	s.Undelivered(delivery("well", well.Webhooks[0].URL, 1000, 0), errors.New("no answer"))

	send := testConfig(dead, well)
	sender, err := webhook.NewHTTPSender(webhook.HTTPConfig{})
	require.NoError(t, err)
	send.Sender = webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		if d.AppID == "dead" {
			return errors.New("no answer")
		}
		return sender.Send(ctx, d)
	})
	start(t, s, send)
	require.Eventually(t, func() bool { return len(s.out()) == 0 }, patience, time.Millisecond)
	require.Equal(t, []int{1000}, numbers(receiver))
	require.Positive(t, s.Stats().Lost)
	left := make(map[string]int)
	apps := make(map[string]bool)
	for _, path := range segments(t, dir) {
		for _, d := range read(t, path) {
			left[d.ID]++
			apps[d.AppID] = true
		}
	}
	require.Len(t, left, int(stored))
	require.Equal(t, map[string]bool{"dead": true}, apps)
	require.LessOrEqual(t, s.Stats().Bytes, cfg.MaxBytes)
}

func read(t *testing.T, path string) (deliveries []*webhook.Delivery) {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	_, err = scan(file, func(r record) (bool, error) {
		deliveries = append(deliveries, r.delivery)
		return true, nil
	})
	require.NoError(t, err)
	return deliveries
}

func TestKeep(t *testing.T) {
	refused := &webhook.StatusError{Code: http.StatusBadRequest}
	for _, test := range []struct {
		name string
		keep func(*webhook.Delivery, error) bool
		err  error
		want uint64
	}{
		{"no answer", nil, errors.New("no answer"), 1},
		{"refused", nil, refused, 1},
		{"gone", nil, &webhook.StatusError{Code: http.StatusGone}, 0},
		{"purged", nil, fmt.Errorf("purged: %w", webhook.ErrPurged), 0},
		{"the server's own rule", func(_ *webhook.Delivery, err error) bool { return !errors.Is(err, webhook.ErrRefused) }, refused, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, t.TempDir(), Config{Keep: test.keep})
			s.Undelivered(delivery("app", "http://127.0.0.1", 1, 0), test.err)
			require.Equal(t, test.want, s.Stats().Stored)
		})
	}
}

func TestOldDeliveriesExpire(t *testing.T) {
	receiver := webhooktest.NewReceiver()
	defer receiver.Close()
	app := testApp("app", receiver.URL)
	receiver.Accept(app)
	dir := t.TempDir()
	s := open(t, dir, Config{MaxAge: time.Hour})
	old := delivery("app", app.Webhooks[0].URL, 1, 0)
	old.CreatedAt = time.Now().Add(-time.Hour)
	s.Undelivered(old, errors.New("no answer"))
	s.Undelivered(delivery("app", app.Webhooks[0].URL, 2, 0), errors.New("no answer"))
	d := start(t, s, testConfig(app))
	require.NoError(t, shutdown(t, s, d))
	require.Equal(t, []int{2}, numbers(receiver))
	require.EqualValues(t, 1, s.Stats().Expired)
	require.Empty(t, segments(t, dir))
}

func TestOpenSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Config{})
	_, err := Open(dir, Config{})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, dir)
	require.NoError(t, s.shut())
	open(t, dir, Config{})

	file := filepath.Join(t.TempDir(), "undelivered.json")
	require.NoError(t, os.WriteFile(file, []byte("[]"), 0o600))
	_, err = Open(file, Config{})
	require.ErrorContains(t, err, file+": is a file")
	_, err = Open(filepath.Join(file, "below"), Config{})
	require.ErrorContains(t, err, "name a directory")
	_, err = Open(dir+"2", Config{MaxBytes: -1})
	require.ErrorContains(t, err, "MaxBytes")
}

// Hooks, Redeliver and Stats run at once, and nothing is lost: all that was accepted arrives.
func TestConcurrentUse(t *testing.T) {
	receiver := webhooktest.NewReceiver()
	defer receiver.Close()
	dir := t.TempDir()
	s := open(t, dir, Config{})
	var apps []webhook.App
	for i := range 4 {
		apps = append(apps, testApp(fmt.Sprint("app", i), receiver.URL))
	}
	receiver.Accept(apps[0])
	for _, app := range apps[1:] {
		receiver.Accept(app)
	}
	receiver.Answer(http.StatusServiceUnavailable)
	d := start(t, s, testConfig(apps...))
	var work sync.WaitGroup
	for i, app := range apps {
		work.Go(func() {
			for n := range 50 {
				if err := d.Emit(app.ID, webhook.SubscriptionCount("room", 100*i+n)); err != nil {
					t.Error(err)
				}
			}
		})
		work.Go(func() {
			for range 10 {
				if err := s.Redeliver(d); err != nil {
					t.Error(err)
				}
				_ = s.Stats()
			}
		})
	}
	work.Wait()
	receiver.Answer(http.StatusOK)
	require.Eventually(t, func() bool {
		require.NoError(t, s.Redeliver(d))
		return len(s.out()) == 0 && s.Stats().Bytes == 0 && d.Stats().Pending == 0
	}, patience, 5*time.Millisecond)
	require.NoError(t, shutdown(t, s, d))
	got := make(map[int]bool)
	for _, n := range numbers(receiver) {
		got[n] = true
	}
	require.Len(t, got, 200)
	require.Empty(t, segments(t, dir))
	require.ErrorIs(t, s.Redeliver(d), errClosed)
}
