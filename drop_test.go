package webhook_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// only chooses one app.
func only(id string) func(string) bool { return func(app string) bool { return app == id } }

// A mute dispatcher's hooks fail the test: nobody hears of what is dropped.
func mute(t *testing.T, cfg webhook.Config) webhook.Config {
	cfg.Hooks = webhook.Hooks{
		Undelivered: func(d *webhook.Delivery, err error) { t.Errorf("undelivered: %v, %v", d, err) },
		GivenUp:     func(d *webhook.Delivery, err error, settle func()) { t.Errorf("given up: %v, %v", d, err); settle() },
	}
	return cfg
}

// What waits is forgotten, in whatever state it waits; what other apps have is not.
func TestDropForgetsWhatWaits(t *testing.T) {
	down := errors.New("down")
	for name, test := range map[string]struct {
		answer error
		events []webhook.Event
		after  time.Duration // when it is dropped
		held   bool          // the dispatcher is, half of that time
		timing bool
	}{
		"in an open batch":            {events: counts(1, 2, 3)},
		"in an open batch while held": {events: counts(1, 2, 3), held: true},
		"in its app's line":           {events: counts(1, 2, 3), held: true, after: 60 * time.Millisecond},
		"in full batches":             {answer: down, events: counts(1, 2, 3, 4, 5, 6, 7, 8), after: time.Second},
		"for the next attempt":        {answer: down, events: counts(1, 2, 3), after: 10 * time.Second},
		"for the next, while held":    {answer: down, events: counts(1, 2, 3), after: 10 * time.Second, held: true},
		"set aside":                   {answer: webhook.ErrRefused, events: counts(1), after: 2 * time.Second},
		"in parts":                    {answer: webhook.ErrRefused, events: counts(1, 2, 3), after: 2 * time.Second},
		"where all is refused":        {answer: webhook.ErrRefused, events: counts(1, 2, 3, 4, 5, 6, 7, 8, 9), after: 10 * time.Second},
		"encrypted":                   {answer: down, events: []webhook.Event{webhook.ChannelOccupied("private-encrypted-c")}, after: time.Second},
		"for a timing rule":           {events: []webhook.Event{webhook.ChannelVacated("c"), webhook.CacheMiss("c")}, timing: true, after: time.Second},
		"for a count's interval":      {events: counts(101, 102, 103), timing: true, after: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &temper{}
				m.set(test.answer)
				cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 4}, func(ctx context.Context, d *webhook.Delivery) error {
					if d.AppID == "other" {
						return nil
					}
					return m.answer(ctx, d)
				})
				if test.timing {
					cfg = cfg.WithPusherTiming()
				}
				cfg.Apps = append(cfg.Apps, testApp("other", "http://localhost/"))
				d := newDispatcher(t, mute(t, cfg))
				resume := func() {}
				hold := func() { resume = d.Hold(t.Context()) }
				if test.held && test.after == 0 {
					hold()
				} else if test.held {
					time.AfterFunc(test.after/2, hold)
				}
				f, g := &follower{}, &follower{}
				follow(t, d, f, test.events...)
				require.NoError(t, d.EmitTicket("other", webhook.ChannelVacated("c"), &webhook.Ticket{Follower: g}))
				if test.after > 0 {
					atTime(test.after)
				}
				flushed := make(chan error, 1)
				if test.after > 0 || test.held { // else it would be sent
					go func() { flushed <- d.Flush(t.Context()) }()
					synctest.Wait()
				} else {
					flushed <- nil
				}
				said := f.said()
				require.NoError(t, d.Drop(t.Context(), only("app")))
				s := d.Stats()
				require.Equal(t, s.Queued, s.Delivered+s.Dropped+s.Pending)
				require.NotZero(t, s.Dropped)
				require.Zero(t, d.Endpoints("app")[0].PendingBytes)
				require.Zero(t, d.Endpoints("app")[0].Pending)
				m.set(nil)
				d.RetryNow("")
				resume()
				atTime(time.Hour)
				require.NoError(t, <-flushed, "Flush does not wait for what is gone")
				require.Equal(t, said, f.said(), "no ticket of what is dropped ends")
				require.Contains(t, g.said(), "0 done")
				require.Zero(t, d.Stats().PendingBytes)
				require.Zero(t, d.Stats().ActiveEndpoints)

				before := len(sent.deliveries())
				follow(t, d, f, webhook.ChannelVacated("c"), webhook.ChannelOccupied("new"))
				atTime(time.Minute)
				require.Greater(t, len(sent.deliveries()), before, "the app is still there")
				require.Contains(t, f.said(), "2 done")
			})
		})
	}
}

// What is on the wire when its app is dropped.
func TestDropWaitsForTheWire(t *testing.T) {
	for name, test := range map[string]struct {
		takes   time.Duration
		ignores bool  // the end of its context
		answer  error // when it was not cancelled, or ignores that
		wait    time.Duration
		lasts   time.Duration // Drop
		err     bool
		want    webhook.Stats
		lines   []string // of the follower, after "queued"
	}{
		"it is accepted": {takes: time.Second, wait: time.Minute, lasts: time.Second,
			want: webhook.Stats{Delivered: 1, Dropped: 2}, lines: []string{"1 ended", "1 done"}},
		"it fails":      {takes: time.Second, answer: errors.New("down"), wait: time.Minute, lasts: time.Second, want: webhook.Stats{Dropped: 3}},
		"it is refused": {takes: time.Second, answer: webhook.ErrRefused, wait: time.Minute, lasts: time.Second, want: webhook.Stats{Dropped: 3}},
		"it is final":   {takes: time.Second, answer: webhook.ErrFinal, wait: time.Minute, lasts: time.Second, want: webhook.Stats{Dropped: 3}},
		"it hangs":      {takes: time.Hour, wait: 5 * time.Second, lasts: 5 * time.Second, want: webhook.Stats{Dropped: 3}},
		"it is accepted although it is cancelled": {takes: 5500 * time.Millisecond, ignores: true, wait: 5 * time.Second,
			lasts: 5500 * time.Millisecond, want: webhook.Stats{Delivered: 1, Dropped: 2}, lines: []string{"1 ended", "1 done"}},
		"it ignores that it is cancelled": {takes: time.Hour, ignores: true, answer: errors.New("late"), wait: 5 * time.Second, lasts: 6 * time.Second, err: true,
			want: webhook.Stats{Dropped: 2, Pending: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1, SendTimeout: 2 * time.Hour}, func(ctx context.Context, _ *webhook.Delivery) error {
					if !first {
						return nil
					}
					first = false
					if test.ignores {
						time.Sleep(test.takes)
						return test.answer
					}
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(test.takes):
						return test.answer
					}
				})
				d := newDispatcher(t, mute(t, cfg))
				f, id := &follower{}, endpointIDs(d)[0]
				follow(t, d, f, counts(0, 1, 2)...)
				synctest.Wait()
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), test.wait)
				defer cancel()
				err := d.Drop(ctx, only("app"))
				require.Equal(t, test.lasts, time.Since(began))
				require.Equal(t, test.err, err != nil, "%v", err)
				if test.err {
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				s := d.Stats()
				require.Equal(t, test.want, webhook.Stats{Delivered: s.Delivered, Dropped: s.Dropped, Pending: s.Pending, Undelivered: s.Undelivered})
				var lines []string
				for _, line := range f.said()[3:] {
					lines = append(lines, strings.TrimSuffix(line, " "+id))
				}
				require.Equal(t, test.lines, lines)

				d.Purge("app") // what was dropped stays so
				again := &follower{}
				follow(t, d, again, counts(3, 4)...)
				atTime(30 * time.Minute)
				if test.err {
					require.Len(t, sent.deliveries(), 1, "nothing overtakes what is on the wire")
					atTime(2 * time.Hour)
				}
				all := sent.deliveries()
				require.Len(t, all, 3)
				for i, delivery := range all[1:] {
					require.Equal(t, 3+i, parse(t, delivery.Body).Events[0].SubscriptionCount)
				}
				require.Contains(t, again.said(), "2 done")
			})
		})
	}
}

// A lateFollower takes its time.
type lateFollower struct{ follower }

func (f *lateFollower) Ended(t *webhook.Ticket, endpoint string) {
	time.Sleep(time.Millisecond)
	f.follower.Ended(t, endpoint)
}

func TestTicketsHaveEndedWhenDropReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error {
			time.Sleep(time.Second)
			return nil
		})
		d := newDispatcher(t, mute(t, cfg))
		f := &lateFollower{}
		require.NoError(t, d.EmitTicket("app", webhook.ChannelOccupied("c"), &webhook.Ticket{Follower: f}))
		atTime(500 * time.Millisecond)
		require.NoError(t, d.Drop(t.Context(), only("app")))
		require.Contains(t, f.said(), "0 done")
	})
}

// The part of a divided batch that is on the wire may arrive; the rest is forgotten at once.
func TestDropWhileAPartIsOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(_ context.Context, d *webhook.Delivery) error {
			if d.Events > 2 {
				return webhook.ErrRefused
			}
			time.Sleep(time.Second)
			return nil
		})
		d := newDispatcher(t, mute(t, cfg))
		f := &follower{}
		follow(t, d, f, counts(0, 1, 2, 3)...)
		atTime(500 * time.Millisecond)
		require.NoError(t, d.Drop(t.Context(), only("app")))
		s := d.Stats()
		require.Equal(t, []uint64{2, 2, 0}, []uint64{s.Delivered, s.Dropped, s.Pending})
		require.Equal(t, 2, strings.Count(strings.Join(f.said(), "\n"), "done"))
	})
}

// What was being given up before Drop goes on: its tickets end when it is settled.
func TestDropLeavesWhatIsBeingSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stored storer
		cfg, _ := oneEndpoint(webhook.Config{Hooks: webhook.Hooks{GivenUp: stored.givenUp}}, func(context.Context, *webhook.Delivery) error { return webhook.ErrFinal })
		d := newDispatcher(t, cfg)
		f := &follower{}
		follow(t, d, f, webhook.ChannelOccupied("c"))
		atTime(time.Second)
		require.NoError(t, d.Drop(t.Context(), only("app")))
		require.NotContains(t, f.said(), "1 done")
		stored.settleAll()
		require.Contains(t, f.said(), "1 done")
		require.Zero(t, d.Stats().Dropped)
	})
}

// Close hands back nothing that was dropped, also if that is still on the wire.
func TestCloseAfterDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(context.Context, *webhook.Delivery) error {
			time.Sleep(time.Hour)
			return nil
		})
		d := newDispatcher(t, mute(t, cfg))
		emit(t, d, "app", counts(0, 1)...)
		synctest.Wait()
		require.Error(t, d.Drop(ended(t), only("app")))
		require.NoError(t, d.Close(ended(t)))
		s := d.Stats()
		require.Equal(t, []uint64{2, 0}, []uint64{s.Dropped, s.Pending})
		require.NoError(t, d.Drop(ended(t), only("app")), "there is nothing any more")
		time.Sleep(2 * time.Hour)
	})
}

// Of many apps those are dropped that match, and others' deliveries go on meanwhile.
func TestDropOfManyApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const apps = 100
		m := &temper{}
		m.set(errors.New("down"))
		cfg := webhook.Config{Sender: webhook.SenderFunc(m.answer)}.WithPusherTiming()
		for i := range apps {
			cfg.Apps = append(cfg.Apps, testApp(strings.Repeat("x", i+1), "http://localhost/"))
		}
		d := newDispatcher(t, mute(t, cfg))
		for _, app := range cfg.Apps {
			emit(t, d, app.ID, counts(0, 101, 102)...)
			emit(t, d, app.ID, webhook.ChannelVacated("c"), webhook.MemberRemoved("presence-c", "ada"))
		}
		atTime(time.Second)
		var asked []string
		require.NoError(t, d.Drop(t.Context(), func(id string) bool {
			asked = append(asked, id)
			d.Stats() // no lock is held
			d.Endpoints(id)
			return len(id)%2 == 0
		}))
		require.Len(t, asked, apps)
		require.EqualValues(t, apps/2*5, d.Stats().Dropped)
		require.EqualValues(t, apps/2*3, d.Stats().Held)
		m.set(nil)
		atTime(time.Hour)
		require.EqualValues(t, apps/2*5, d.Stats().Delivered)
	})
}

// An app that was removed and dropped leaves nothing behind.
func TestDropOfARemovedApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, mute(t, cfg.WithPusherTiming()))
		emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelVacated("b"))
		d.RemoveApp("app")
		atTime(time.Second)
		require.NoError(t, d.Drop(t.Context(), only("app")))
		require.False(t, d.HasAccount("app"))
		require.Empty(t, d.Endpoints(""))
	})
}

// Over a real connection: the server sees its request go when Drop's time is up.
func TestDropOverHTTP(t *testing.T) {
	arrived, gone := make(chan bool), make(chan bool)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		drain(r)
		arrived <- true
		<-r.Context().Done()
		gone <- true
	}))
	defer server.Close()
	d := newDispatcher(t, mute(t, webhook.Config{Apps: []webhook.App{testApp("app", server.URL)}, Sender: newSender(t)}))
	emit(t, d, "app", webhook.ChannelOccupied("c"))
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.NoError(t, d.Drop(ctx, only("app")))
	require.Zero(t, d.Stats().Pending)
	<-gone
}
