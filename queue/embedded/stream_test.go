package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// streamState asks the engine itself.
func streamState(t *testing.T, l *Local, name string) jetstream.StreamState {
	t.Helper()
	js, err := jetstream.New(l.nc)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	require.NoError(t, err)
	return stream.CachedInfo().State
}

// publish puts a message into the events' stream past the emitter.
func publish(t *testing.T, l *Local, data string) {
	t.Helper()
	js, err := jetstream.New(l.nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "wh.ev.0", []byte(data))
	require.NoError(t, err)
}

func letters(t *testing.T, l *Local, f queue.DeadFilter) (all []queue.DeadLetter) {
	t.Helper()
	for letter, err := range l.Dead(t.Context(), f) {
		require.NoError(t, err)
		all = append(all, letter)
	}
	return all
}

// A Sender's error may be long, and is stored with each letter.
func TestALettersReasonIsBounded(t *testing.T) {
	t.Parallel()
	cfg := fast(app("app", "http://127.0.0.1:1"))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
		return fmt.Errorf("%s: %w", strings.Repeat("ü", 10_000), webhook.ErrFinal)
	})
	l := open(t, t.TempDir(), cfg)
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	drained(t, l)
	all := letters(t, l, queue.DeadFilter{})
	require.Len(t, all, 1)
	require.Less(t, len(all[0].Reason), 310)
}

func TestPoisonBecomesADeadLetterAndWhatIsBehindItIsDelivered(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	l := open(t, t.TempDir(), fast(app("app", r.URL)))
	large := "\x00" + strings.Repeat("x", 1<<20-10) // as large as a message may be, so a letter cannot hold it
	for _, data := range []string{"\x01garbage", "", "\x00", large} {
		publish(t, l, data)
	}
	require.NoError(t, l.Emit("app", webhook.ChannelOccupied("c")))
	_, err := r.Wait(1, 10*time.Second)
	require.NoError(t, err)
	drained(t, l)
	all := letters(t, l, queue.DeadFilter{Endpoint: "_poison"})
	require.Len(t, all, 4)
	require.Equal(t, "\x01garbage", string(all[0].Raw))
	require.Equal(t, large[:512<<10], string(all[3].Raw))
	require.Contains(t, all[3].Reason, "of its 1048567 bytes")
	require.EqualValues(t, 4, l.Stats().Worker.Poison)
	n, err := l.Replay(t.Context(), queue.DeadFilter{})
	require.NoError(t, err)
	require.Zero(t, n, "it stays")
	_, err = l.PurgeDead(t.Context(), queue.DeadFilter{})
	require.ErrorContains(t, err, "the filter is empty")
	purged, err := l.PurgeDead(t.Context(), queue.DeadFilter{Before: time.Now()})
	require.NoError(t, err)
	require.Equal(t, 4, purged)
	require.Empty(t, letters(t, l, queue.DeadFilter{}))
}

// A letter that cannot be read, or is a newer version's, does not keep others from being replayed.
func TestALetterThatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	r.Answer(410)
	l := open(t, t.TempDir(), fast(app("app", r.URL)))
	js, err := jetstream.New(l.nc)
	require.NoError(t, err)
	for _, data := range []string{"\x02from tomorrow", "\x01garbage"} {
		_, err = js.Publish(t.Context(), "wh.dead.x.y", []byte(data))
		require.NoError(t, err)
	}
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	drained(t, l)
	r.Answer(200)
	n, err := l.Replay(t.Context(), queue.DeadFilter{})
	require.ErrorContains(t, err, "newer version")
	require.Equal(t, 1, n)
	drained(t, l)
	require.Equal(t, 1, len(r.Events()))
	require.EqualValues(t, 2, streamState(t, l, "WH_DEAD").Msgs)
	n, err = l.PurgeDead(t.Context(), queue.DeadFilter{Before: time.Now()})
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

// What is replayed is more than the endpoint has room for, and the endpoint is slow: it gets all of it, in order.
func TestAReplayOfMoreThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	http, err := webhook.NewHTTPSender(webhook.HTTPConfig{})
	require.NoError(t, err)
	t.Cleanup(http.CloseIdleConnections)
	var down atomic.Bool
	down.Store(true)
	cfg := fast(app("app", r.URL))
	cfg.MaxEndpointQueuedBytes = 2 << 20
	cfg.Sender = webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		if down.Load() {
			return webhook.ErrFinal
		}
		sleep(ctx, 50*time.Millisecond)
		return http.Send(ctx, d)
	})
	l := open(t, t.TempDir(), cfg)
	const n = 20_000
	for i := range n {
		require.NoError(t, l.Emit("app", webhook.SubscriptionCount("c", i)))
	}
	require.NoError(t, l.Flush(t.Context()))
	l.worker.Purge("app")
	drained(t, l)
	down.Store(false)
	replayed, err := l.Replay(t.Context(), queue.DeadFilter{App: "app"})
	require.NoError(t, err)
	require.Equal(t, n, replayed)
	drained(t, l)
	require.Empty(t, letters(t, l, queue.DeadFilter{}))
	events := r.Events()
	require.Equal(t, n, len(events))
}

// One app's letters, of whichever endpoints, take a quarter of the store at most, also when they come after a restart:
// others' are kept.
func TestLettersPushOutNobodyElses(t *testing.T) {
	t.Parallel()
	var log logged
	dir, cfg := t.TempDir(), fast(app("victim", "http://127.0.0.1:1"), app("hog", "http://127.0.0.1:1/a", "http://127.0.0.1:1/b"))
	cfg.Engine.MaxDeadBytes, cfg.RetryWaitMin, cfg.RetryWaitMax = 4<<20, time.Millisecond, time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return webhook.ErrFinal })
	data := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	for round := range 4 {
		l := open(t, dir, cfg)
		if round == 0 {
			require.NoError(t, l.EmitDurable(t.Context(), "victim", webhook.ChannelOccupied("c")))
			drained(t, l)
		}
		for i := range 700 {
			require.NoError(t, l.Emit("hog", webhook.ClientEvent("private-c", fmt.Sprint(round, "-", i), data, "1.2", "")))
		}
		require.NoError(t, l.Flush(t.Context()))
		drained(t, l)
		bytes, last := 0, ""
		for _, letter := range letters(t, l, queue.DeadFilter{App: "hog"}) {
			for _, e := range letter.Events {
				bytes, last = bytes+len(e.Data), e.Event
			}
		}
		require.Less(t, bytes, 4<<20/4)
		require.Greater(t, bytes, 4<<20/4/4)
		require.Equal(t, fmt.Sprint(round, "-", 699), last, "the newest are kept")
		require.Len(t, letters(t, l, queue.DeadFilter{App: "victim"}), 1)
		closeNow(t, l)
	}
	require.Contains(t, log.String(), "the older half of them is deleted")
}

func TestANewerVersionStopsTheWorkerAndIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	l := open(t, t.TempDir(), fast(app("app", r.URL)))
	publish(t, l, "\x02from tomorrow")
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	require.True(t, settles(func() bool { return l.Stats().Worker.Err != nil }))
	require.ErrorContains(t, l.Stats().Worker.Err, "newer version")
	require.EqualValues(t, 2, stored(t, l))
	require.Empty(t, r.Events())
	require.Empty(t, letters(t, l, queue.DeadFilter{}))
}

func TestAnAppThatIsGoneHasDeadLetters(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"), app("gone"))
	r.Answer(503)
	dir := t.TempDir()
	l := open(t, dir, fast(app("app", r.URL), app("gone", r.URL)))
	require.NoError(t, l.EmitDurable(t.Context(), "gone", webhook.ChannelOccupied("c")))
	require.True(t, settles(func() bool { return l.Stats().Worker.Pending == 1 })) // read, and noted
	closeNow(t, l)
	cfg := fast(app("app", r.URL))
	cfg.Hooks.Rejected = func(string, webhook.Event, error) { t.Error("it was accepted") }
	l = open(t, dir, cfg)
	drained(t, l)
	all := letters(t, l, queue.DeadFilter{App: "gone", Endpoint: "_unknown"})
	require.Len(t, all, 1)
	require.Equal(t, "c", all[0].Events[0].Channel)

	r.Answer(200)
	require.NoError(t, l.SetApp(t.Context(), app("gone", r.URL)))
	n, err := l.Replay(t.Context(), queue.DeadFilter{App: "gone"})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = r.Wait(1, 10*time.Second)
	require.NoError(t, err)
}

// A server goes on to count what is refused where it did before, in memory.
func TestRejectedIsToldWhatEmitRefuses(t *testing.T) {
	t.Parallel()
	var told []error
	cfg := fast(app("app", "http://127.0.0.1:1"))
	cfg.Hooks.Rejected = func(_ string, _ webhook.Event, err error) { told = append(told, err) }
	l := open(t, t.TempDir(), cfg)
	large := []byte(`"` + strings.Repeat("x", 100<<10) + `"`) // no Dispatcher with this MaxEventBytes takes it later
	for _, err := range []error{
		l.Emit("app", webhook.ClientEvent("private-c", "client-e", large, "1.2", "")), l.Emit("another", webhook.ChannelOccupied("c")), l.Emit("app", webhook.ChannelOccupied("")), l.EmitDurable(t.Context(), "app", webhook.Event{Channel: "c"}),
	} {
		require.Error(t, err)
		require.Equal(t, err, told[0])
		told = told[1:]
	}
	require.NoError(t, l.Emit("app", webhook.ChannelOccupied("c")))
	closeNow(t, l)
	require.ErrorIs(t, l.Emit("app", webhook.ChannelOccupied("c")), webhook.ErrClosed)
	require.ErrorIs(t, told[0], webhook.ErrClosed)
	require.Len(t, told, 1)
}

func TestAppsAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id := `a.*> `
	l := open(t, dir, fast())
	require.NoError(t, l.SetApp(t.Context(), app(id, "http://127.0.0.1:1")))
	require.NoError(t, l.SetApp(t.Context(), app("removed", "http://127.0.0.1:1")))
	require.NoError(t, l.RemoveApp(t.Context(), "removed"))
	closeNow(t, l)
	l = open(t, dir, fast())
	require.True(t, l.Wants(id, webhook.TypeChannelOccupied, "c"))
	require.ErrorIs(t, l.Emit("removed", webhook.ChannelOccupied("c")), webhook.ErrUnknownApp)
	closeNow(t, l)
	l = open(t, dir, fast(app("app", "http://127.0.0.1:1")))
	require.False(t, l.Wants(id, webhook.TypeChannelOccupied, "c"), "cfg.Apps replace those that are stored")
	closeNow(t, l)
	require.NotContains(t, grep(t, dir, "app-secret"), "app-secret", "what Open was given is not stored")
}

// grep returns a secret if a file below dir has it.
func grep(t *testing.T, dir, secret string) (found string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(secret)) {
			found += path + " has " + secret
		}
		return err
	}))
	return found
}

// A member leaves, the process ends, and the member is back within the grace in the next one: neither is sent. Later
// than that, both are.
func TestTheGraceGoesOnAfterTheNextOpen(t *testing.T) {
	for name, test := range map[string]struct {
		away time.Duration
		want []webhook.EventType
	}{
		"back within the grace": {0, nil},
		"back after it":         {1500 * time.Millisecond, []webhook.EventType{webhook.TypeMemberRemoved, webhook.TypeMemberAdded}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receiver(t, app("app"))
			dir, cfg := t.TempDir(), fast(app("app", r.URL))
			cfg.ReconnectGrace = time.Second
			if test.away == 0 {
				cfg.ReconnectGrace = 10 * time.Second
			}
			l := open(t, dir, cfg)
			require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.MemberRemoved("presence-c", "u")))
			require.True(t, settles(func() bool { return l.Stats().Worker.Held == 1 }))
			closeNow(t, l)
			time.Sleep(test.away) // the clock of the engine cannot be moved
			require.Empty(t, r.Events(), "Close does not release it")
			l = open(t, dir, cfg)
			require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.MemberAdded("presence-c", "u")))
			drained(t, l)
			var got []webhook.EventType
			for _, e := range r.Events() {
				got = append(got, e.Name)
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestNoSocketIsOpened(t *testing.T) {
	before := listening(t)
	l := open(t, t.TempDir(), fast(app("app", "http://127.0.0.1:1")))
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	l.engine.mu.Lock()
	addr := l.engine.current.Addr()
	l.engine.mu.Unlock()
	require.Nil(t, addr)
	require.LessOrEqual(t, listening(t), before)
}

// listening counts the TCP sockets of this process that listen, or is 0 where /proc does not tell.
func listening(t *testing.T) (n int) {
	t.Helper()
	own := map[string]bool{}
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.Trim(to[7:], "[]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile("/proc/self/net/" + table)
		for _, line := range strings.Split(string(b), "\n") {
			if fields := strings.Fields(line); len(fields) > 9 && fields[3] == "0A" && own[fields[9]] {
				n++
			}
		}
	}
	return n
}

func TestWhatOpenRefuses(t *testing.T) {
	t.Parallel()
	good := fast(app("app", "http://127.0.0.1:1"))
	for field, change := range map[string]func(*Config){
		"Hooks.GivenUp":    func(c *Config) { c.Hooks.GivenUp = func(*webhook.Delivery, error, func()) {} },
		"MaxBytes":         func(c *Config) { c.Engine.MaxBytes = 1000 },
		"MaxDeadBytes":     func(c *Config) { c.Engine.MaxDeadBytes = 1 << 60 },
		"MaxDeadAge":       func(c *Config) { c.Engine.MaxDeadAge = -1 },
		"MaxBufferedBytes": func(c *Config) { c.Engine.MaxBufferedBytes = 1 },
		"MaxInFlight":      func(c *Config) { c.MaxInFlight = -1 },
	} {
		cfg := good
		change(&cfg)
		dir := t.TempDir()
		_, err := Open(t.Context(), dir, cfg)
		require.ErrorContains(t, err, field)
		closeNow(t, open(t, dir, good)) // and it is not locked
	}
}

// What the store takes up is room that it may take up: limits that fitted fit again when it is full.
func TestLimitsThatFittedFitAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const took = 100 << 20
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "store/msgs"), 0o700))
	f, err := os.Create(filepath.Join(dir, "store/msgs/1.blk"))
	require.NoError(t, err)
	defer f.Close()
	free := freeBytes(dir)
	if free < 0 {
		t.Skip("nobody knows here what is free")
	}
	require.NoError(t, f.Truncate(took)) // takes no blocks, so what is free stays what it was, but for what others do
	require.InDelta(t, free+took, roomBytes(dir), took/2)
}

// The endpoint that gave up is not there any more: nobody else gets what was for it, and it is not lost.
func TestAReplayForAnEndpointThatIsGoneIsADeadLetterAgain(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	r.Answer(410)
	l := open(t, t.TempDir(), fast(app("app", r.URL+"/old")))
	require.NoError(t, l.Emit("app", webhook.ChannelOccupied("c")))
	require.NoError(t, l.Flush(t.Context()))
	drained(t, l)
	first := letters(t, l, queue.DeadFilter{})
	require.Len(t, first, 1)
	r.Answer(200)
	require.NoError(t, l.SetApp(t.Context(), app("app", r.URL+"/new")))
	n, err := l.Replay(t.Context(), queue.DeadFilter{ID: first[0].ID})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	drained(t, l)
	again := letters(t, l, queue.DeadFilter{})
	require.Len(t, again, 1)
	require.Equal(t, first[0].Endpoint, again[0].Endpoint)
	require.Equal(t, first[0].Events, again[0].Events)
	require.Contains(t, again[0].Reason, "no such endpoint")
	require.Empty(t, r.Events())
}

func TestAReplayedEventIsNotHeldAgain(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	r.Answer(410)
	dir, cfg := t.TempDir(), fast(app("app", r.URL))
	cfg.ReconnectGrace = 20 * time.Millisecond
	l := open(t, dir, cfg)
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.MemberRemoved("presence-c", "u")))
	drained(t, l)
	closeNow(t, l)
	r.Answer(200)
	cfg.ReconnectGrace = time.Minute
	l = open(t, dir, cfg)
	n, err := l.Replay(t.Context(), queue.DeadFilter{})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	drained(t, l)
	require.Len(t, r.Events(), 1)
}

// A second worker beside one that is alone is a mistake: the one that was there first notices and stops.
func TestAWorkerWhosePartitionIsTakenStops(t *testing.T) {
	t.Parallel()
	r := receiver(t, app("app"))
	cfg := fast(app("app", r.URL))
	l := open(t, t.TempDir(), cfg)
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 0)))
	drained(t, l)
	second, err := l.queue.NewWorker(queue.WorkerConfig{Config: cfg.Config})
	require.NoError(t, err)
	i := 1
	require.True(t, settles(func() bool {
		require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", i)))
		i++
		return l.Stats().Worker.Err != nil || second.Stats().Err != nil
	}))
	stopped := []error{l.Stats().Worker.Err, second.Stats().Err}
	require.ErrorContains(t, errors.Join(stopped...), "another worker has this partition")
	require.True(t, stopped[0] == nil || stopped[1] == nil, "one goes on")
	require.NoError(t, second.Close(t.Context()))
}

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	var log logged
	cfg := fast(app("app", "http://u:app-secret@127.0.0.1:1/?q=app-secret"))
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir := t.TempDir()
	l := open(t, dir, cfg)
	require.NoError(t, l.SetApp(t.Context(), app("app", "http://u:app-secret@127.0.0.1:1/?q=app-secret")))
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	require.NotContains(t, fmt.Sprintf("%+v %#v %v %+v", l, l, l.worker, l.queue), "app-secret")
	require.ErrorIs(t, l.Emit("none", webhook.ChannelOccupied("c")), webhook.ErrUnknownApp)
	require.EqualValues(t, 1, l.Stats().Emitter.Refused)
	closeNow(t, l)
	require.NotContains(t, log.String(), "app-secret")
	about, err := os.Stat(filepath.Join(dir, "store"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), about.Mode().Perm())
}
