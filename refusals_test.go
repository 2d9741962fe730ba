package webhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// What an endpoint refuses costs itself: every event that is not refused arrives, in order within its channel.

// A backend is one endpoint on a network, told by a test what it refuses, and what it has accepted.
type backend struct {
	t      *testing.T
	net    *network
	d      *webhook.Dispatcher
	refuse func(now time.Duration, body []byte) int // a status, or 0 to accept
	began  time.Time

	mu      sync.Mutex
	emitted map[string]time.Time     // by channel and number
	arrived map[string]time.Duration // how long after they were emitted
	last    map[string]int           // number by channel
	lost    map[string]bool          // reported undelivered
	next    map[string]int
}

func newBackend(t *testing.T, cfg webhook.Config, refuse func(time.Duration, []byte) int) *backend {
	b := &backend{t: t, net: newNetwork(), refuse: refuse, began: time.Now(), emitted: map[string]time.Time{},
		arrived: map[string]time.Duration{}, last: map[string]int{}, lost: map[string]bool{}, next: map[string]int{}}
	b.net.set("backend", b.serve)
	cfg.Apps = []webhook.App{testApp("app", "http://backend/")}
	cfg.Sender = b.net.sender(t)
	cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, key := range keys(d.Body) {
			b.lost[key] = true
		}
	}
	b.d = newDispatcher(t, cfg)
	return b
}

// keys names the events of a body, by channel and number.
func keys(body []byte) (all []string) {
	var e struct {
		Events []struct {
			Channel string `json:"channel"`
			Event   string `json:"event"`
		} `json:"events"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		panic(err)
	}
	for _, one := range e.Events {
		all = append(all, one.Channel+" "+strings.TrimPrefix(one.Event, "client-"))
	}
	return all
}

func (b *backend) serve(_ int, body []byte) (int, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if status := b.refuse(time.Since(b.began), body); status != 0 {
		return status, 5 * time.Millisecond
	}
	for _, key := range keys(body) {
		var channel string
		var number int
		_, _ = fmt.Sscan(key, &channel, &number)
		if number < b.last[channel] {
			b.t.Errorf("%s arrived after %d", key, b.last[channel])
		}
		b.last[channel] = number
		b.arrived[key] = time.Since(b.emitted[key])
	}
	return 200, 5 * time.Millisecond
}

// emit emits the next event of a channel, of about 300 bytes.
func (b *backend) emit(channel, data string) (key string) {
	b.mu.Lock()
	b.next[channel]++
	key = fmt.Sprint(channel, " ", b.next[channel])
	b.emitted[key] = time.Now()
	event := webhook.ClientEvent(channel, fmt.Sprint("client-", b.next[channel]), []byte(data), "123.456", "")
	b.mu.Unlock()
	require.NoError(b.t, b.d.Emit("app", event), key)
	return key
}

// reported returns what the hook was told is given up, sorted.
func (b *backend) reported() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.lost))
}

// undelivered returns what has not arrived, sorted.
func (b *backend) undelivered() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.emitted {
		if _, ok := b.arrived[key]; !ok {
			all = append(all, key)
		}
	}
	return sorted(all)
}

// latest is the longest that an event of those that arrived took.
func (b *backend) latest() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Max(slices.Collect(maps.Values(b.arrived)))
}

var data300 = `{"x":"` + strings.Repeat("d", 150) + `"}`

// An hour takes minutes of the race detector's time.
func afternoon(full time.Duration) time.Duration { return shorten(full, 20) }

func shorten(full time.Duration, times time.Duration) time.Duration {
	if webhook.RaceEnabled {
		return full / times
	}
	return full
}

// express.json takes 100 kB. After an outage the backlog comes in batches, and they fit.
func TestReceiverWithABodyLimit(t *testing.T) {
	for _, most := range []int{0, 512 << 10} {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, webhook.Config{MaxBatchBytes: most}, func(now time.Duration, body []byte) int {
				switch {
				case now < 10*time.Second:
					return 503
				case len(body) > 100<<10:
					return 413
				}
				return 0
			})
			for i := range int(afternoon(time.Hour).Seconds()) * 50 {
				b.emit(fmt.Sprint("private-", i%20), data300)
				time.Sleep(20 * time.Millisecond)
			}
			closeNow(t, b.d)
			require.Empty(t, b.undelivered())
			require.Less(t, b.latest(), 30*time.Second)
		})
	}
}

// pusher-http-python refuses a time_ms older than 300 s.
func TestReceiverThatWantsAFreshStamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outage = 6 * time.Minute
		b := newBackend(t, webhook.Config{}, func(now time.Duration, body []byte) int {
			if now < outage {
				return 503
			}
			if time.Since(time.UnixMilli(parse(t, body).TimeMS)) > 300*time.Second {
				return 401
			}
			return 0
		})
		for i := range int((outage + afternoon(2*time.Hour)).Seconds()) * 5 {
			b.emit(fmt.Sprint("private-", i%20), `"x"`)
			time.Sleep(200 * time.Millisecond)
		}
		closeNow(t, b.d)
		for _, key := range b.undelivered() {
			require.Greater(t, b.began.Add(outage).Sub(b.emitted[key]), 5*time.Minute, "%s was younger than RetryFor when the outage ended", key)
			require.True(t, b.lost[key], "%s was reported", key)
		}
	})
}

// One event in a hundred is refused: with 400, or because an exception makes it a 500.
func TestOneRefusedEventInAHundred(t *testing.T) {
	for _, status := range []int{400, 500} {
		for name, cfg := range map[string]webhook.Config{"batched": {}, "unbatched": {MaxBatchEvents: 1}} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBackend(t, cfg, func(_ time.Duration, body []byte) int {
						if bytes.Contains(body, []byte("bad")) {
							return status
						}
						return 0
					})
					var bad []string
					for i := range int(afternoon(time.Hour).Seconds()) * 10 {
						data := "good"
						if i%100 == 50 {
							data = "bad"
						}
						key := b.emit(fmt.Sprint("private-", i%7), data)
						if data == "bad" {
							bad = append(bad, key)
						}
						time.Sleep(100 * time.Millisecond)
					}
					closeRefused(t, b.d)
					require.Equal(t, sorted(bad), b.undelivered())
					require.Less(t, b.latest(), time.Second, "nobody waits longer for one that is refused")
					require.Len(t, b.lost, len(bad), "each is reported")
				})
			})
		}
	}
}

// Several of Pusher's libraries refuse a whole webhook for one encrypted channel.
func TestEncryptedChannelsCostNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, webhook.Config{}, func(_ time.Duration, body []byte) int {
			if bytes.Contains(body, []byte(`"channel":"private-encrypted-`)) {
				return 401
			}
			return 0
		})
		refused := 0
		for i := range int(afternoon(time.Hour).Seconds()) * 10 {
			if i%100 == 50 {
				b.emit("private-encrypted-room", `"x"`)
				refused++
			} else {
				b.emit(fmt.Sprint("private-", i%7), `"x"`)
			}
			time.Sleep(100 * time.Millisecond)
		}
		closeRefused(t, b.d)
		require.Len(t, b.undelivered(), refused)
		require.Less(t, b.latest(), time.Second)
	})
}

// closeRefused closes a dispatcher some of whose events are refused to the end.
func closeRefused(t *testing.T, d *webhook.Dispatcher) {
	t.Helper()
	start := time.Now()
	_ = d.Close(t.Context())
	require.Less(t, time.Since(start), 10*time.Second)
}

// An endpoint that refuses everything is tried like one that is down, and once it is repaired it gets everything that
// is young enough, in order.
func TestEndpointThatRefusesEverything(t *testing.T) {
	for name, cfg := range map[string]webhook.Config{"batched": {}, "unbatched": {MaxBatchEvents: 1}} {
		for _, channels := range []int{1, 20} {
			t.Run(fmt.Sprint(name, ", channels: ", channels), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const repaired = 20 * time.Minute
					b := newBackend(t, cfg, func(now time.Duration, _ []byte) int {
						if now < repaired {
							return 401
						}
						return 0
					})
					for i := range int((repaired + 2*time.Minute).Seconds()) * 5 {
						b.emit(fmt.Sprint("private-", i%channels), `"x"`)
						time.Sleep(200 * time.Millisecond)
						if i == int(repaired.Seconds())*5-1 {
							require.Less(t, b.net.count("backend"), 60)
							require.Equal(t, webhook.EndpointRefusing, b.d.Endpoints("app")[0].State)
						}
					}
					closeNow(t, b.d)
					for _, key := range b.undelivered() {
						require.Greater(t, b.began.Add(repaired).Sub(b.emitted[key]), 5*time.Minute, "%s was younger than RetryFor", key)
						require.True(t, b.lost[key])
					}
				})
			})
		}
	}
}

// A client that makes a receiver fail ten times in a row on one channel does not hold up the other channels.
func TestBurstOfRefusedEventsOnOneChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, webhook.Config{}, func(_ time.Duration, body []byte) int {
			if bytes.Contains(body, []byte("bad")) {
				return 500
			}
			return 0
		})
		for i := range 300 {
			if i%30 == 0 {
				for range 20 {
					b.emit("private-noisy", "bad")
				}
			}
			b.emit(fmt.Sprint("private-", i%5), "good")
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		for _, key := range b.undelivered() {
			require.Contains(t, key, "noisy")
		}
		require.Less(t, b.latest(), 20*time.Second)
		b.d.Purge("app")
	})
}

// A client that makes up a new channel for each event that is refused holds up nobody else of its app for long, and
// costs none of their events.
func TestNewNoisyChannelsAllTheTime(t *testing.T) {
	for _, batch := range []int{0, 1} {
		for _, channels := range []int{1, 20} {
			t.Run(fmt.Sprint("batch ", batch, ", channels ", channels), func(t *testing.T) {
				bubble(t, func(t *testing.T, _ *network) {
					b := newBackend(t, webhook.Config{MaxBatchEvents: batch}, func(_ time.Duration, body []byte) int {
						if bytes.Contains(body, []byte("bad")) {
							return 400
						}
						return 0
					})
					for i := range int(afternoon(time.Hour).Seconds()) * 5 {
						if i%5 == 0 { // the first is accepted: the endpoint is known to work
							b.emit(fmt.Sprint("private-", i/5%channels), "good")
						}
						b.emit(fmt.Sprint("private-noisy", i), "bad")
						time.Sleep(200 * time.Millisecond)
					}
					time.Sleep(10 * time.Minute)
					for _, key := range b.undelivered() {
						require.Contains(t, key, "noisy")
					}
					require.Less(t, b.latest(), 2*time.Minute)
					b.d.Purge("app")
				})
			})
		}
	}
}

// Nearly everything is refused, on many channels, all the time: what the endpoint would accept still arrives, but for
// the first minutes, in which it looks like an endpoint that refuses everything.
func TestNoisyChannelsDoNotDrownTheOthers(t *testing.T) {
	for _, batch := range []int{0, 1} {
		for _, noisy := range []int{1, 20} {
			t.Run(fmt.Sprint("batch ", batch, ", noisy ", noisy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBackend(t, webhook.Config{MaxBatchEvents: batch}, func(_ time.Duration, body []byte) int {
						if bytes.Contains(body, []byte("bad")) {
							return 400
						}
						return 0
					})
					for i := range int(afternoon(time.Hour).Seconds()) * 5 {
						b.emit(fmt.Sprint("private-noisy", i%noisy), "bad")
						if i%50 == 25 {
							b.emit("private-good", "good")
						}
						time.Sleep(200 * time.Millisecond)
					}
					time.Sleep(10 * time.Minute)
					lost := 0
					for _, key := range b.undelivered() {
						if strings.Contains(key, "good") {
							lost++ // before it was known which channels are refused
						}
					}
					require.LessOrEqual(t, lost, b.next["private-good"]/5, "of %d", b.next["private-good"])
					b.d.Purge("app")
				})
			})
		}
	}
}

// At most 64 refused events of an endpoint are set aside. Beyond that the oldest is reported, unless it is on the wire, and
// the others are tried again, also where hooks hold the goroutines on which all of this happens.
func TestSixtyFourAreSetAside(t *testing.T) {
	for name, test := range map[string]struct {
		cfg   webhook.Config
		hooks time.Duration // how long an Attempt hook takes
	}{
		"one after the other":   {webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, 0},
		"at once, beside hooks": {webhook.Config{MaxBatchEvents: 1, MaxInFlight: 100_000}, time.Minute}, // a lane for each channel
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var takes atomic.Int64
				takes.Store(int64(test.hooks))
				test.cfg.Hooks.Attempt = func(*webhook.Delivery, webhook.Attempt) { time.Sleep(time.Duration(takes.Load())) }
				var repaired atomic.Bool
				b := newBackend(t, test.cfg, func(_ time.Duration, body []byte) int {
					if bytes.Contains(body, []byte("bad")) && !repaired.Load() {
						return 500
					}
					return 0
				})
				var bad []string
				for i := range 70 {
					bad = append(bad, b.emit(fmt.Sprint("private-bad", i), "bad"))
					b.emit(fmt.Sprint("private-good", i), "good") // so that not everything is refused
					time.Sleep(12 * time.Millisecond)
				}
				time.Sleep(test.hooks)
				takes.Store(0)
				require.Equal(t, sorted(slices.Clone(bad[:6])), b.reported())
				repaired.Store(true)
				time.Sleep(2 * time.Minute)
				require.Equal(t, sorted(slices.Clone(bad[:6])), b.undelivered())
			})
		})
	}
}

// The oldest of those set aside is on the wire when there are too many: the next one is reported in its place.
func TestSetAsideAndOnTheWireIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []string
		tried := false
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2}, func(_ context.Context, d *webhook.Delivery) error {
			switch channel := channels(t, d.Body)[0]; {
			case strings.Contains(channel, "good"):
				return nil
			case channel == "bad0" && tried:
				time.Sleep(10 * time.Second)
				return nil
			case channel == "bad0":
				tried = true
			}
			return &webhook.StatusError{Code: 500}
		})
		ended := func(d *webhook.Delivery) {
			if channel := channels(t, d.Body)[0]; channel != "good" {
				ends = append(ends, channel)
			}
		}
		cfg.Hooks.Delivered = func(d *webhook.Delivery, _ time.Duration) { ended(d) }
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) { ended(d) }
		d := newDispatcher(t, cfg)
		for i := range 66 {
			if i == 64 {
				atTime(time.Second) // the oldest is tried again
			}
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint("bad", i)))
			atTime(time.Millisecond)
			emit(t, d, "app", webhook.ChannelOccupied("good")) // so that not everything is refused
			atTime(time.Millisecond)
		}
		require.Equal(t, []string{"bad1", "bad2"}, ends)
		atTime(10 * time.Second)
		require.Equal(t, []string{"bad1", "bad2", "bad0"}, ends)
		d.Purge("app")
	})
}

// Events that were set aside and given up take no memory, although an endpoint remembers that they were refused.
func TestWhatWasSetAsideAndGivenUpTakesNoMemory(t *testing.T) {
	const tenants, endpoints, events, size = 8, 100, 3, 60 << 10
	var apps []webhook.App
	for a := range tenants {
		app := webhook.App{ID: fmt.Sprint("a", a), Key: "k", Secret: "s"}
		for i := range endpoints {
			app.Webhooks = append(app.Webhooks, webhook.Webhook{URL: fmt.Sprintf("http://a%d.test/%d", a, i), EventTypes: every})
		}
		apps = append(apps, app)
	}
	refuse := webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return webhook.ErrRefused })
	d := newDispatcher(t, fast(webhook.Config{Apps: apps, MaxBatchEvents: 1, MaxInFlight: 1, MaxQueuedBytes: 32 << 20, Sender: refuse}))
	before := heap()
	data := []byte(`"` + strings.Repeat("x", size) + `"`)
	for _, app := range apps {
		for range events {
			require.NoError(t, d.Emit(app.ID, webhook.Event{Type: webhook.TypeClientEvent, Event: "client-x", Channel: "private-c", Data: data, SocketID: "1.1"}))
		}
		require.True(t, settles(func() bool { return d.Stats().Pending == 0 && d.Stats().PendingBytes == 0 }))
	}
	require.True(t, settles(func() bool { return heap()-before < 8<<20 }))
	runtime.KeepAlive(d)
}
