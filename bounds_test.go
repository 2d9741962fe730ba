package webhook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// heap returns the bytes that are live.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools held goes with the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// dead is a Sender whose endpoints never answer.
func dead(ctx context.Context, _ *webhook.Delivery) error {
	<-ctx.Done()
	return ctx.Err()
}

// One tenant floods a dead endpoint: the heap itself stays within its share, batched or not, with small events
// or large ones; and others go on.
func TestFloodStaysWithinItsShareOfTheHeap(t *testing.T) {
	const share, slack = 4 << 20, 1 << 20
	for _, test := range []struct {
		name   string
		batch  int
		length int
	}{
		{"small events", 0, 20},
		{"large events", 0, 5000},
		{"small events, batching off", 1, 20},
		{"large events, batching off", 1, 5000},
	} {
		t.Run(test.name, func(t *testing.T) {
			sent := &recorder{}
			d := newDispatcher(t, webhook.Config{
				Apps: []webhook.App{testApp("flood", "http://localhost/"), testApp("other", "http://localhost/")}, MaxBatchEvents: test.batch,
				MaxEndpointQueuedBytes: share,
				Sender: webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
					if d.AppID == "other" {
						return sent.Send(ctx, d)
					}
					return dead(ctx, d)
				}),
			})
			channel := strings.Repeat("x", test.length)
			before := heap()
			accepted, full := 0, 0
			for full < 1000 {
				if err := d.Emit("flood", webhook.ChannelOccupied(channel)); err == nil {
					accepted++
				} else {
					require.ErrorIs(t, err, webhook.ErrQueueFull)
					full++
				}
			}
			require.LessOrEqual(t, heap()-before, int64(share+slack))
			require.LessOrEqual(t, d.Stats().PendingBytes, int64(share))
			require.Greater(t, accepted*(len(channel)+40), share/6, "and the share is used: %d events", accepted)
			emit(t, d, "other", webhook.ChannelOccupied("room"))
			require.True(t, settles(func() bool { return len(sent.deliveries()) == 1 }))
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			require.Error(t, d.Close(ctx))
		})
	}
}

func TestFloodOfManyStaysWithinTheWhole(t *testing.T) {
	const whole, slack = 8 << 20, 2 << 20
	cfg := webhook.Config{MaxQueuedBytes: whole, MaxEndpointQueuedBytes: 1 << 20, Sender: webhook.SenderFunc(dead)}
	for i := range 50 {
		cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint(i), "http://localhost/"))
	}
	d := newDispatcher(t, cfg)
	channel := strings.Repeat("x", 1000)
	before := heap()
	var flood sync.WaitGroup
	for i := range 50 {
		flood.Go(func() {
			for range 1000 {
				_ = d.Emit(fmt.Sprint(i), webhook.ChannelOccupied(channel))
				if held := d.Stats().PendingBytes; held > whole {
					t.Errorf("%d bytes pending", held)
				}
			}
		})
	}
	flood.Wait()
	require.Positive(t, d.Stats().Rejected)
	require.LessOrEqual(t, heap()-before, int64(whole+slack))
	require.LessOrEqual(t, d.Stats().PendingBytes, int64(whole))
	require.Greater(t, d.Stats().PendingBytes, int64(whole*9/10))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.Error(t, d.Close(ctx))
}

// Apps and endpoints that are gone leave nothing behind.
func TestAMillionAppsComeAndGo(t *testing.T) {
	d := newDispatcher(t, webhook.Config{Sender: &recorder{}})
	app := testApp("app", "http://localhost/a", "http://localhost/b")
	cycles := 1_000_000
	if webhook.RaceEnabled {
		cycles = 50_000 // the same code, ten times slower
	}
	cycle := func(n int) {
		for i := range n {
			app.ID = fmt.Sprint("app-", i)
			require.NoError(t, d.SetApp(app))
			d.RemoveApp(app.ID)
		}
	}
	cycle(1000)
	before := heap()
	cycle(cycles)
	require.Less(t, heap()-before, int64(1<<20))
}

// Endpoints that were busy and are idle hold no buffers.
func TestIdleEndpointsHoldNoBuffers(t *testing.T) {
	cfg := webhook.Config{Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })}
	const endpoints = 1000
	for i := range endpoints {
		cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint(i), "http://localhost/"))
	}
	d := newDispatcher(t, cfg)
	before := heap()
	for i := range endpoints {
		for range 100 {
			emit(t, d, fmt.Sprint(i), webhook.ChannelOccupied("room"))
		}
	}
	require.NoError(t, d.Flush(t.Context()))
	require.True(t, settles(func() bool { return d.Stats().ActiveEndpoints == 0 }))
	require.LessOrEqual(t, heap()-before, int64(endpoints*1000), "the runtime keeps what its goroutines were; a buffer has 4 KiB and more")
}

// Each delivery has a copy of its app's headers, so they count against the limits: what Close hands back of a customer
// with large headers is bounded as well.
func TestHeadersAreCharged(t *testing.T) {
	cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxEndpointQueuedBytes: 1 << 20}, dead)
	cfg.Apps[0].Webhooks[0].Headers = map[string]string{"Authorization": strings.Repeat("x", 8000)}
	d := newDispatcher(t, cfg)
	for i := range 100_000 {
		if d.Emit("app", webhook.ChannelOccupied(fmt.Sprint("room-", i))) != nil {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var left *webhook.UndeliveredError
	require.ErrorAs(t, d.Close(ctx), &left)
	stored, err := json.Marshal(left.Deliveries)
	require.NoError(t, err)
	require.Less(t, len(stored), 2<<20)
}

// What waits for its turn is memory that is charged, and no goroutine, whether it was emitted or redelivered.
func TestWhatWaitsIsChargedAndHasNoGoroutine(t *testing.T) {
	const webhooks, each, places = 1000, 16, 64
	for name, queue := range map[string]func(d *webhook.Dispatcher, urls []string){
		"emitted": func(d *webhook.Dispatcher, _ []string) {
			for i := range each {
				emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint("room-", i)))
			}
		},
		"redelivered": func(d *webhook.Dispatcher, urls []string) {
			for _, url := range urls {
				for range each {
					require.NoError(t, d.Redeliver(delivery(url)))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var urls []string
			for i := range webhooks {
				urls = append(urls, fmt.Sprintf("http://localhost/%d", i))
			}
			d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", urls...)}, MaxBatchEvents: 1, MaxConcurrent: places,
				Sender: webhook.SenderFunc(dead)})
			goroutines, before := runtime.NumGoroutine(), heapAndStacks()
			queue(d, urls)
			require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+places)
			require.EqualValues(t, webhooks*each, d.Stats().Pending)
			took, charged := heapAndStacks()-before, d.Stats().PendingBytes
			t.Logf("%d bytes, charged %d", took, charged)
			require.LessOrEqual(t, took, charged*5/4)
			d.Purge("app")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = d.Close(ctx)
		})
	}
}

func heapAndStacks() int64 {
	live := heap()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return live + int64(m.StackInuse)
}

// One app may hold seven eighths of the memory, the next as much as it leaves free, and a small one all that is left.
func TestAppsShareTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const whole, slack = 1 << 20, 4 << 10
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("first", "http://localhost/"), testApp("second", "http://localhost/"),
			testApp("small", "http://localhost/")}, MaxQueuedBytes: whole, MaxBatchEvents: 1, Sender: webhook.SenderFunc(dead)})
		fill := func(app string) int64 {
			for d.Emit(app, webhook.ChannelOccupied(strings.Repeat("x", 1000))) == nil {
			}
			return d.Stats().PendingBytes
		}
		require.InDelta(t, whole/8*7, fill("first"), slack)
		require.InDelta(t, whole/16*15, fill("second"), slack)
		require.InDelta(t, whole, fill("small"), slack, "it holds less than 64 KiB")
		for _, app := range []string{"first", "second", "small"} {
			d.Purge(app)
		}
	})
}

// What is kept is charged: stored deliveries with their headers, and lanes.
func TestEverythingPendingIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 7000
		stored := delivery("http://localhost/")
		cfg, _ := oneEndpoint(webhook.Config{}, dead)
		d := newDispatcher(t, cfg)
		charged := func(change func(*webhook.Delivery)) int64 {
			changed := stored.Clone()
			change(changed)
			before := d.Stats().PendingBytes
			require.NoError(t, d.Redeliver(changed))
			return d.Stats().PendingBytes - before
		}
		charged(func(*webhook.Delivery) {}) // and the lane
		plain := charged(func(*webhook.Delivery) {})
		require.GreaterOrEqual(t, charged(func(d *webhook.Delivery) { d.Header.Set("X-Custom", strings.Repeat("x", size)) }), plain) // another endpoint
		require.GreaterOrEqual(t, charged(func(d *webhook.Delivery) { d.Header.Set("X-Custom", strings.Repeat("x", size)) }), plain+size)
		require.GreaterOrEqual(t, charged(func(d *webhook.Delivery) {
			d.Body = []byte(strings.Replace(string(d.Body), "room", strings.Repeat("x", size), 1))
		}), plain+size-4)
		d.Purge("app")
	})
}

// Ten thousand channels that wait in lanes of their own, and buffers that are kept for the next batch, take no more memory
// than they are charged.
func TestLanesAndSparesStayWithinWhatTheyAreCharged(t *testing.T) {
	t.Run("lanes", func(t *testing.T) {
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/")}, BatchWindow: time.Hour, MaxInFlight: 10_000,
			Sender: webhook.SenderFunc(dead)})
		before := heap()
		for i := range 30_000 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		require.LessOrEqual(t, heap()-before, d.Stats().PendingBytes+300_000)
		d.Purge("app")
	})
	t.Run("spares", func(t *testing.T) {
		open := make(gate)
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/")}, Sender: webhook.SenderFunc(open.answer)})
		before := heap()
		for range 2000 {
			emit(t, d, "app", webhook.ChannelOccupied(strings.Repeat("x", 950)))
		}
		for range 7 {
			open <- nil
		}
		require.True(t, settles(func() bool { return d.Stats().Requests == 7 }))
		require.LessOrEqual(t, heap()-before, d.Stats().PendingBytes+300_000)
		close(open)
		require.NoError(t, d.Flush(t.Context()))
	})
}
