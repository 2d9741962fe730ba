package webhook_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// The bench module has the comparisons; these are for benchstat while one works on the library.

// benchDispatcher has apps with one webhook for member_added on presence channels, and a Sender that accepts
// everything.
func benchDispatcher(tb testing.TB, apps, endpoints int) *webhook.Dispatcher {
	cfg := webhook.Config{
		MaxQueuedBytes: 8 << 30, MaxEndpointQueuedBytes: 4 << 30,
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil }),
	}
	for a := range apps {
		app := webhook.App{ID: fmt.Sprint("app-", a), Key: "key", Secret: "secret"}
		for e := range endpoints {
			app.Webhooks = append(app.Webhooks, webhook.Webhook{
				URL: fmt.Sprint("http://localhost/", e), EventTypes: []webhook.EventType{webhook.TypeMemberAdded},
				Filter: webhook.Filter{ChannelNameStartsWith: "presence-"},
			})
		}
		cfg.Apps = append(cfg.Apps, app)
	}
	d, err := webhook.New(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { closeNow(tb, d) })
	return d
}

// benchEvents are strings made at run time, as a server has them.
var benchEvents = map[string]webhook.Event{
	"wanted":   webhook.MemberAdded(fmt.Sprint("presence-room-", 42), fmt.Sprint("user-", 4711)),
	"escaped":  webhook.MemberAdded(fmt.Sprint("presence-\u00e9-", 42), fmt.Sprint("user-", 4711)), // wanted, and not plain ASCII
	"filtered": webhook.MemberAdded(fmt.Sprint("private-room-", 42), fmt.Sprint("user-", 4711)),
	"unwanted": webhook.ChannelVacated(fmt.Sprint("presence-room-", 42)),
}

func BenchmarkEmit(b *testing.B) {
	for _, name := range []string{"wanted", "escaped", "filtered", "unwanted"} {
		b.Run(name, func(b *testing.B) {
			d, e := benchDispatcher(b, 1, 1), benchEvents[name]
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Emit("app-0", e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("10 endpoints", func(b *testing.B) {
		d, e := benchDispatcher(b, 1, 10), benchEvents["wanted"]
		b.ReportAllocs()
		for b.Loop() {
			if err := d.Emit("app-0", e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEmitParallel(b *testing.B) {
	for _, apps := range []int{1, 64} {
		b.Run(fmt.Sprint(apps, " apps"), func(b *testing.B) {
			d, e := benchDispatcher(b, apps, 1), benchEvents["wanted"]
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				id := fmt.Sprint("app-", next.Add(1)%int64(apps))
				for pb.Next() {
					if err := d.Emit(id, e); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// Emit beside rules that are on, but not about the event's type.
func BenchmarkEmitBesideTimingRules(b *testing.B) {
	cfg := webhook.Config{MaxQueuedBytes: 8 << 30, MaxEndpointQueuedBytes: 4 << 30, Apps: []webhook.App{testApp("app", "http://localhost/")},
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })}
	e := webhook.ClientEvent("presence-room", "client-move", []byte(`{"x":1,"y":2}`), "123.456", "user-7")
	for name, cfg := range map[string]webhook.Config{"off": cfg, "on": cfg.WithPusherTiming()} {
		b.Run(name, func(b *testing.B) {
			d, err := webhook.New(cfg)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Emit("app", e); err != nil {
					b.Fatal(err)
				}
			}
			closeNow(b, d)
		})
	}
}

func BenchmarkSetApp(b *testing.B) {
	d, err := webhook.New(webhook.Config{})
	require.NoError(b, err)
	app := testApp("app", "http://localhost/")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		app.ID = fmt.Sprint("app-", i)
		if err := d.SetApp(app); err != nil {
			b.Fatal(err)
		}
	}
	closeNow(b, d)
}

// BenchmarkDeliver sends over loopback; one operation is one event. It is what the defaults were chosen by.
func BenchmarkDeliver(b *testing.B) {
	joined := func(i int) webhook.Event { return webhook.MemberAdded(fmt.Sprint("presence-room-", i), "user-4711") }
	one := func(b *testing.B) []webhook.App { return []webhook.App{testApp("app", newPlainServer(b))} }
	for _, size := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint("batches of ", size), func(b *testing.B) {
			benchDeliver(b, webhook.Config{Apps: one(b), MaxBatchEvents: size, MaxBatchBytes: 4 << 20}, joined)
		})
	}
	for _, kib := range []int{128, 512, 2048} {
		data := fmt.Appendf(nil, "%02000d", 1)
		b.Run(fmt.Sprint("events of 2 KiB, batches of KiB ", kib), func(b *testing.B) {
			benchDeliver(b, webhook.Config{Apps: one(b), MaxBatchBytes: kib << 10}, func(i int) webhook.Event {
				return webhook.ClientEvent(fmt.Sprint("private-room-", i), "client-drawn", data, "", "")
			})
		})
	}
	for _, lanes := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint("batching off, in flight ", lanes), func(b *testing.B) {
			benchDeliver(b, webhook.Config{Apps: one(b), MaxBatchEvents: 1, MaxInFlight: lanes}, joined)
		})
	}
	b.Run("batches of 1000, in flight 4", func(b *testing.B) {
		benchDeliver(b, webhook.Config{Apps: one(b), MaxBatchEvents: 1000, MaxInFlight: 4}, joined)
	})
	for _, places := range []int{64, 256, 2048} {
		b.Run(fmt.Sprint("1000 endpoints that take 10ms, on the wire ", places), func(b *testing.B) {
			cfg := webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1, MaxConcurrent: places}
			slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Millisecond) }))
			b.Cleanup(slow.Close)
			for i := range 1000 {
				cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint("app-", i), slow.URL))
			}
			benchDeliver(b, cfg, joined)
		})
	}
}

func benchDeliver(b *testing.B, cfg webhook.Config, event func(i int) webhook.Event) {
	d, err := webhook.New(cfg)
	require.NoError(b, err)
	var events [64]webhook.Event
	for i := range events {
		events[i] = event(i)
	}
	look := max(64, cfg.MaxBatchEvents)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		for i%look == 0 && behind(d, uint64(64*look)) {
			time.Sleep(100 * time.Microsecond) // the endpoint is the slower one
		}
		if err := d.Emit(cfg.Apps[i%len(cfg.Apps)].ID, events[i%len(events)]); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, d.Flush(b.Context()))
	b.StopTimer()
	b.ReportMetric(float64(d.Stats().Queued)/float64(d.Stats().Requests), "events/request")
	closeNow(b, d)
}

// behind says that a benchmark had better wait for its endpoint.
func behind(d *webhook.Dispatcher, events uint64) bool {
	s := d.Stats()
	return s.Pending > events || s.PendingBytes > 8<<20
}

// Emit allocates nothing: not for an event that is wanted, nor for one that is not.
func TestEmitDoesNotAllocate(t *testing.T) {
	if webhook.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	d := benchDispatcher(t, 1, 1)
	for name, e := range benchEvents {
		require.Zero(t, testing.AllocsPerRun(20_000, func() {
			if err := d.Emit("app-0", e); err != nil {
				t.Error(err)
			}
		}), name)
	}
}
