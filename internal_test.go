package webhook

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Races that last nanoseconds from outside, taken step by step from inside.

func internalDispatcher(t *testing.T, sent *[]*Delivery) (*Dispatcher, App) {
	return dispatcherOfOneApp(t, Config{Sender: SenderFunc(func(_ context.Context, delivery *Delivery) error {
		*sent = append(*sent, delivery)
		return nil
	})})
}

// dispatcherOfOneApp also checks, when the test has closed it, that nothing is pending or held in memory.
func dispatcherOfOneApp(t *testing.T, cfg Config) (*Dispatcher, App) {
	app := App{ID: "app", Key: "key", Secret: "secret", Webhooks: []Webhook{{URL: "http://localhost/", EventTypes: eventTypes}}}
	cfg.Apps = []App{app}
	d, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		s := d.Stats()
		require.Equal(t, Stats{Emitted: s.Emitted, Rejected: s.Rejected, Queued: s.Delivered + s.Undelivered,
			Delivered: s.Delivered, Undelivered: s.Undelivered, Requests: s.Requests}, s)
	})
	return d, app
}

// An Emit that has read the routes of an app which is then removed and set again must not use an endpoint
// beside the one in use: its events would overtake others.
func TestStaleRoutesReachTheEndpointInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []*Delivery
		d, app := internalDispatcher(t, &sent)
		stale := d.apps.load("app")
		d.RemoveApp("app")
		app.Secret = "rotated"
		require.NoError(t, d.SetApp(app))
		require.NoError(t, d.Emit("app", ChannelOccupied("first")))
		e := ChannelOccupied("second")
		require.NoError(t, d.emit(stale, &e))
		require.NoError(t, d.Close(t.Context()))
		require.Len(t, sent, 1)
		require.Equal(t, 2, sent[0].Events)
		require.NoError(t, Verify("key", "rotated", sent[0].Header, sent[0].Body))
	})
}

// The same when the app does not come back: the event is accepted, and delivered with the credentials that the
// app had, also if a redelivery has made the endpoint anew meanwhile.
func TestStaleRoutesOfARemovedApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []*Delivery
		d, _ := internalDispatcher(t, &sent)
		require.NoError(t, d.Emit("app", ChannelOccupied("first")))
		require.NoError(t, d.Flush(t.Context()))
		stale := d.apps.load("app")
		d.RemoveApp("app")
		require.Empty(t, d.endpoints)
		for _, redeliver := range []bool{false, true} {
			if redeliver {
				require.NoError(t, d.Redeliver(sent[0]))
			}
			e := ChannelOccupied("stale")
			require.NoError(t, d.emit(stale, &e))
			time.Sleep(time.Second)
			synctest.Wait()
			require.Empty(t, d.endpoints, "and the endpoint goes again")
		}
		require.Len(t, sent, 4)
		for _, delivery := range sent {
			require.NoError(t, Verify("key", "secret", delivery.Header, delivery.Body))
		}
		require.NoError(t, d.Close(t.Context()))
	})
}

// An Emit that has passed its first look at whether the dispatcher is closed.
func TestNothingIsAppendedAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []*Delivery
		d, _ := internalDispatcher(t, &sent)
		routes := d.apps.load("app")
		require.NoError(t, d.Close(t.Context()))
		e := routes.routes[0].endpoint
		occupied := ChannelOccupied("room")
		p, err := d.payload(channelOccupied, &occupied)
		require.NoError(t, err)
		require.ErrorIs(t, d.enqueue(e, &occupied, p, &routes.count.queued), ErrClosed)
		require.ErrorIs(t, e.redeliver(&Delivery{Events: 1}, &routes.count.queued), ErrClosed)
		d.RemoveApp("app")
		require.ErrorIs(t, d.enqueue(e, &occupied, p, &routes.count.queued), ErrClosed)
		require.Zero(t, d.Stats().Queued)
	})
}

// A large batch is signed while the one before it is in flight, and again if the app has got another key or secret
// before it leaves.
func TestLargeBatchesAreSignedAhead(t *testing.T) {
	for name, change := range map[string]func(*App){
		"same credentials": func(*App) {},
		"another key":      func(app *App) { app.Key = "another" },
		"another secret":   func(app *App) { app.Secret = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, sent := make(chan struct{}), make(chan *Delivery, 4)
				d, app := dispatcherOfOneApp(t, Config{MaxBatchEvents: 10, Sender: SenderFunc(func(_ context.Context, delivery *Delivery) error {
					<-gate
					sent <- delivery
					return nil
				})})
				batch := func(channel string) {
					for range 10 {
						require.NoError(t, d.Emit("app", ChannelOccupied(channel)))
					}
					synctest.Wait()
				}
				large := strings.Repeat("x", minSignAhead/10)
				for _, channel := range []string{large, large, large, "small"} {
					batch(channel)
				}
				queue := slices.Clone(d.apps.load("app").routes[0].endpoint.lanes[0].queue)
				require.NotNil(t, queue[0].ahead.delivery, "signed, and the first is still in flight")
				require.Nil(t, queue[1].ahead, "there is one before it")
				old := app
				change(&app)
				require.NoError(t, d.SetApp(app))
				gate <- struct{}{}
				synctest.Wait()
				require.NotNil(t, queue[1].ahead.delivery, "now it is next")
				close(gate)
				require.NoError(t, d.Close(t.Context()))
				require.Nil(t, queue[2].ahead, "too small to be worth it")
				first, second := <-sent, <-sent
				require.NoError(t, Verify(old.Key, old.Secret, first.Header, first.Body))
				require.Equal(t, old.Key == app.Key && old.Secret == app.Secret, second == queue[0].ahead.delivery)
				for _, delivery := range []*Delivery{second, <-sent, <-sent} {
					require.NoError(t, Verify(app.Key, app.Secret, delivery.Header, delivery.Body))
				}
			})
		})
	}
}
