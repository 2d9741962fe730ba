package webhook_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// Close with a million events pending that nobody takes keeps its time, hands all of them back, and says so in
// one line. A machine that is busy with something else gets another chance, and more time
// by what the events took to emit.
func TestCloseWithAMillionEventsKeepsItsTime(t *testing.T) {
	took, most := time.Hour, 3*time.Second
	for tries := 0; tries < 3 && took >= most; tries++ {
		var emitting time.Duration
		emitting, took = closeWithAMillionEvents(t)
		most = max(most, 5*emitting)
	}
	require.Less(t, took, most)
}

// Close begins early enough to sign and hand back what is pending when its time is up.
func TestCloseLeavesTimeToHandBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 50_000
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxEndpointQueuedBytes: 200 << 20}, nil)
		cfg.Sender = webhook.SenderFunc(dead)
		d := newDispatcher(t, cfg)
		for n := range events {
			emit(t, d, "app", webhook.SubscriptionCount(fmt.Sprint("room-", n%100), n))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		require.Len(t, left.Deliveries, events)
		early := 2*time.Second - time.Since(start)
		require.GreaterOrEqual(t, early, events*2*time.Microsecond, "of the bubble's time, in which signing takes none")
		require.LessOrEqual(t, early, events*10*time.Microsecond)
	})
}

// What Close hands back is what was queued, and a header for each: the bodies are not copied.
func TestCloseCopiesNoBodies(t *testing.T) {
	const events, size = 5000, 10_000
	cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxEndpointQueuedBytes: 200 << 20}, nil)
	cfg.Sender = webhook.SenderFunc(dead)
	d := newDispatcher(t, cfg)
	for range events {
		emit(t, d, "app", webhook.ChannelOccupied(strings.Repeat("x", size)))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var left *webhook.UndeliveredError
	require.ErrorAs(t, d.Close(ctx), &left)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(events*size/5))
	require.Len(t, left.Deliveries, events)
}

// closeWithAMillionEvents returns how long it took to emit them, and how long a Close takes that has two seconds.
func closeWithAMillionEvents(t *testing.T) (emitting, closing time.Duration) {
	events := 1_000_000
	if webhook.RaceEnabled {
		events = 20_000 // the same code, some twenty times slower
	}
	const apps = 20
	var log strings.Builder
	cfg := webhook.Config{
		MaxBatchEvents: 1, MaxQueuedBytes: 1 << 30, MaxEndpointQueuedBytes: 512 << 20,
		Sender: webhook.SenderFunc(dead), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}
	for i := range apps {
		cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint("app-", i), "http://localhost/"))
	}
	d := newDispatcher(t, cfg)
	var emitters sync.WaitGroup
	start := time.Now()
	for i := range apps {
		emitters.Go(func() {
			for n := range events / apps {
				if err := d.Emit(cfg.Apps[i].ID, webhook.SubscriptionCount(fmt.Sprint("room-", n%100), n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	emitters.Wait()
	emitting = time.Since(start)
	require.EqualValues(t, events, d.Stats().Pending)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	start = time.Now()
	err := d.Close(ctx)
	closing = time.Since(start)
	var left *webhook.UndeliveredError
	require.ErrorAs(t, err, &left)
	require.Len(t, left.Deliveries, events)
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "%.1000s", log.String())
	for _, delivery := range left.Deliveries[:100] {
		require.NoError(t, webhook.Verify(delivery.AppID+"-key", webhook.Secret(delivery.AppID+"-secret"), delivery.Header, delivery.Body))
	}
	return emitting, closing
}

// One dead endpoint among many gets a last attempt and is handed back: Close does not wait for its deadline.
func TestCloseDoesNotWaitForEndpointsThatWereFailing(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		hang := func(int, []byte) (int, time.Duration) { return 200, time.Hour }
		for name, h := range map[string]host{"hangs": hang, "fails": func(int, []byte) (int, time.Duration) { return 503, time.Millisecond }} {
			apps := []webhook.App{testApp("bad", "http://"+name+"/")}
			net.set(name, h)
			for i := range 200 {
				id := fmt.Sprint("good", i)
				net.set(id, quick)
				apps = append(apps, testApp(id, "http://"+id+"/"))
			}
			d := newDispatcher(t, webhook.Config{Apps: apps, Sender: net.sender(t)})
			for range 100 {
				emit(t, d, "bad", webhook.ChannelOccupied("room"))
				time.Sleep(time.Second)
			}
			for i := range 200 {
				emit(t, d, fmt.Sprint("good", i), webhook.ChannelOccupied("room"))
			}
			tries := net.count(name)
			start := time.Now()
			var left *webhook.UndeliveredError
			require.ErrorAs(t, d.Close(t.Context()), &left)
			require.LessOrEqual(t, time.Since(start), time.Second+time.Millisecond, name)
			require.LessOrEqual(t, net.count(name), tries+1, "%s: one attempt more at the most", name)
			require.Equal(t, d.Stats().Undelivered, uint64(100))
			require.EqualValues(t, 200, d.Stats().Delivered)
		}
	})
}

// A blip during a shutdown loses nothing that a second later arrives.
func TestCloseRetriesWhatFailsLater(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		net.set("blip", func(n int, _ []byte) (int, time.Duration) {
			if n < 4 {
				return 503, time.Millisecond
			}
			return 200, time.Millisecond
		})
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://blip/")}, Sender: net.sender(t)})
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		require.NoError(t, d.Close(t.Context()))
		require.Equal(t, 4, net.count("blip"))
	})
}

// A request that is on the wire when Close begins may finish.
func TestCloseLetsRequestsFinish(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		net.set("host", sluggish)
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://host/")}, Sender: net.sender(t)})
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		time.Sleep(time.Second)
		start := time.Now()
		require.NoError(t, d.Close(t.Context()))
		require.Equal(t, 9900*time.Millisecond+window-time.Second, time.Since(start))
	})
}
