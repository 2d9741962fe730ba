package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/webhooktest"
)

// TestMain runs the package's tests, or is the child that one of them kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBEDDED_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if code == 0 && !settles(func() bool { return runtime.NumGoroutine() <= before+leftByServer }) {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// leftByServer is how many goroutines nats-server's packages keep for the process.
const leftByServer = 3

func settles(condition func() bool) bool {
	for deadline := time.Now().Add(15 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(2 * time.Millisecond) // nothing announces it
	}
	return true
}

func app(id string, urls ...string) webhook.App {
	a := webhook.App{ID: id, Key: id + "-key", Secret: webhook.Secret(id + "-secret")}
	for _, url := range urls {
		a.Webhooks = append(a.Webhooks, webhook.Webhook{URL: url, EventTypes: webhook.EventTypes()})
	}
	return a
}

func fast(apps ...webhook.App) Config {
	return Config{
		Config: webhook.Config{Apps: apps, RetryWaitMin: 20 * time.Millisecond, RetryWaitMax: 50 * time.Millisecond, BatchWindow: 5 * time.Millisecond},
		Engine: EngineConfig{MaxBytes: 64 << 20, MaxDeadBytes: 32 << 20},
	}
}

func open(t *testing.T, dir string, cfg Config) *Local {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := Open(ctx, dir, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = l.Close(ctx) // what it returns is the concern of tests that call it themselves
	})
	return l
}

func closeNow(t *testing.T, l *Local) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(t, l.Close(ctx))
}

func receiver(t *testing.T, apps ...webhook.App) *webhooktest.Receiver {
	r := webhooktest.NewReceiver(apps...)
	t.Cleanup(r.Close)
	return r
}

// drained waits until nothing is stored that has not ended.
func drained(t *testing.T, l *Local) {
	t.Helper()
	require.True(t, settles(func() bool { return stored(t, l) == 0 }), "%d messages are left: %+v", stored(t, l), l.Stats())
}

func stored(t *testing.T, l *Local) uint64 {
	t.Helper()
	return streamState(t, l, "WH_EV").Msgs
}

func TestWhatWasStoredIsDeliveredAfterTheNextOpen(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	r.Answer(503)
	dir, cfg := t.TempDir(), fast(app("app", r.URL))
	cfg.Hooks.Undelivered = func(_ *webhook.Delivery, err error) { t.Error("it is not given up:", err) }
	l := open(t, dir, cfg)
	for i := range 100 {
		require.NoError(t, l.Emit("app", webhook.SubscriptionCount("c", i)))
	}
	require.True(t, settles(func() bool { return l.Stats().Worker.Pending == 100 && len(r.Requests()) > 0 }))
	closeNow(t, l) // with events pending
	require.ErrorIs(t, l.Emit("app", webhook.ChannelOccupied("c")), webhook.ErrClosed)

	r.Answer(200)
	l = open(t, dir, cfg)
	events, err := r.Wait(100, 10*time.Second)
	require.NoError(t, err)
	for i, e := range events[:100] {
		require.Equal(t, i, e.SubscriptionCount)
	}
	drained(t, l)
	require.Len(t, r.Events(), 100)
}

func TestASecondProcessIsLockedOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, fast(app("app", "http://127.0.0.1:1")))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "EMBEDDED_CHILD="+dir, "EMBEDDED_URL=http://127.0.0.1:1", "EMBEDDED_DEAD=http://127.0.0.1:2")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), ErrLocked.Error())
}

// child emits until it is killed, and says what is stored.
func child(dir string) int {
	ctx := context.Background()
	l, err := Open(ctx, dir, fast(app("app", os.Getenv("EMBEDDED_URL"), os.Getenv("EMBEDDED_DEAD"))))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	first := 0
	_, _ = fmt.Sscan(os.Getenv("EMBEDDED_FIRST"), &first)
	var line sync.Mutex
	say := func(channel string, n int) {
		line.Lock()
		defer line.Unlock()
		fmt.Println(channel, n)
	}
	for c := range 4 {
		channel := fmt.Sprint("c", c)
		go func() {
			for n := first; ; n++ {
				err := l.EmitDurable(ctx, "app", webhook.SubscriptionCount(channel, n))
				if err != nil {
					panic(err)
				}
				say(channel, n)
			}
		}()
	}
	for n := first; ; n += 100 {
		for i := range 100 {
			if err := l.Emit("app", webhook.SubscriptionCount("flushed", n+i)); err != nil {
				panic(err)
			}
		}
		if err := l.Flush(ctx); err != nil {
			panic(err)
		}
		say("flushed", n+99)
	}
}

// A child is killed with -9 again and again. What EmitDurable and Flush said was stored is received, in order for each
// channel; some of it twice. Of an endpoint that is gone, each event waits or is a dead letter.
func TestKilledNineTimes(t *testing.T) {
	t.Parallel()
	kills := 9
	if testing.Short() {
		kills = 2
	}
	r, dead := receiver(t, app("app")), receiver(t, app("app"))
	dead.Answer(410) // gives up whatever it is sent
	dir, acked := t.TempDir(), map[string][]int{}
	for run := range kills {
		for channel, n := range killed(t, dir, r.URL, dead.URL, run*1_000_000, time.Duration(150+run*61%200)*time.Millisecond, nil) {
			acked[channel] = append(acked[channel], n)
		}
		if run%3 == 1 { // retries and a line at the endpoint
			r.Fail(5, 503)
		}
	}
	dead.Answer(200)
	l := open(t, dir, fast(app("app", r.URL, dead.URL)))
	drained(t, l)
	lost := map[string]map[int]bool{}
	for _, e := range dead.Events() {
		note(lost, e.Channel, e.SubscriptionCount)
	}
	inLetters := 0
	for _, letter := range letters(t, l, queue.DeadFilter{}) {
		for _, e := range letter.Events {
			note(lost, e.Channel, e.SubscriptionCount)
			inLetters++
		}
	}
	got, duplicates := received(t, r)
	total := 0
	for channel, all := range acked {
		for _, n := range all {
			for i := n / 1_000_000 * 1_000_000; i <= n; i++ {
				require.True(t, got[channel][i], "%s %d was stored and is lost", channel, i)
				require.True(t, lost[channel][i], "%s %d was stored, and the failing endpoint has neither got it nor given it up", channel, i)
				total++
			}
		}
	}
	require.Greater(t, total, kills*20)
	t.Logf("%d kills, %d events acknowledged and received, %d duplicates; %d in dead letters of the other endpoint", kills, total, duplicates, inLetters)
}

// received returns what came on each channel, where a number may come again but not before a smaller one.
func received(t *testing.T, r *webhooktest.Receiver) (got map[string]map[int]bool, duplicates int) {
	t.Helper()
	got = map[string]map[int]bool{}
	last := map[string]int{}
	for _, e := range r.Events() {
		if got[e.Channel] == nil {
			got[e.Channel], last[e.Channel] = map[int]bool{}, -1
		}
		if got[e.Channel][e.SubscriptionCount] {
			duplicates++
			continue
		}
		require.Greater(t, e.SubscriptionCount, last[e.Channel], "out of order on %s", e.Channel)
		got[e.Channel][e.SubscriptionCount], last[e.Channel] = true, e.SubscriptionCount
	}
	return got, duplicates
}

func note(seen map[string]map[int]bool, channel string, n int) {
	if seen[channel] == nil {
		seen[channel] = map[int]bool{}
	}
	seen[channel][n] = true
}

// killed runs a child for some time and returns the last number of each channel that it said was stored. With cut that
// is called before the child is killed, and what it says later does not count.
func killed(t *testing.T, dir, url, dead string, first int, after time.Duration, cut func()) map[string]int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "EMBEDDED_CHILD="+dir, "EMBEDDED_URL="+url, "EMBEDDED_DEAD="+dead, fmt.Sprint("EMBEDDED_FIRST=", first))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var mu sync.Mutex
	last, atCut, began := map[string]int{}, map[string]int(nil), false
	end := func() {
		if cut != nil {
			mu.Lock()
			atCut = maps.Clone(last)
			mu.Unlock()
			cut()
		}
		_ = cmd.Process.Kill()
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var channel string
		n := 0
		if _, err := fmt.Sscan(lines.Text(), &channel, &n); err != nil {
			require.Fail(t, "the child says", lines.Text())
		}
		mu.Lock()
		last[channel] = n
		mu.Unlock()
		if !began {
			began = true
			time.AfterFunc(after, end)
		}
	}
	require.True(t, began, "the child stored nothing")
	require.Error(t, cmd.Wait(), "it was killed")
	if cut != nil {
		return atCut
	}
	return last
}

// A dead endpoint costs what it may hold and no more; others get everything, and what it did not get can be replayed.
func TestADeadEndpoint(t *testing.T) {
	t.Parallel()
	r, dead := receiver(t, app("app")), receiver(t, app("app"))
	dead.Answer(503)
	cfg := fast(app("app", r.URL, dead.URL))
	cfg.MaxEndpointQueuedBytes, cfg.MaxQueuedBytes, cfg.RetryFor = 2<<20, 64<<20, time.Hour
	cfg.Engine.MaxDeadBytes = 512 << 20 // an app has a quarter of it
	cfg.Hooks.Undelivered = func(_ *webhook.Delivery, err error) { t.Error("nothing was given up by an endpoint:", err) }
	l := open(t, t.TempDir(), cfg)
	n := 50_000
	if os.Getenv("EMBEDDED_LONG") != "" {
		n = 1_000_000
	}
	most := int64(0)
	for i := range n {
		require.NoError(t, l.Emit("app", webhook.SubscriptionCount(fmt.Sprint("c", i%10), i)))
		if i%1000 == 999 {
			most = max(most, l.Stats().Worker.PendingBytes)
			require.True(t, settles(func() bool { return l.Stats().Worker.Delivered > uint64(i) }), "the other one keeps up")
		}
	}
	require.Equal(t, n, len(r.Events()))
	require.Less(t, most, int64(32<<20))

	deadID := ""
	for _, s := range l.Endpoints("app") {
		if s.URL == strings.TrimSuffix(dead.URL, "/") && s.Pending > 0 || s.State != webhook.EndpointOK {
			deadID = s.ID
		}
	}
	pending := int(l.Stats().Worker.Pending)
	require.True(t, settles(func() bool { return int(l.Stats().Worker.Dead)+pending == n }), "%+v", l.Stats())
	inLetters, full := 0, queue.DeadFilter{App: "app", Endpoint: deadID}
	for letter, err := range l.Dead(t.Context(), full) {
		require.NoError(t, err)
		require.Contains(t, letter.Reason, "MaxEndpointQueuedBytes")
		inLetters += len(letter.Events)
	}
	require.Equal(t, n-pending, inLetters, "every event is a letter or waits")

	dead.Answer(200)
	l.RetryNow("app")
	drained(t, l)
	require.Equal(t, pending, len(dead.Events()))
	replayed, err := l.Replay(t.Context(), full) // more than there is room for
	require.NoError(t, err)
	require.Equal(t, inLetters, replayed)
	drained(t, l)
	require.Empty(t, letters(t, l, queue.DeadFilter{}))
	last := map[string]int{}
	for _, e := range dead.Events()[pending:] {
		require.GreaterOrEqual(t, e.SubscriptionCount, last[e.Channel], "in order")
		last[e.Channel] = e.SubscriptionCount
	}
	got := map[int]bool{}
	for _, e := range dead.Events() {
		got[e.SubscriptionCount] = true
	}
	require.Equal(t, n, len(got))
	require.Equal(t, n, len(r.Events()), "the other endpoint had them before")
}

func TestWhatIsGivenUpBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	r := receiver(t)
	var sent atomic.Pointer[error]
	cfg := fast(app(`a.*> `, r.URL))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
		if err := sent.Load(); err != nil {
			return *err
		}
		return nil
	})
	final := fmt.Errorf("gone: %w", webhook.ErrFinal)
	sent.Store(&final)
	l := open(t, t.TempDir(), cfg)
	want := webhook.ClientEvent("presence-c", "client-x", []byte(`{"a":"1"}`), "1.2", "u")
	require.NoError(t, l.EmitDurable(t.Context(), `a.*> `, want))
	require.ErrorIs(t, l.Emit("another", want), webhook.ErrUnknownApp)
	drained(t, l)
	var letters []queue.DeadLetter
	for letter, err := range l.Dead(t.Context(), queue.DeadFilter{App: `a.*> `}) {
		require.NoError(t, err)
		letters = append(letters, letter)
	}
	require.Len(t, letters, 1)
	require.Equal(t, `a.*> `, letters[0].App)
	require.Equal(t, "gone: webhook: never to be tried again", letters[0].Reason)
	require.Len(t, letters[0].Events, 1)

	sent.Store(nil)
	n, err := l.Replay(t.Context(), queue.DeadFilter{App: `a.*> `})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	drained(t, l)
	require.EqualValues(t, 1, l.Stats().Worker.Delivered)
	for range l.Dead(t.Context(), queue.DeadFilter{}) {
		require.Fail(t, "no letter is left")
	}
}

func TestTheEngineIsStartedAgain(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	l := open(t, t.TempDir(), fast(app("app", r.URL)))
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 0)))
	for round := range 3 {
		l.engine.mu.Lock()
		running := l.engine.current
		l.engine.mu.Unlock()
		require.NoError(t, running.DisableJetStream())
		for i := range 10 {
			require.NoError(t, l.Emit("app", webhook.SubscriptionCount("c", round*10+i+1)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.NoError(t, l.Flush(ctx))
		require.Equal(t, round+2, l.Stats().Starts)
	}
	events, err := r.Wait(31, 20*time.Second)
	require.NoError(t, err)
	for i, e := range events {
		require.Equal(t, i, e.SubscriptionCount)
	}
	drained(t, l)
}

// A full store refuses, counts that, and drains once its endpoint takes events.
func TestAFullStore(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	r.Answer(503)
	cfg := fast(app("app", r.URL))
	cfg.Engine.MaxBytes, cfg.Engine.MaxBufferedBytes = 1<<20, 600<<10
	l := open(t, t.TempDir(), cfg)
	data := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	accepted := 0
	require.True(t, settles(func() bool {
		err := l.Emit("app", webhook.ClientEvent("private-c", fmt.Sprint("client-", accepted), data, "1.2", ""))
		if err == nil {
			accepted++
			return false
		}
		return errors.Is(err, webhook.ErrQueueFull) && l.Stats().Emitter.Retries > 0
	}))
	s := l.Stats().Emitter
	require.EqualValues(t, accepted, s.Accepted)
	require.Positive(t, s.Refused)
	require.Positive(t, s.Unsynced)
	r.Answer(200)
	events, err := r.Wait(accepted, 30*time.Second)
	require.NoError(t, err)
	for i, e := range events {
		require.Equal(t, fmt.Sprint("client-", i), e.Event)
	}
	drained(t, l)
	require.Zero(t, l.Stats().Emitter.Unsynced)
}

// The record is of another stream, or of one that went on: nothing that was acknowledged is swallowed.
func TestAnotherStreamUnderTheRecord(t *testing.T) {
	t.Parallel()
	streams := func(dir string) string { return filepath.Join(dir, "store", "jetstream", "$G", "streams", "WH_EV") }
	for name, change := range map[string]func(t *testing.T, dir, copied string){
		"recreated": func(t *testing.T, dir, _ string) { require.NoError(t, os.RemoveAll(streams(dir))) },
		"recreated, and grown beyond the record": func(t *testing.T, dir, _ string) {
			require.NoError(t, os.RemoveAll(streams(dir)))
			swallow(t, dir)
		},
		"an older copy": func(t *testing.T, dir, copied string) {
			require.NoError(t, os.RemoveAll(streams(dir)))
			require.NoError(t, os.CopyFS(streams(dir), os.DirFS(copied)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receiver(t, app("app"))
			dir, copied := t.TempDir(), t.TempDir()
			emit := func(first, n int) {
				var log logged
				cfg := fast(app("app", r.URL))
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				l := open(t, dir, cfg)
				for i := first; i < first+n; i++ {
					require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", i)))
				}
				drained(t, l)
				got := map[int]bool{}
				swallowed := 0
				for _, e := range r.Events() {
					if got[e.SubscriptionCount] = true; e.Channel == "swallowed" {
						swallowed++
					}
				}
				for i := range first + n {
					require.True(t, got[i], "%d", i)
				}
				if first == 60 && name == "recreated, and grown beyond the record" {
					require.Equal(t, 100, swallowed)
				}
				rewound := l.Stats().Worker.Rewound
				closeNow(t, l)
				if first == 60 {
					require.EqualValues(t, 1, rewound)
					require.Contains(t, log.String(), "all of it is read again")
				} else {
					require.Zero(t, rewound)
				}
			}
			emit(0, 30)
			require.NoError(t, os.CopyFS(copied, os.DirFS(streams(dir))))
			emit(30, 30)
			change(t, dir, copied)
			emit(60, 30)
		})
	}
}

// swallow stores a hundred events that no worker sees.
func swallow(t *testing.T, dir string) {
	t.Helper()
	e, err := startEngine(t.Context(), dir, 1<<30, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer e.close()
	nc, err := e.connect()
	require.NoError(t, err)
	defer nc.Close()
	q, err := queue.Open(t.Context(), nc, queue.Config{Partitions: 1, MaxBytes: 64 << 20, MaxDeadBytes: 32 << 20})
	require.NoError(t, err)
	emitter, err := q.NewEmitter(queue.EmitterConfig{})
	require.NoError(t, err)
	for i := range 100 {
		require.NoError(t, emitter.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("swallowed", i)))
	}
	require.NoError(t, emitter.Close(t.Context()))
}

// A logged is what was logged.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ io.Writer = (*logged)(nil)

// Whether an event is accepted or refused as closed is decided once: what was accepted is stored.
func TestCloseStoresAllThatWasAccepted(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), fast(app("app", "http://127.0.0.1:1")))
	var accepted atomic.Uint64
	var emitting sync.WaitGroup
	for range 4 {
		emitting.Go(func() {
			for {
				switch err := l.Emit("app", webhook.ChannelOccupied("c")); {
				case errors.Is(err, webhook.ErrClosed):
					return
				case err == nil:
					accepted.Add(1)
				}
			}
		})
	}
	require.True(t, settles(func() bool { return l.Stats().Emitter.Durable > 1000 }))
	closeNow(t, l)
	emitting.Wait()
	require.Equal(t, accepted.Load(), l.Stats().Emitter.Durable)
	require.Zero(t, l.Stats().Emitter.Unsynced)
}

func TestCloseSaysWhatIsNotStored(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), fast(app("app", "http://127.0.0.1:1")))
	l.engine.close() // and nobody starts it again
	for range 10 {
		require.NoError(t, l.Emit("app", webhook.ChannelOccupied("c")))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := l.Close(ctx)
	require.ErrorContains(t, err, "closed before 10 events were stored")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAnEndpointThatHadItDoesNotGetItAgain(t *testing.T) {
	t.Parallel()
	had, down := receiver(t, app("app")), receiver(t, app("app"))
	down.Answer(503)
	dir, cfg := t.TempDir(), fast(app("app", had.URL, down.URL))
	l := open(t, dir, cfg)
	for i := range 50 {
		require.NoError(t, l.Emit("app", webhook.SubscriptionCount("c", i)))
	}
	_, err := had.Wait(50, 10*time.Second)
	require.NoError(t, err)
	closeNow(t, l)
	down.Answer(200)
	l = open(t, dir, cfg)
	drained(t, l)
	require.Len(t, down.Events(), 50)
	require.Len(t, had.Events(), 50)
}

// After a standstill that is longer than RetryFor no event is too old yet.
func TestAfterALongStandstillEventsAreTriedForRetryForAgain(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	r.Answer(503)
	dir, cfg := t.TempDir(), fast(app("app", r.URL))
	l := open(t, dir, cfg)
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	closeNow(t, l)
	time.Sleep(4100 * time.Millisecond) // the clock of the engine cannot be moved
	cfg.RetryFor = 4 * time.Second
	tried := len(r.Requests())
	l = open(t, dir, cfg)
	require.True(t, settles(func() bool { return len(r.Requests()) > tried+4 }))
	r.Answer(200)
	drained(t, l)
	require.Len(t, r.Events(), 1)
	require.Empty(t, letters(t, l, queue.DeadFilter{}))
}

// BenchmarkDeliver emits and waits until everything is delivered by a Sender that accepts at once: what the queue
// itself costs.
func BenchmarkDeliver(b *testing.B) {
	cfg := fast(app("app", "http://127.0.0.1:1"))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })
	e := webhook.ClientEvent("private-channel", "client-event", []byte(`{"some":"data"}`), "1234.5678", "")
	run := func(b *testing.B, emit func(string, webhook.Event) error, delivered func() uint64) {
		b.ResetTimer()
		for range b.N { // and not b.Loop, which stops the clock before what follows
			for errors.Is(emit("app", e), webhook.ErrQueueFull) {
				time.Sleep(100 * time.Microsecond)
			}
		}
		for delivered() < uint64(b.N) {
			time.Sleep(100 * time.Microsecond)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	}
	b.Run("memory", func(b *testing.B) {
		d, err := webhook.New(cfg.Config)
		require.NoError(b, err)
		defer func() { _ = d.Close(context.Background()) }()
		run(b, d.Emit, func() uint64 { return d.Stats().Delivered })
	})
	b.Run("durable", func(b *testing.B) {
		l, err := Open(context.Background(), b.TempDir(), cfg)
		require.NoError(b, err)
		defer func() { _ = l.Close(context.Background()) }()
		run(b, l.Emit, func() uint64 { s := l.Stats().Worker; return s.Delivered + s.Dead })
		b.ReportMetric(float64(l.Stats().Worker.Dead), "dead")
	})
}

// BenchmarkEmitDurable stores one event after the other: what a group, a commit and a sync cost.
func BenchmarkEmitDurable(b *testing.B) {
	cfg := fast(app("app", "http://127.0.0.1:1"))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })
	l, err := Open(context.Background(), b.TempDir(), cfg)
	require.NoError(b, err)
	defer func() { _ = l.Close(context.Background()) }()
	for b.Loop() {
		require.NoError(b, l.EmitDurable(context.Background(), "app", webhook.CacheMiss("cache-c")))
	}
}
