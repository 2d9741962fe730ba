package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// What one tenant, or many, can do to the others: nothing. 50 tenants answer in 5 ms and 20 in 600 ms; beside them
// somebody misbehaves in every way that an audit came up with.

func TestNobodyWaitsForOthers(t *testing.T) {
	for name, misbehave := range map[string]func(*town){
		"nobody": func(*town) {},
		"one app, 5 000 webhooks that answer after 9.9 s": func(town *town) { town.hog("bad", 5000, sluggish, 2*time.Second) },
		"one app, 320 webhooks that answer after 9.9 s":   func(town *town) { town.hog("bad", 320, sluggish, time.Second) },
		"one app, 320 webhooks whose answers drip":        func(town *town) { town.hog("drip", 320, quick, 100*time.Millisecond) },
		"1 000 apps that answer after 9.9 s":              func(town *town) { town.settle("bad", 1000, sluggish, 2*time.Second) },
		"1 000 apps that answer and hang in turns":        func(town *town) { town.settle("bad", 1000, inTurns, 500*time.Millisecond) },
		"2 000 hanging apps":                              func(town *town) { town.settle("bad", 2000, nil, 2*time.Second) },
		"300 apps that answer after 400 ms":               func(town *town) { town.settle("bad", 300, unhurried, 300*time.Millisecond) },
		"1 000 apps that answer after 400 ms":             func(town *town) { town.settle("bad", 1000, unhurried, 300*time.Millisecond) },
		"one app, new hanging URLs all the time":          func(town *town) { town.churn("bad", 100, 500*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				town := newTown(t, webhook.Config{})
				defer town.close()
				town.settle("good", 50, quick, 100*time.Millisecond)
				town.settle("slow", 20, leisurely, 2*time.Second)
				time.Sleep(5 * time.Second)
				misbehave(town)
				time.Sleep(15 * time.Second)
				town.forget()
				time.Sleep(shorten(30*time.Second, 3))
				town.requireHealthy()
			})
		})
	}
}

// hog is one app with many webhooks.
func (town *town) hog(id string, webhooks int, h host, every time.Duration) {
	town.add(id, webhooks, h)
	town.emitEvery(id, every, 0)
}

// add adds an app with some webhooks of a kind.
func (town *town) add(id string, webhooks int, h host) {
	var urls []string
	for i := range webhooks {
		name := fmt.Sprint(id, i)
		town.net.set(name, h)
		urls = append(urls, "http://"+name+"/")
	}
	require.NoError(town.t, town.d.SetApp(testApp(id, urls...)))
}

// emit emits events of an app at once.
func (town *town) emit(id string, events int) {
	for range events {
		emit(town.t, town.d, id, webhook.ChannelOccupied("room"))
	}
}

// churn is one app whose webhooks are edited all the time, to URLs that hang.
func (town *town) churn(id string, webhooks int, every time.Duration) {
	town.emitters.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-town.stop:
				return
			case <-time.After(every):
			}
			var urls []string
			for i := range webhooks {
				urls = append(urls, fmt.Sprintf("http://%s-%d-%d/", id, round, i))
			}
			if err := town.d.SetApp(testApp(id, urls...)); err != nil {
				town.t.Error(err)
			}
			_ = town.d.Emit(id, webhook.ChannelOccupied("room"))
		}
	})
}

func TestUnbatchedHogHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxBatchEvents: 1, MaxConcurrent: 256}) // fewer than it would take
		town.settle("good", 50, quick, 100*time.Millisecond)
		town.settle("slow", 20, leisurely, 2*time.Second)
		town.hog("bad", 20, sluggish, 20*time.Millisecond)
		time.Sleep(shorten(time.Minute, 3))
		town.requireHealthy()
		town.close()
	})
}

// New tenants find a place although somebody adds endpoints that hang all the time.
func TestNewTenantsBesideChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 256}) // and as many hang after five seconds
		town.churn("bad", 25, 500*time.Millisecond)
		time.Sleep(shorten(time.Minute, 4))
		town.settle("new", 20, quick, time.Second)
		time.Sleep(10 * time.Second)
		town.require("new", 200*time.Millisecond, time.Second)
		town.close()
	})
}

func TestRestartBeside2000HangingEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{})
		town.settle("bad", 2000, nil, 2*time.Second)
		town.settle("good", 50, quick, time.Second)
		town.settle("slow", 20, leisurely, 2*time.Second)
		time.Sleep(30 * time.Second)
		for kind, n := range map[string]int{"good": 50, "slow": 20} {
			for i := range n {
				at := town.firstOf(fmt.Sprint(kind, i))
				require.Positive(t, at, "delivered")
				require.Less(t, at, 12*time.Second, "%s%d", kind, i)
			}
		}
		town.close()
	})
}

// 1 000 stored deliveries for endpoints that hang take nobody's place.
func TestRedeliveriesForDeadEndpointsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 256})
		town.settle("good", 50, quick, 100*time.Millisecond)
		town.settle("slow", 20, leisurely, 2*time.Second)
		time.Sleep(5 * time.Second)
		town.forget()
		for i := range 1000 {
			require.NoError(t, town.d.Redeliver(delivery(fmt.Sprintf("http://dead%d/", i))))
		}
		time.Sleep(shorten(time.Minute, 3))
		town.require("good", 200*time.Millisecond, 2*time.Second)
		town.require("slow", time.Second, 2*time.Second)
		town.close()
	})
}

// Endpoints that have answered at once so far and all hang from one moment on take the places of the young for half a second.
func TestProvenEndpointsThatHangAtOnce(t *testing.T) {
	for _, places := range []int{64, 2048} {
		t.Run(fmt.Sprint(places), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				town := newTown(t, webhook.Config{MaxConcurrent: places})
				town.settle("good", 10, quick, 100*time.Millisecond)
				town.settle("bad", places*5/8, quick, time.Second)
				time.Sleep(5 * time.Second)
				town.forget()
				for i := range places * 5 / 8 {
					town.net.set(fmt.Sprint("bad", i), nil)
				}
				time.Sleep(20 * time.Second)
				town.require("good", 200*time.Millisecond, time.Second)
				town.close()
			})
		})
	}
}

// Apps that fill all the memory they can get leave some for one that comes later, however few or many they are.
func TestHogsLeaveMemoryForAnother(t *testing.T) {
	for _, hogs := range []int{1, 2, 20} {
		t.Run(fmt.Sprint(hogs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const whole = 64 << 20
				cfg := webhook.Config{MaxQueuedBytes: whole, MaxEndpointQueuedBytes: whole, Sender: webhook.SenderFunc(dead)}
				cfg.Apps = []webhook.App{testApp("late", "http://late/")}
				for i := range hogs {
					cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint("hog", i), "http://hog/"))
				}
				d := newDispatcher(t, cfg)
				event := func(size int) webhook.Event {
					return webhook.ClientEvent("private-room", "client-a", []byte(strings.Repeat("x", size)), "", "")
				}
				for i := range hogs {
					for _, size := range []int{10_000, 100} {
						for d.Emit(fmt.Sprint("hog", i), event(size)) == nil {
						}
					}
				}
				require.Greater(t, d.Stats().PendingBytes, int64(whole/2), "they do use it")
				for range 50 {
					emit(t, d, "late", event(1000))
				}
				for _, app := range cfg.Apps {
					d.Purge(app.ID)
				}
			})
		})
	}
}

// An endpoint that fails for a second is back within seconds, although twice as many hang beside it as there are places.
func TestBlipBeside2000HangingEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 1024})
		town.settle("blip", 1, quick, 100*time.Millisecond)
		town.settle("bad", 2000, nil, 2*time.Second)
		time.Sleep(30 * time.Second)
		town.net.set("blip0", func(int, []byte) (int, time.Duration) { return 503, time.Millisecond })
		time.Sleep(time.Second)
		town.net.set("blip0", quick)
		town.forget()
		time.Sleep(30 * time.Second)
		town.require("blip", 200*time.Millisecond, 12*time.Second)
		town.close()
	})
}

// One app's endpoints hang and its events pile up, however often its URLs change: others are never refused, and in
// the end age empties what has piled up.
func TestHoggedMemoryRefusesNobodyElse(t *testing.T) {
	for name, edit := range map[string]func(town *town, round int){
		"16 webhooks": func(town *town, round int) {
			if round == 0 {
				town.hog("bad", 16, nil, time.Hour)
			}
		},
		"one webhook, edited": func(town *town, round int) {
			require.NoError(town.t, town.d.SetApp(testApp("bad", fmt.Sprintf("http://bad%d/", round))))
		},
		"removed and set again": func(town *town, round int) {
			town.d.RemoveApp("bad")
			require.NoError(town.t, town.d.SetApp(testApp("bad", fmt.Sprintf("http://bad%d/", round))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				town := newTown(t, webhook.Config{MaxQueuedBytes: 32 << 20, MaxEndpointQueuedBytes: 16 << 20})
				town.settle("good", 20, quick, time.Second)
				data := []byte(`"` + strings.Repeat("x", 60_000) + `"`)
				refused := 0
				for round := range 16 {
					edit(town, round)
					for i := range 300 {
						size := len(data)
						if i >= 100 { // and the crumbs
							size = 100
						}
						if town.d.Emit("bad", webhook.ClientEvent("private-room", "client-a", data[:size], "", "")) != nil {
							refused++
						}
					}
					time.Sleep(time.Second)
				}
				require.Positive(t, refused)
				time.Sleep(time.Second)
				town.require("good", 200*time.Millisecond, time.Second)
				time.Sleep(10 * time.Minute)
				require.Less(t, town.d.Stats().PendingBytes, int64(1<<20), "age has emptied it")
				town.close()
			})
		})
	}
}

// A dripping body: it never ends, and nobody waits for it for long.
type drip struct {
	ctx interface{ Done() <-chan struct{} }
}

func (d drip) Read([]byte) (int, error) { <-d.ctx.Done(); return 0, io.ErrUnexpectedEOF }
func (d drip) Close() error             { return nil }

func dripping(r *http.Request) *http.Response {
	resp := answer(200)
	resp.Body, resp.ContentLength = drip{r.Context()}, 1000
	return resp
}

// A request that has been on the wire for a while leaves its place among the young, and who waits for that gets it
// without anything else happening: after half a second where six eighths of the wire are slow, sooner where fewer are,
// and at once where only half are.
func TestYoungPlacesTurnOver(t *testing.T) {
	for _, test := range []struct{ hanging, after, want time.Duration }{
		{hanging: 5, after: 0, want: 0},
		{hanging: 6, after: 0, want: 250 * time.Millisecond},
		{hanging: 7, after: 251 * time.Millisecond, want: 499 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			town := newTown(t, webhook.Config{MaxConcurrent: 8, MaxBatchEvents: 1}) // one of them for the young
			t.Cleanup(town.close)
			town.net.set("good0", quick)
			require.NoError(t, town.d.SetApp(testApp("good0", "http://good0/")))
			emit(t, town.d, "good0", webhook.ChannelOccupied("room"))
			time.Sleep(time.Second)
			for i := range test.hanging {
				id := fmt.Sprint("bad", int(i))
				require.NoError(t, town.d.SetApp(testApp(id, "http://"+id+"/")))
				emit(t, town.d, id, webhook.ChannelOccupied("room"))
			}
			time.Sleep(test.after)
			town.forget()
			emit(t, town.d, "good0", webhook.ChannelOccupied("room"))
			time.Sleep(5 * time.Second)
			town.mu.Lock()
			defer town.mu.Unlock()
			require.Equal(t, []time.Duration{test.want + 5*time.Millisecond}, town.latencies["good"], "behind %d that hang", test.hanging)
		})
	}
}

// Slow endpoints take six eighths of the places at the most, failing ones five, and they take turns there.
func TestSlowEndpointsLeaveAQuarter(t *testing.T) {
	for name, test := range map[string]struct {
		status    int
		want      int64
		turnsEach int
	}{
		"slow":    {status: 200, want: 12, turnsEach: 120 * 13 / 40 / 2},
		"failing": {status: 503, want: 10, turnsEach: 120 * 11 / 40 / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				town := newTown(t, webhook.Config{MaxConcurrent: 16, MaxBatchEvents: 1, RetryWaitMax: time.Second})
				defer town.close()
				var now, most atomic.Int64
				var measure atomic.Bool
				town.settle("slow", 40, func(int, []byte) (int, time.Duration) {
					if now.Add(1); measure.Load() {
						most.Store(max(most.Load(), now.Load()))
					}
					time.AfterFunc(899*time.Millisecond, func() { now.Add(-1) })
					return test.status, 900 * time.Millisecond
				}, time.Second)
				time.Sleep(time.Minute) // by now all are known to be slow
				measure.Store(true)
				time.Sleep(time.Minute)
				require.Equal(t, test.want, most.Load())
				for i := range 40 {
					require.Greater(t, town.net.count(fmt.Sprint("slow", i)), test.turnsEach, "slow%d", i)
				}
			})
		})
	}
}

// However many webhooks an app has that are slow, it holds as many places as it leaves free of those for the slow.
func TestALoneAppLeavesHalfOfTheSlowPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 16, MaxBatchEvents: 1, MaxInFlight: 1}) // 12 of them for the slow
		defer town.close()
		var now, most atomic.Int64
		town.add("bad", 40, func(int, []byte) (int, time.Duration) {
			most.Store(max(most.Load(), now.Add(1)))
			time.AfterFunc(899*time.Millisecond, func() { now.Add(-1) })
			return 200, 900 * time.Millisecond
		})
		town.emit("bad", 1)
		time.Sleep(time.Minute) // by now all are known to be slow
		most.Store(0)
		town.emit("bad", 5)
		time.Sleep(time.Minute)
		require.EqualValues(t, 6, most.Load())
	})
}

// Endpoints that were never tried leave the last eighth of the places to those that answer, but no more than that.
func TestUntriedEndpointsLeaveAnEighth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 16, MaxBatchEvents: 1})
		defer town.close()
		town.add("good", 1, quick)
		town.emit("good", 1)
		time.Sleep(time.Second)
		for i := range 100 {
			town.add(fmt.Sprint("bad", i, "-"), 1, nil)
			town.emit(fmt.Sprint("bad", i, "-"), 1)
		}
		time.Sleep(5 * time.Second)
		hanging := 0
		for i := range 100 {
			hanging += town.net.count(fmt.Sprint("bad", i, "-0"))
		}
		require.Equal(t, 15, hanging, "two start while 13 are slow")
		town.forget()
		town.emit("good", 1)
		time.Sleep(time.Second)
		require.Equal(t, []time.Duration{5 * time.Millisecond}, town.took("good"))
	})
}

// An app that holds its share of the places for the young keeps nobody waiting who stands behind it.
func TestAppAtItsShareHoldsUpNobodyBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 64, MaxBatchEvents: 1}) // eight of them for the young
		defer town.close()
		town.add("bad", 40, unhurried)
		town.add("good", 1, quick)
		town.emit("bad", 1)
		town.emit("good", 1)
		time.Sleep(time.Minute) // by now all have answered
		town.forget()
		town.emit("bad", 1)
		town.emit("good", 1)
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{5 * time.Millisecond}, town.took("good"))
	})
}

// Of the slow, the app goes first that holds the fewest places, whatever it has used before: what a request that hangs
// will use is not known yet.
func TestSlowAppWithTheFewestPlacesGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 16, MaxBatchEvents: 1, MaxInFlight: 1}) // 12 of them for the slow
		defer town.close()
		var all []string
		for i := range 12 { // these take all places
			all = append(all, fmt.Sprint("first", i, "-"))
			town.add(all[i], 1, leisurely)
		}
		all = append(all, "bad", "slow")
		town.add("bad", 40, leisurely)
		town.add("slow", 1, leisurely)
		for _, id := range all {
			town.emit(id, 1)
		}
		time.Sleep(time.Minute)
		town.emit("slow", 60) // so that it has used more than the others
		time.Sleep(time.Minute)
		town.forget()
		for i := range 40 {
			town.net.set(fmt.Sprint("bad", i), sluggish)
		}
		for _, id := range all {
			town.emit(id, 1)
		}
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{2 * 600 * time.Millisecond}, town.took("slow"))
	})
}

// What an app has used of the wire an hour ago does not count any more.
func TestUseOfTheWireIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 2, MaxBatchEvents: 1, MaxInFlight: 1}) // one of them for the slow
		defer town.close()
		for id, events := range map[string]int{"first": 1, "early": 100, "lately": 1} {
			town.add(id, 1, leisurely)
			town.emit(id, events)
		}
		time.Sleep(time.Hour)
		town.emit("lately", 10)
		time.Sleep(7 * time.Second)
		town.forget()
		for _, id := range []string{"first", "lately", "early"} {
			town.emit(id, 1)
		}
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{2 * 600 * time.Millisecond}, town.took("early"))
		require.Equal(t, []time.Duration{3 * 600 * time.Millisecond}, town.took("lately"))
	})
}

// With one place for all, those that answer go before those that are slow.
func TestThoseThatAnswerGoBeforeTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 1, MaxBatchEvents: 1})
		defer town.close()
		town.add("first", 1, leisurely)
		town.add("slow", 1, leisurely)
		town.add("good", 1, quick)
		for range 2 {
			town.forget()
			for _, id := range []string{"first", "slow", "good"} {
				town.emit(id, 1)
			}
			time.Sleep(time.Minute)
		}
		require.Equal(t, []time.Duration{605 * time.Millisecond}, town.took("good"))
		require.Equal(t, []time.Duration{1205 * time.Millisecond}, town.took("slow"))
	})
}

// Requests that start, grow older and end change whose turn it is among the slow: the line follows at once.
func TestLineFollowsWhatItsOrderGoesBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, webhook.Config{MaxConcurrent: 16, MaxBatchEvents: 1})
		defer town.close()
		hosts := []host{quick, leisurely, nil, inTurns, sluggish}
		for i := range 30 {
			var urls []string
			for j := range 3 {
				name := fmt.Sprint("mixed", i, "-", j)
				town.net.set(name, hosts[(i+j)%len(hosts)])
				urls = append(urls, "http://"+name+"/")
			}
			id := fmt.Sprint("mixed", i)
			require.NoError(t, town.d.SetApp(testApp(id, urls...)))
			town.emitEvery(id, 700*time.Millisecond, time.Duration(i)*37*time.Millisecond)
		}
		for range 2000 {
			time.Sleep(29 * time.Millisecond)
			synctest.Wait()
			require.True(t, town.d.LinesInOrder())
		}
	})
}

// However many apps stand before it that hold their share, one that may start gets the place that is free.
func TestFreePlaceIsNotLeftBesideOneThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hogs, places = 71, 72
		var hang atomic.Bool
		var arrived atomic.Int64 // when, for the victim
		began := time.Now()
		var apps []webhook.App
		for i := range hogs {
			app := webhook.App{ID: fmt.Sprint("hog", i), Key: "k", Secret: "s"}
			for j := range 2 {
				app.Webhooks = append(app.Webhooks, webhook.Webhook{URL: fmt.Sprintf("http://hog%d.test/%d", i, j), EventTypes: every,
					Filter: webhook.Filter{ChannelNameStartsWith: fmt.Sprint(j)}})
			}
			apps = append(apps, app)
		}
		apps = append(apps, testApp("victim", "http://victim.test/"))
		d, err := webhook.New(webhook.Config{Apps: apps, MaxBatchEvents: 1, MaxInFlight: 1, MaxConcurrent: places,
			Sender: webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
				if strings.Contains(d.URL, "victim") {
					arrived.Store(int64(time.Since(began)))
					return nil
				}
				if hang.Load() {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})})
		require.NoError(t, err)
		for i := range hogs {
			emit(t, d, fmt.Sprint("hog", i), webhook.ChannelOccupied("0"), webhook.ChannelOccupied("1"))
		}
		emit(t, d, "victim", webhook.ChannelOccupied("v"))
		time.Sleep(time.Second)
		require.Zero(t, d.Stats().Pending)
		hang.Store(true)
		for i := range hogs {
			emit(t, d, fmt.Sprint("hog", i), webhook.ChannelOccupied("0"))
		}
		time.Sleep(10 * time.Second) // all of them hang, and are slow
		for i := range hogs {
			emit(t, d, fmt.Sprint("hog", i), webhook.ChannelOccupied("1"))
		}
		arrived.Store(0)
		emitted := time.Since(began)
		emit(t, d, "victim", webhook.ChannelOccupied("v"))
		time.Sleep(time.Minute)
		late := time.Duration(arrived.Load()) - emitted
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = d.Close(ctx)
		require.Less(t, late, time.Second)
	})
}
