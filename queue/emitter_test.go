package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// anything has an emitter take events of any app.
func anything(cfg EmitterConfig) EmitterConfig {
	if cfg.Known == nil {
		cfg.Known = func(string) bool { return true }
	}
	if cfg.Wants == nil {
		cfg.Wants = func(string, webhook.EventType, string) bool { return true }
	}
	return cfg
}

// stalled returns an emitter whose engine never answers.
func stalled(t testing.TB, cfg EmitterConfig) *Emitter {
	e, err := (&Queue{partitions: 1}).NewEmitter(anything(cfg))
	require.NoError(t, err)
	e.parts[0].running = true
	t.Cleanup(e.cancel)
	return e
}

func TestEmitDoesNotAllocate(t *testing.T) {
	e := stalled(t, EmitterConfig{})
	for name, ev := range map[string]webhook.Event{"count": webhook.SubscriptionCount("c", 1), "client event": events[0]} {
		require.Zero(t, testing.AllocsPerRun(20_000, func() { // buffers grow, more and more seldom
			if err := e.Emit("app", ev); err != nil {
				t.Error(err)
			}
		}), name)
	}
}

func BenchmarkEmit(b *testing.B) {
	e := stalled(b, EmitterConfig{})
	p := e.parts[0]
	for b.Loop() {
		if e.Emit("app", events[6]) != nil {
			b.Fatal("full")
		}
		if len(p.waiting) > 1 { // as if the first one was stored
			b.StopTimer()
			p.ended(p.next(), 1)
			b.StartTimer()
		}
	}
}

// A timed engine takes a millisecond to store a group, and notes when it was asked to.
type timed struct {
	jetstream.JetStream
	began  time.Time
	groups []storing
}

type storing struct {
	at     time.Duration
	events int
}

func (e *timed) PublishMsg(_ context.Context, msg *nats.Msg, _ ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	g, err := decodeGroup(msg.Data)
	e.groups = append(e.groups, storing{time.Since(e.began), len(g.items)})
	time.Sleep(time.Millisecond)
	return &jetstream.PubAck{}, err
}

func TestGroupsLingerUnlessSomebodyWaits(t *testing.T) {
	const ms = time.Millisecond
	type emit struct {
		at  time.Duration
		n   int
		how func(*Emitter, context.Context) error // waits, if not nil
	}
	one := func(at time.Duration) emit { return emit{at, 1, nil} }
	durably := func(e *Emitter, ctx context.Context) error {
		return e.EmitDurable(ctx, "app", webhook.ChannelOccupied("c"))
	}
	for name, test := range map[string]struct {
		emits []emit
		want  []storing
	}{
		"the first one does not":             {[]emit{one(0)}, []storing{{0, 1}}},
		"what comes meanwhile goes together": {[]emit{one(0), one(2 * ms), one(4 * ms), one(6 * ms)}, []storing{{0, 1}, {5 * ms, 2}, {10 * ms, 1}}},
		"nor does what comes later":          {[]emit{one(0), one(6 * ms)}, []storing{{0, 1}, {6 * ms, 1}}},
		"nor does what is full":              {[]emit{one(0), {2 * ms, maxGroupEvents + 1, nil}}, []storing{{0, 1}, {2 * ms, maxGroupEvents}, {7 * ms, 1}}},
		"nor what EmitDurable waits for":     {[]emit{one(0), {2 * ms, 0, durably}, one(4 * ms)}, []storing{{0, 1}, {2 * ms, 1}, {7 * ms, 1}}},
		"nor what Flush waits for":           {[]emit{one(0), one(2 * ms), {3 * ms, 0, (*Emitter).Flush}, one(5 * ms)}, []storing{{0, 1}, {3 * ms, 1}, {8 * ms, 1}}},
		"nor what Close finds":               {[]emit{one(0), one(2 * ms), {3 * ms, 0, (*Emitter).Close}}, []storing{{0, 1}, {3 * ms, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := &timed{began: time.Now()}
				e, err := (&Queue{js: engine, partitions: 1}).NewEmitter(anything(EmitterConfig{}))
				require.NoError(t, err)
				for _, some := range test.emits {
					time.Sleep(some.at - time.Since(engine.began))
					for range some.n {
						require.NoError(t, e.Emit("app", webhook.ChannelOccupied("c")))
					}
					if some.how != nil {
						require.NoError(t, some.how(e, t.Context()))
					}
				}
				time.Sleep(time.Second)
				require.NoError(t, e.Close(t.Context()))
				require.Equal(t, test.want, engine.groups)
			})
		})
	}
}

// An app that floods leaves room for another; what is refused is counted and holds nothing.
func TestABufferIsShared(t *testing.T) {
	e := stalled(t, EmitterConfig{MaxBufferedBytes: 1 << 20})
	accepted := 0
	var err error
	for ; err == nil; accepted++ {
		err = e.Emit("flood", webhook.ChannelOccupied("c"))
	}
	require.ErrorIs(t, err, webhook.ErrQueueFull)
	require.Less(t, e.Stats().UnsyncedBytes, int64(1<<20)/8*7+1)
	for range 100 {
		require.NoError(t, e.Emit("small", webhook.ChannelOccupied("c")))
	}
	s := e.Stats()
	require.EqualValues(t, accepted-1+100, s.Accepted)
	require.EqualValues(t, 1, s.Refused)
	for p := e.parts[0]; len(p.waiting) > 0; {
		g := p.next()
		require.LessOrEqual(t, g.events, maxGroupEvents, "positions count no further")
		require.LessOrEqual(t, len(g.buf), maxGroupBytes)
		p.ended(g, 1)
	}
	s = e.Stats()
	require.Zero(t, s.UnsyncedBytes)
	require.Equal(t, s.Accepted, s.Durable)
	require.Empty(t, e.parts[0].shares)
}

// What is refused is counted, told to the hook on Emit's goroutine, and logged once a second; a hook that panics
// changes nothing.
func TestWhatEmitRefuses(t *testing.T) {
	var told []string
	var log bytes.Buffer
	e := stalled(t, EmitterConfig{MaxEventBytes: 1000, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Known: func(app string) bool { return app != "unknown" },
		Rejected: func(app string, ev webhook.Event, err error) {
			told = append(told, app+" "+ev.Channel+" "+err.Error())
			panic("in the hook")
		}})
	for _, test := range []struct {
		app   string
		event webhook.Event
		want  error
	}{
		{"app", webhook.Event{Channel: "c"}, webhook.ErrInvalidEvent},
		{"", webhook.ChannelOccupied("c"), webhook.ErrUnknownApp},
		{"unknown", webhook.ChannelOccupied("c"), webhook.ErrUnknownApp},
		{"app", webhook.ChannelOccupied(fmt.Sprintf("%01000d", 1)), webhook.ErrInvalidEvent},
	} {
		err := e.Emit(test.app, test.event)
		require.ErrorIs(t, err, test.want)
		require.Equal(t, test.app+" "+test.event.Channel+" "+err.Error(), told[len(told)-1])
	}
	require.NoError(t, e.Emit("app", webhook.ChannelOccupied("c")))
	require.Len(t, told, 4)
	require.EqualValues(t, 4, e.Stats().Refused)
	require.EqualValues(t, 1, e.Stats().Accepted)
	for e.refusals.writing.Load() {
		runtime.Gosched()
	}
	require.Equal(t, 1, strings.Count(log.String(), "event refused"))
	require.Equal(t, 4, strings.Count(log.String(), "in the hook"))
}

func TestAnEmitterKeepsItsTime(t *testing.T) {
	e := stalled(t, EmitterConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, e.EmitDurable(ctx, "app", webhook.ChannelOccupied("c")), context.DeadlineExceeded)
	require.ErrorIs(t, e.Flush(ctx), context.DeadlineExceeded)
	err := e.Close(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "closed before 1 events were stored")
	require.True(t, errors.Is(e.Emit("app", webhook.ChannelOccupied("c")), webhook.ErrClosed))
}

func TestWhatNobodyWantsIsNotStored(t *testing.T) {
	e := stalled(t, EmitterConfig{Wants: func(_ string, t webhook.EventType, _ string) bool { return t == webhook.TypeCacheMiss }})
	require.NoError(t, e.Emit("app", webhook.ChannelOccupied("c")))
	require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.ChannelOccupied("c")))
	require.Zero(t, e.Stats().Accepted)
	require.NoError(t, e.Emit("app", webhook.CacheMiss("cache-c")))
	require.EqualValues(t, 1, e.Stats().Accepted)
}

func TestAFilterSelectsNoMoreThanItSays(t *testing.T) {
	for _, endpoint := range []string{"*", ">", "a.b", "*.>"} {
		require.Error(t, DeadFilter{Endpoint: endpoint}.validate(), endpoint)
	}
	require.NoError(t, DeadFilter{Endpoint: "_unknown"}.validate())
	require.NotContains(t, DeadFilter{App: "*"}.subject(), "*.")
}
