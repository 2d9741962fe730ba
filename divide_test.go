package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// How a refused batch is divided, what is set aside, and what is tried where everything seems to be refused.

func TestPartsHalveAndDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, func(_ context.Context, d *webhook.Delivery) error {
			if slices.Contains(channels(t, d.Body), "5") {
				return webhook.ErrRefused
			}
			return nil
		})
		d := newDispatcher(t, cfg)
		for i := range 16 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		atTime(window)
		var sizes []int
		ids := map[string]bool{}
		for _, delivery := range sent.deliveries() {
			sizes = append(sizes, delivery.Events)
			ids[delivery.ID] = true
		}
		require.Equal(t, []int{16, 8, 4, 8, 4, 2, 1, 2, 1, 1, 2, 4, 3}, sizes)
		require.Len(t, ids, len(sizes), "each has a Webhook-Id of its own")
		atTime(8 * time.Second)
		require.EqualValues(t, 15, d.Stats().Delivered)
		require.EqualValues(t, 1, d.Stats().Undelivered)
	})
}

// A body that was too large makes the next ones half as large, also those that wait already. The bound grows again, by an
// eighth for every hundred deliveries, up to MaxBatchBytes.
func TestTooLargeBodies(t *testing.T) {
	for event := 990; event < 1010; event++ { // whatever is left over at the end of a body
		synctest.Test(t, func(t *testing.T) {
			const configured = 64_000
			takes := 60_000
			cfg, sent := oneEndpoint(webhook.Config{MaxBatchBytes: configured}, func(_ context.Context, d *webhook.Delivery) error {
				if len(d.Body) > takes {
					return &webhook.StatusError{Code: 413}
				}
				return nil
			})
			d := newDispatcher(t, cfg)
			seen := 0
			send := func(events int) (sizes []int) { // at once
				for range events {
					emit(t, d, "app", webhook.ChannelOccupied(strings.Repeat("x", event-len(`{"name":"channel_occupied","channel":""},`))))
				}
				atTime(window)
				for _, delivery := range sent.deliveries()[seen:] {
					sizes = append(sizes, len(delivery.Body)+1) // time_ms has a digit less in the year 2000
				}
				seen += len(sizes)
				return sizes
			}
			first := send(130)
			require.Greater(t, first[0], takes)
			bound := first[0] / 2
			require.Greater(t, slices.Max(first[1:]), bound-2*event)
			require.LessOrEqual(t, slices.Max(first[1:]), bound, "those that waited are not tried whole")
			for d.Stats().Requests < 90 {
				send(1)
			}
			require.LessOrEqual(t, slices.Max(send(130)), bound)
			for d.Stats().Requests < 100 {
				send(1)
			}
			larger := slices.Max(send(130))
			require.Greater(t, larger, bound, "a hundred were accepted")
			require.LessOrEqual(t, larger, bound*9/8)
			takes = configured
			for range 700 {
				send(1)
			}
			largest := slices.Max(send(130))
			require.Greater(t, largest, takes-event)
			require.LessOrEqual(t, largest, takes)
		})
	}
}

// However often an endpoint says that a body is too large, small events still come several in a body.
func TestBoundOfBodiesHasAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := 100
		cfg, sent := oneEndpoint(webhook.Config{}, func(_ context.Context, d *webhook.Delivery) error {
			if len(d.Body) > most {
				return &webhook.StatusError{Code: 413}
			}
			return nil
		})
		d := newDispatcher(t, cfg)
		for range 20 {
			emit(t, d, "app", webhook.ChannelOccupied("a"))
		}
		atTime(window)
		most, sent.sent = 100_000, nil
		for range 40 {
			emit(t, d, "app", webhook.ChannelOccupied("a"))
		}
		atTime(window)
		require.Len(t, sent.deliveries(), 2, "of up to 1024 bytes")
	})
}

// A refuser is an endpoint that refuses some channels and notes what it was sent.
type refuser struct {
	mu     sync.Mutex
	refuse func(channel string) error
	tried  []string
}

func (r *refuser) Send(_ context.Context, d *webhook.Delivery) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	var all []string
	for _, key := range keys(d.Body) {
		channel, _, _ := strings.Cut(key, " ")
		all = append(all, channel)
		err = errors.Join(err, r.refuse(channel))
	}
	r.tried = append(r.tried, strings.Join(all, " "))
	return err
}

// since returns what was tried since the last call.
func (r *refuser) since() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	tried := r.tried
	r.tried = nil
	return tried
}

func newRefuser(t *testing.T, cfg webhook.Config, refuse func(channel string) error) (*refuser, *webhook.Dispatcher) {
	r := &refuser{refuse: refuse}
	cfg.Apps, cfg.Sender = []webhook.App{testApp("app", "http://localhost/")}, r
	return r, newDispatcher(t, cfg)
}

// refusesBad refuses channels that are called bad.
func refusesBad(channel string) error {
	if strings.HasPrefix(channel, "bad") {
		return webhook.ErrRefused
	}
	return nil
}

// Four events in a row that are refused by themselves mean that everything is; fewer do not, nor do tries of one event.
func TestFourInARowAreEverything(t *testing.T) {
	for events, want := range map[string]webhook.EndpointState{
		"bad bad bad":                   webhook.EndpointOK,
		"bad bad bad bad":               webhook.EndpointRefusing,
		"bad bad bad good bad bad bad":  webhook.EndpointOK,
		"good bad bad bad bad good bad": webhook.EndpointRefusing,
	} {
		synctest.Test(t, func(t *testing.T) {
			_, d := newRefuser(t, webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, refusesBad)
			for _, channel := range strings.Fields(events) {
				emit(t, d, "app", webhook.ChannelOccupied(channel))
			}
			synctest.Wait()
			require.Equal(t, want, d.Endpoints("app")[0].State, events)
			d.Purge("app")
		})
	}
}

// What was set aside while an endpoint refused everything returns to its place, is not given up for it, and arrives in order.
func TestWhatWasSetAsideReturnsInOrder(t *testing.T) {
	for _, batch := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, webhook.Config{MaxBatchEvents: batch}, func(now time.Duration, _ []byte) int {
				if now < 2*time.Minute {
					return 400
				}
				return 0
			})
			for range 8 {
				b.emit("private-a", "x")
			}
			time.Sleep(5 * time.Minute)
			require.Empty(t, b.undelivered())
		})
	}
}

// Where everything seems to be refused, those channels are tried first of which an event was accepted, then those that were
// not tried. What was refused is tried once more at its place, because everything was.
func TestLikeliestChannelIsTriedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := newRefuser(t, webhook.Config{}, refusesBad)
		send := func(names string) {
			for _, channel := range strings.Fields(names) {
				emit(t, d, "app", webhook.ChannelOccupied(channel))
			}
			atTime(window)
			require.Equal(t, webhook.EndpointRefusing, d.Endpoints("app")[0].State)
			r.since()
		}
		send("bad0 bad1 bad2 bad3 bad4 good")
		atTime(time.Second)
		require.Equal(t, []string{"good", "bad0", "bad1", "bad2", "bad3", "bad4"}, r.since(), "not tried before, and another channel than the last")
		require.Equal(t, webhook.EndpointOK, d.Endpoints("app")[0].State)
		emit(t, d, "app", webhook.ChannelOccupied("good"))
		atTime(window)
		send("bad5 bad6 bad7 bad8 new1 new2 good")
		atTime(time.Second)
		require.Equal(t, "good", r.since()[0], "accepted before")
		require.Equal(t, webhook.EndpointOK, d.Endpoints("app")[0].State)
	})
}

// While an endpoint fails, what was refused says the least about it: something else is tried.
func TestWhatIsSetAsideIsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		r, d := newRefuser(t, webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(channel string) error {
			if down {
				return errors.New("down")
			}
			return refusesBad(channel)
		})
		emit(t, d, "app", webhook.ChannelOccupied("bad"))
		atTime(time.Millisecond)
		down = true
		emit(t, d, "app", webhook.ChannelOccupied("other"))
		synctest.Wait()
		r.since()
		atTime(time.Minute)
		require.NotContains(t, r.since(), "bad")
		d.Purge("app")
	})
}

// An event that is tried again while the endpoint turns out to refuse everything stays where it is: it is never sent twice
// at a time.
func TestEventOnTheWireDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, sends := 0, 0
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 4}, func(_ context.Context, d *webhook.Delivery) error {
			if !bytes.Contains(d.Body, []byte(`"bad0"`)) {
				return webhook.ErrRefused
			}
			mu.Lock()
			now++
			sends++
			if now > 1 {
				t.Error("sent twice at a time")
			}
			slow := sends == 2
			mu.Unlock()
			if slow {
				time.Sleep(20 * time.Second)
			}
			mu.Lock()
			defer mu.Unlock()
			now--
			return webhook.ErrRefused
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("bad0"))
		atTime(time.Second) // and it is tried again
		for i := range 3 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint("bad", i+1)))
			synctest.Wait()
		}
		require.Equal(t, webhook.EndpointRefusing, d.Endpoints("app")[0].State)
		atTime(time.Minute)
		require.Greater(t, sends, 1)
		d.Purge("app")
	})
}
