package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A follower writes down what it is told: a line for each call.
type follower struct {
	skip string // an endpoint

	mu    sync.Mutex
	lines []string
}

func (f *follower) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}

func (f *follower) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.lines...)
}

func (f *follower) Queue(t *webhook.Ticket, endpoint string) bool {
	if endpoint == f.skip {
		return false
	}
	f.say("%d queued %s", t.Position, endpoint)
	return true
}

func (f *follower) Held(t *webhook.Ticket)       { f.say("%d held", t.Position) }
func (f *follower) Remembered(t *webhook.Ticket) { f.say("%d remembered", t.Position) }
func (f *follower) Ended(t *webhook.Ticket, endpoint string) {
	f.say("%d ended %s", t.Position, endpoint)
}
func (f *follower) Done(t *webhook.Ticket) { f.say("%d done", t.Position) }

// follow emits events with tickets 1, 2 and so on.
func follow(t *testing.T, d *webhook.Dispatcher, f *follower, events ...webhook.Event) {
	t.Helper()
	for i, e := range events {
		require.NoError(t, d.EmitTicket("app", e, &webhook.Ticket{Follower: f, Position: uint64(i + 1)}))
	}
}

// endpointIDs are those of the app's endpoints, in order of their URLs.
func endpointIDs(d *webhook.Dispatcher) (ids []string) {
	for _, s := range d.Endpoints("app") {
		ids = append(ids, s.ID)
	}
	return ids
}

func TestATicketEndsWhenEachEndpointHasTheEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
			if strings.HasPrefix(d.URL, "http://b") {
				time.Sleep(time.Second)
			}
			return nil
		}}
		d := newDispatcher(t, webhook.Config{Sender: sent, Apps: []webhook.App{testApp("app", "http://a.test", "http://b.test")}})
		ids := endpointIDs(d)
		f := &follower{}
		follow(t, d, f, webhook.ChannelOccupied("c"))
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, []string{"1 queued " + ids[0], "1 queued " + ids[1], "1 ended " + ids[0]}, f.said())
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 ended " + ids[1], "1 done"}, f.said()[3:])
		for _, delivery := range sent.deliveries() {
			require.Equal(t, ids[strings.Index("ab", delivery.URL[7:8])], delivery.EndpointID())
		}
	})
}

func TestAnEndpointThatTheFollowerLeavesOutGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{}
		d := newDispatcher(t, webhook.Config{Sender: sent, Apps: []webhook.App{testApp("app", "http://a.test", "http://b.test")}})
		f := &follower{skip: endpointIDs(d)[0]}
		follow(t, d, f, webhook.ChannelOccupied("c"))
		closeNow(t, d)
		require.Len(t, sent.deliveries(), 1)
		require.Equal(t, "http://b.test", sent.deliveries()[0].URL)
		require.Equal(t, "1 done", f.said()[2])
	})
}

func TestATicketEndsWithoutAnEndpoint(t *testing.T) {
	occupied, vacated := webhook.ChannelOccupied("c"), webhook.ChannelVacated("c")
	for name, test := range map[string]struct {
		types  []webhook.EventType
		events []webhook.Event
		want   []string
	}{
		"nobody wants it":       {[]webhook.EventType{webhook.TypeCacheMiss}, []webhook.Event{occupied}, []string{"1 done"}},
		"a pair that cancels":   {every, []webhook.Event{vacated, occupied}, []string{"1 held", "1 done", "2 done"}},
		"the latest count wins": {every, counts(101, 102, 103, 1), []string{"2 held", "2 done", "3 held", "3 done"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				app := testApp("app", "http://a.test")
				app.Webhooks[0].EventTypes = test.types
				d := newDispatcher(t, webhook.Config{Sender: &recorder{}, Apps: []webhook.App{app}}.WithPusherTiming())
				f := &follower{}
				follow(t, d, f, test.events...)
				var said []string
				for _, line := range f.said() {
					if !strings.Contains(line, "queued") {
						said = append(said, line)
					}
				}
				require.Equal(t, test.want, said)
			})
		})
	}
}

func counts(all ...int) (events []webhook.Event) {
	for _, n := range all {
		events = append(events, webhook.SubscriptionCount("c", n))
	}
	return events
}

func TestAHeldEventIsDoneOnceItHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, webhook.Config{Sender: &recorder{}, Apps: []webhook.App{testApp("app", "http://a.test")}}.WithPusherTiming())
		id, f := endpointIDs(d)[0], &follower{}
		follow(t, d, f, webhook.ChannelVacated("c"))
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"1 held"}, f.said())
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"1 queued " + id, "1 ended " + id, "1 done"}, f.said()[1:])
	})
}

func TestAnUntimedEventPassesTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, webhook.Config{Sender: &recorder{}, Apps: []webhook.App{testApp("app", "http://a.test")}}.WithPusherTiming())
		f := &follower{}
		require.NoError(t, d.EmitTicket("app", webhook.ChannelVacated("c"), &webhook.Ticket{Follower: f, Untimed: true}))
		time.Sleep(time.Second)
		require.Contains(t, f.said(), "0 done")
	})
}

// A storer is a Hooks.GivenUp that settles when the test says so.
type storer struct {
	mu     sync.Mutex
	errs   []error
	events int
	settle []func()
}

func (s *storer) givenUp(d *webhook.Delivery, err error, settle func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs, s.events, s.settle = append(s.errs, err), s.events+d.Events, append(s.settle, settle)
}

// took returns the errors of what was given up, and how many events that was.
func (s *storer) took() (errs []error, events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]error{}, s.errs...), s.events
}

func (s *storer) settleAll() {
	s.mu.Lock()
	all := s.settle
	s.settle = nil
	s.mu.Unlock()
	for _, settle := range all {
		settle()
		settle() // twice is once
	}
}

func TestAFullEndpointGivesUpAndOthersDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
			if strings.HasPrefix(d.URL, "http://a") {
				return errors.New("down")
			}
			return nil
		}}
		var stored storer
		d := newDispatcher(t, webhook.Config{Sender: sent, MaxEventBytes: 512, MaxBatchBytes: 1 << 10, MaxEndpointQueuedBytes: 4 << 10,
			Apps: []webhook.App{testApp("app", "http://a.test", "http://b.test")}, Hooks: webhook.Hooks{GivenUp: stored.givenUp}})
		ids, f := endpointIDs(d), &follower{}
		for i := range 200 {
			follow(t, d, f, webhook.SubscriptionCount("c", i))
			if i%10 == 9 {
				time.Sleep(100 * time.Millisecond) // b keeps up
			}
		}
		time.Sleep(time.Second)
		require.Equal(t, 200, strings.Count(strings.Join(f.said(), "\n"), "ended "+ids[1]))
		require.NotContains(t, strings.Join(f.said(), "\n"), "ended "+ids[0], "not settled yet")
		errs, full := stored.took()
		require.ErrorIs(t, errs[0], webhook.ErrQueueFull)
		require.Greater(t, full, 100)
		stored.settleAll()
		require.Equal(t, full, strings.Count(strings.Join(f.said(), "\n"), "ended "+ids[0]))
		require.EqualValues(t, 200-full, d.Stats().Pending)
	})
}

func TestFlushAndCloseWaitUntilTheGivenUpIsSettled(t *testing.T) {
	final := &recorder{answer: func(context.Context, *webhook.Delivery) error { return webhook.ErrFinal }}
	start := func(t *testing.T) (*webhook.Dispatcher, *storer, *follower) {
		stored, f := &storer{}, &follower{}
		d := newDispatcher(t, webhook.Config{Sender: final, Apps: []webhook.App{testApp("app", "http://a.test")}, Hooks: webhook.Hooks{GivenUp: stored.givenUp}})
		follow(t, d, f, webhook.ChannelOccupied("c"))
		time.Sleep(time.Second)
		return d, stored, f
	}
	for name, wait := range map[string]func(*webhook.Dispatcher, context.Context) error{
		"Flush": (*webhook.Dispatcher).Flush, "Close": (*webhook.Dispatcher).Close,
	} {
		t.Run(name+" returns when it is", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, stored, f := start(t)
				began := time.Now()
				time.AfterFunc(3*time.Second, stored.settleAll)
				require.NoError(t, wait(d, t.Context()))
				require.Equal(t, 3*time.Second, time.Since(began))
				require.Equal(t, "1 done", f.said()[2])
			})
		})
		t.Run(name+" waits also when the app was removed", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, stored, _ := start(t)
				d.RemoveApp("app")
				began := time.Now()
				time.AfterFunc(3*time.Second, stored.settleAll)
				require.NoError(t, wait(d, t.Context()))
				require.Equal(t, 3*time.Second, time.Since(began))
			})
		})
		t.Run(name+" keeps its time", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, stored, _ := start(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				require.ErrorIs(t, wait(d, ctx), context.DeadlineExceeded)
				stored.settleAll()
			})
		})
	}
}

func TestTicketsOfWhatCloseHandsBackDoNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &recorder{answer: func(context.Context, *webhook.Delivery) error { return errors.New("down") }}
		var stored storer
		d := newDispatcher(t, webhook.Config{Sender: down, Apps: []webhook.App{testApp("app", "http://a.test")}, Hooks: webhook.Hooks{GivenUp: stored.givenUp}}.WithPusherTiming())
		id, f := endpointIDs(d)[0], &follower{}
		follow(t, d, f, webhook.ChannelOccupied("c"), webhook.ChannelVacated("d"))
		time.Sleep(2 * time.Second)
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(t.Context()), &left)
		require.Len(t, left.Deliveries, 1)
		require.Equal(t, []string{"1 queued " + id, "2 held"}, f.said())
		errs, _ := stored.took()
		require.Empty(t, errs)
		require.ErrorIs(t, d.EmitTicket("app", webhook.ChannelOccupied("c"), &webhook.Ticket{Follower: f}), webhook.ErrClosed)
	})
}

// What finds its endpoint full while Close is called is in Close's accounts.
func TestEmitTicketBesideClose(t *testing.T) {
	for range 200 {
		d, err := webhook.New(webhook.Config{Sender: &recorder{answer: func(context.Context, *webhook.Delivery) error { return errors.New("down") }},
			MaxEventBytes: 512, MaxBatchBytes: 1 << 10, MaxEndpointQueuedBytes: 4 << 10, Apps: []webhook.App{testApp("app", "http://a.test")}})
		require.NoError(t, err)
		f := &follower{}
		var emitting sync.WaitGroup
		for range 2 {
			emitting.Go(func() {
				for d.EmitTicket("app", webhook.ChannelOccupied("c"), &webhook.Ticket{Follower: f}) == nil {
				}
			})
		}
		time.Sleep(100 * time.Microsecond) // any moment will do
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = d.Close(ctx)
		s := d.Stats()
		require.Equal(t, s.Queued, s.Delivered+s.Undelivered)
		emitting.Wait()
	}
}

// Whatever happens to batches, each ticket ends once at each endpoint where it was queued, and then is done.
func TestTicketsAreSplitWithTheirEvents(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			chance := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex
			sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
				mu.Lock()
				took, n := time.Duration(chance.IntN(50))*time.Millisecond, chance.IntN(20)
				mu.Unlock()
				time.Sleep(took)
				switch {
				case strings.Contains(string(d.Body), `"poison`), n == 0:
					return webhook.ErrRefused
				case n == 1:
					return &webhook.StatusError{Code: 413}
				case n < 6:
					return errors.New("down")
				case n == 7:
					return webhook.ErrFinal
				}
				return nil
			}}
			cfg := webhook.Config{Sender: sent, RetryFor: 20 * time.Second, MaxBatchEvents: 20, MaxEventBytes: 512, MaxBatchBytes: 2 << 10,
				MaxEndpointQueuedBytes: 8 << 10, Apps: []webhook.App{testApp("app", "http://a.test", "http://b.test")}}.WithPusherTiming()
			if seed%2 == 0 {
				cfg.MaxInFlight = 3
			}
			cfg.Hooks.GivenUp = func(_ *webhook.Delivery, _ error, settle func()) { time.AfterFunc(time.Second, settle) }
			d := newDispatcher(t, cfg)
			f, n := &follower{}, 300
			for i := range n {
				mu.Lock()
				e := webhook.SubscriptionCount(fmt.Sprint("c", chance.IntN(9)), i)
				switch chance.IntN(8) {
				case 0:
					e.Channel = fmt.Sprint("poison", i)
				case 1:
					e = webhook.MemberRemoved("presence-c", fmt.Sprint(chance.IntN(5)))
				case 2:
					e = webhook.MemberAdded("presence-c", fmt.Sprint(chance.IntN(5)))
				case 3:
					_ = d.Emit("app", e) // without a ticket
				}
				wait := time.Duration(chance.IntN(30)) * time.Millisecond
				mu.Unlock()
				require.NoError(t, d.EmitTicket("app", e, &webhook.Ticket{Follower: f, Position: uint64(i)}))
				time.Sleep(wait)
				if i == 200 {
					d.Purge("app")
				}
			}
			time.Sleep(time.Hour)
			require.NoError(t, d.Flush(t.Context()))
			checkTickets(t, f.said(), n)
		})
	}
}

func checkTickets(t *testing.T, said []string, n int) {
	t.Helper()
	open, done := map[string]int{}, map[string]bool{}
	for _, line := range said {
		position, rest, _ := strings.Cut(line, " ")
		what, endpoint, _ := strings.Cut(rest, " ")
		require.False(t, done[position], "after it was done: %s", line)
		switch key := position + " " + endpoint; what {
		case "queued":
			open[key]++
			require.Equal(t, 1, open[key], line)
		case "ended":
			open[key]--
			require.Zero(t, open[key], line)
		case "done":
			done[position] = true
		}
	}
	for key, left := range open {
		require.Zero(t, left, "%s has not ended", key)
	}
	require.Len(t, done, n)
}

func TestAnEventIsAsOldAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stored storer
		down := &recorder{answer: func(context.Context, *webhook.Delivery) error { return errors.New("down") }}
		d := newDispatcher(t, webhook.Config{Sender: down, RetryFor: 5 * time.Minute, Apps: []webhook.App{testApp("app", "http://a.test")},
			Hooks: webhook.Hooks{GivenUp: stored.givenUp}})
		at := time.Now().Add(-5 * time.Minute)
		old := webhook.ChannelOccupied("c")
		old.At = at
		emit(t, d, "app", old)
		require.Equal(t, at.UTC(), d.Endpoints("app")[0].Oldest.UTC())
		time.Sleep(10 * time.Second)
		errs, _ := stored.took()
		require.Len(t, errs, 1, "too old after its second failure")
		require.Equal(t, at.UTC(), down.deliveries()[0].CreatedAt)
		stored.settleAll()

		future := webhook.ChannelOccupied("c")
		future.At = time.Now().Add(time.Hour)
		emit(t, d, "app", future)
		require.Equal(t, time.Now().UTC(), d.Endpoints("app")[0].Oldest.UTC())
		time.Sleep(8 * time.Minute)
		errs, _ = stored.took()
		require.Len(t, errs, 2, "as old as if it had said nothing")
		stored.settleAll()
	})
}

// After a standstill events come faster than they happened.
func TestTimingRulesGoByTheTimeOfTheEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now().Add(-time.Hour)
		at := func(e webhook.Event, after time.Duration) webhook.Event { e.At = began.Add(after); return e }
		for name, test := range map[string]struct {
			events []webhook.Event
			want   []string
		}{
			"back within the grace": {[]webhook.Event{at(webhook.ChannelVacated("c"), 0), at(webhook.ChannelOccupied("c"), 2999*time.Millisecond)}, nil},
			"back after it": {[]webhook.Event{at(webhook.ChannelVacated("c"), 0), at(webhook.ChannelOccupied("c"), 3*time.Second)},
				[]string{"channel_vacated", "channel_occupied"}},
			"two cache misses within the window": {[]webhook.Event{at(webhook.CacheMiss("c"), 0), at(webhook.CacheMiss("c"), 999*time.Millisecond)}, []string{"cache_miss"}},
			"a third after it": {[]webhook.Event{at(webhook.CacheMiss("c"), 0), at(webhook.CacheMiss("c"), time.Millisecond), at(webhook.CacheMiss("c"), time.Second)},
				[]string{"cache_miss", "cache_miss"}},
			"counts, one an interval": {[]webhook.Event{at(webhook.SubscriptionCount("c", 101), 0), at(webhook.SubscriptionCount("c", 102), time.Second),
				at(webhook.SubscriptionCount("c", 103), 6*time.Second), at(webhook.SubscriptionCount("c", 104), 30*time.Second)},
				[]string{"101", "102", "103", "104"}},
		} {
			sent := &recorder{}
			d := newDispatcher(t, webhook.Config{Sender: sent, Apps: []webhook.App{testApp("app", "http://a.test")}}.WithPusherTiming())
			emit(t, d, "app", test.events...)
			time.Sleep(time.Minute)
			var got []string
			for _, delivery := range sent.deliveries() {
				for _, e := range parse(t, delivery.Body).Events {
					if e.SubscriptionCount > 0 {
						got = append(got, fmt.Sprint(e.SubscriptionCount))
					} else {
						got = append(got, string(e.Name))
					}
				}
			}
			require.Equal(t, test.want, got, name)
		}
	})
}

func TestValidateSaysWhatEmitWouldRefuse(t *testing.T) {
	for _, e := range []webhook.Event{{}, {Type: "x", Channel: "c"}, webhook.ChannelOccupied(""), webhook.MemberAdded("c", ""), webhook.SubscriptionCount("c", -1)} {
		require.ErrorIs(t, e.Validate(), webhook.ErrInvalidEvent, "%+v", e)
	}
	valid := webhook.CacheMiss("c")
	require.NoError(t, valid.Validate())
}
