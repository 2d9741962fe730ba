package webhook_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A temper is how all endpoints answer until it is changed.
type temper struct{ err atomic.Pointer[error] }

func (m *temper) set(err error) { m.err.Store(&err) }

func (m *temper) answer(context.Context, *webhook.Delivery) error {
	if err := m.err.Load(); err != nil {
		return *err
	}
	return nil
}

// ended returns a context that has ended.
func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestNoAttemptStartsWhileHeld(t *testing.T) {
	room := func(n int) (events []webhook.Event) {
		for i := range n {
			events = append(events, webhook.SubscriptionCount("room", i))
		}
		return events
	}
	for name, test := range map[string]struct {
		answer error // before and while it is held
		before func(t *testing.T, d *webhook.Dispatcher)
		during func(t *testing.T, d *webhook.Dispatcher)
		want   int // events that arrive once everything is accepted
	}{
		"the first of an endpoint": {during: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(3)...) }, want: 3},
		"the next of one that answers": {
			before: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(3)...); atTime(time.Second) },
			during: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", webhook.ChannelOccupied("c")) }, want: 4,
		},
		"an open batch": {before: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(3)...) }, want: 3},
		"an encrypted channel": {during: func(t *testing.T, d *webhook.Dispatcher) {
			emit(t, d, "app", webhook.ChannelOccupied("private-encrypted-c"))
		}, want: 1},
		"after a failure": {answer: errors.New("down"),
			before: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(3)...); atTime(10 * time.Second) }, want: 3},
		"after RetryNow": {answer: errors.New("down"),
			before: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(3)...); atTime(10 * time.Second) },
			during: func(_ *testing.T, d *webhook.Dispatcher) { d.RetryNow("") }, want: 3},
		"what was set aside": {answer: webhook.ErrRefused,
			before: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(1)...); atTime(2 * time.Second) }, want: 1},
		"the parts of a batch": {answer: webhook.ErrRefused,
			before: func(t *testing.T, d *webhook.Dispatcher) {
				emit(t, d, "app", room(3)...)
				atTime(50 * time.Millisecond)
			}, want: 3},
		"a probe where everything is refused": {answer: webhook.ErrRefused,
			before: func(t *testing.T, d *webhook.Dispatcher) { emit(t, d, "app", room(9)...); atTime(10 * time.Second) }, want: 9},
		"what is redelivered": {during: func(t *testing.T, d *webhook.Dispatcher) {
			require.NoError(t, d.Redeliver(delivery("http://localhost/")))
		}, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &temper{}
				m.set(test.answer)
				cfg, sent := oneEndpoint(webhook.Config{}, m.answer)
				d := newDispatcher(t, cfg)
				if test.before != nil {
					test.before(t, d)
				}
				resume := d.Hold(t.Context())
				synctest.Wait() // who was between two attempts
				sends, state := len(sent.deliveries()), endpointState(d)
				if test.during != nil {
					test.during(t, d)
				}
				atTime(time.Hour)
				require.Len(t, sent.deliveries(), sends)
				require.Equal(t, state, endpointState(d), "nothing is known that was not known before")
				m.set(nil)
				resume()
				resume()
				atTime(time.Hour)
				require.EqualValues(t, test.want, d.Stats().Delivered)
			})
		})
	}
}

// endpointState is what the app's endpoint is known for.
func endpointState(d *webhook.Dispatcher) webhook.EndpointStatus {
	s := d.Endpoints("app")[0]
	return webhook.EndpointStatus{State: s.State, Failures: s.Failures, LastError: s.LastError, LastSuccess: s.LastSuccess}
}

// The age at which an event is given up is the time for which it could have been sent.
func TestTimeHeldIsNoAge(t *testing.T) {
	const retryFor, hold = time.Minute, time.Hour
	past := func(e webhook.Event) webhook.Event {
		e.At = time.Now().Add(-retryFor / 2)
		return e
	}
	for name, test := range map[string]struct {
		emit   func(d *webhook.Dispatcher, held func()) error // held holds it for an hour
		answer error                                          // in the place of a failure
		timing bool
		left   time.Duration // at least, after emit has returned, until it is given up
	}{
		"emitted before": {left: retryFor, emit: func(d *webhook.Dispatcher, held func()) error {
			err := d.Emit("app", webhook.ChannelOccupied("c"))
			held()
			return err
		}},
		"emitted while held": {left: retryFor, emit: func(d *webhook.Dispatcher, held func()) error {
			time.AfterFunc(time.Minute, func() { _ = d.Emit("app", webhook.ChannelOccupied("c")) })
			held()
			return nil
		}},
		"emitted after": {left: retryFor, emit: func(d *webhook.Dispatcher, held func()) error {
			held()
			return d.Emit("app", webhook.ChannelOccupied("c"))
		}},
		"a batch of several": {left: retryFor, emit: func(d *webhook.Dispatcher, held func()) error {
			_ = d.Emit("app", webhook.ChannelOccupied("b"))
			held()
			return d.Emit("app", webhook.ChannelOccupied("c"))
		}},
		"refused": {left: retryFor - 10*time.Second, answer: &webhook.StatusError{Code: 500}, emit: func(d *webhook.Dispatcher, held func()) error {
			held()
			err := d.Emit("app", webhook.ChannelOccupied("c"))
			held()
			return err
		}},
		"with its own time, some of it past": {left: retryFor / 2, emit: func(d *webhook.Dispatcher, held func()) error {
			held()
			err := d.Emit("app", past(webhook.ChannelOccupied("c")))
			held()
			return err
		}},
		"with its own time, held by a rule meanwhile": {left: retryFor / 2, timing: true, emit: func(d *webhook.Dispatcher, held func()) error {
			held()
			err := d.Emit("app", past(webhook.ChannelVacated("c")))
			held()
			return err
		}},
		"redelivered": {left: retryFor, emit: func(d *webhook.Dispatcher, held func()) error {
			held()
			err := d.Redeliver(delivery("http://localhost/"))
			held()
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, _ := oneEndpoint(webhook.Config{RetryFor: retryFor, RetryWaitMin: 4 * time.Second, RetryWaitMax: 4 * time.Second},
					func(context.Context, *webhook.Delivery) error { return cmp.Or(test.answer, errors.New("down")) })
				if test.timing {
					cfg = cfg.WithPusherTiming()
				}
				d := newDispatcher(t, cfg)
				require.NoError(t, test.emit(d, func() {
					one := d.Hold(t.Context())
					time.Sleep(hold / 2)
					other := d.Hold(t.Context())
					time.Sleep(hold / 2)
					one()
					other()
				}))
				time.Sleep(test.left)
				require.EqualValues(t, 0, d.Stats().Undelivered)
				time.Sleep(15 * time.Second)
				require.NotZero(t, d.Stats().Undelivered)
			})
		})
	}
}

// What fails before ctx ends has failed, but is not given up for its age, nor is what is behind it.
func TestNothingIsGivenUpForItsAgeWhileHeld(t *testing.T) {
	for name, test := range map[string]struct {
		answer error
		last   int // the attempt after which it is given up, if it is too old
	}{"failed": {errors.New("down"), 2}, "refused": {&webhook.StatusError{Code: 500}, 4}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, sent := oneEndpoint(webhook.Config{RetryFor: time.Second, SendTimeout: time.Minute}, func(context.Context, *webhook.Delivery) error {
					time.Sleep(10 * time.Second)
					return test.answer
				})
				d := newDispatcher(t, cfg)
				emit(t, d, "app", webhook.ChannelOccupied("c"))
				for len(sent.deliveries()) < test.last {
					atTime(time.Second)
				}
				resume := d.Hold(t.Context())
				atTime(time.Minute)
				require.Len(t, sent.deliveries(), test.last)
				require.Zero(t, d.Stats().Undelivered)
				require.EqualValues(t, 1, d.Stats().Pending)
				resume()
				atTime(time.Minute)
				require.EqualValues(t, 1, d.Stats().Undelivered)
			})
		})
	}
}

// When ctx ends the Sends are cancelled, and what was cancelled was not sent: no failure, no attempt, the same id and order.
func TestWhatHoldCancelsWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		first := true
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2}, nil)
		sent.answer = func(ctx context.Context, d *webhook.Delivery) error {
			if first {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		cfg.Hooks.Attempt = func(_ *webhook.Delivery, a webhook.Attempt) { attempts = append(attempts, a.N) }
		d := newDispatcher(t, cfg)
		emit(t, d, "app", counts(0, 1, 2)...)
		atTime(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		resume := d.Hold(ctx)
		atTime(time.Second)
		require.Equal(t, 1, d.Endpoints("app")[0].InFlight, "it may go on until ctx ends")
		cancel()
		synctest.Wait()
		status := d.Endpoints("app")[0]
		require.Equal(t, []int{0, 0}, []int{status.InFlight, status.Failures})
		require.Equal(t, webhook.EndpointOK, status.State)
		require.Empty(t, attempts)
		first = false
		atTime(time.Hour)
		require.Len(t, sent.deliveries(), 1)
		resume()
		atTime(time.Second)
		all := sent.deliveries()
		require.Len(t, all, 4)
		require.Equal(t, all[0].ID, all[1].ID)
		require.Equal(t, []int{1, 1, 1}, attempts)
		for i, delivery := range all[1:] {
			require.Equal(t, i, parse(t, delivery.Body).Events[0].SubscriptionCount)
		}
	})
}

func TestWhatHoldCancels(t *testing.T) {
	for name, test := range map[string]struct {
		returns error // although it is cancelled
		before  bool  // ctx ends
		want    webhook.Stats
		failed  int
	}{
		"is accepted if its Sender says so":  {nil, false, webhook.Stats{Emitted: 1, Queued: 1, Delivered: 1, Requests: 1}, 0},
		"is pending if it fails":             {errors.New("down"), false, webhook.Stats{Emitted: 1, Queued: 1, Pending: 1}, 0},
		"is pending if it is final":          {webhook.ErrFinal, false, webhook.Stats{Emitted: 1, Queued: 1, Pending: 1}, 0},
		"has failed if it was before":        {errors.New("down"), true, webhook.Stats{Emitted: 1, Queued: 1, Pending: 1}, 1},
		"has been accepted if it was before": {nil, true, webhook.Stats{Emitted: 1, Queued: 1, Delivered: 1, Requests: 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, _ := oneEndpoint(webhook.Config{}, func(ctx context.Context, _ *webhook.Delivery) error {
					if test.before {
						time.Sleep(time.Second)
					} else {
						<-ctx.Done()
					}
					return test.returns
				})
				d := newDispatcher(t, cfg)
				emit(t, d, "app", webhook.ChannelOccupied("c"))
				atTime(100 * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				defer d.Hold(ctx)()
				atTime(10 * time.Second)
				got := d.Stats()
				got.PendingBytes, got.ActiveEndpoints = 0, 0
				require.Equal(t, test.want, got)
				require.Equal(t, test.failed, d.Endpoints("app")[0].Failures)
				d.Purge("app")
			})
		})
	}
}

func TestAResumeInTimeCancelsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, func(ctx context.Context, _ *webhook.Delivery) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(3 * time.Second):
				return nil
			}
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		atTime(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		resume := d.Hold(ctx)
		atTime(500 * time.Millisecond)
		resume()
		defer d.Hold(t.Context())() // another one, which has more time
		atTime(time.Minute)
		require.Len(t, sent.deliveries(), 1)
		require.EqualValues(t, 1, d.Stats().Delivered)
	})
}

func TestHeldUntilAllHaveResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		one, other := d.Hold(t.Context()), d.Hold(t.Context())
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		one()
		one()
		atTime(time.Minute)
		require.Empty(t, sent.deliveries())
		other()
		atTime(time.Second)
		require.Len(t, sent.deliveries(), 1)
	})
}

// A Send that goes on although it is cancelled keeps its lane: nothing overtakes it, and it is no failure before resume.
func TestASendThatIgnoresHoldIsNotOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{SendTimeout: time.Second}, nil)
		sent.answer = func(context.Context, *webhook.Delivery) error {
			if len(sent.deliveries()) == 1 {
				time.Sleep(time.Hour)
				return errors.New("cancelled")
			}
			return nil
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		atTime(500 * time.Millisecond)
		resume := d.Hold(ended(t))
		emit(t, d, "app", webhook.ChannelVacated("c"))
		atTime(30 * time.Minute)
		require.Zero(t, d.Endpoints("app")[0].Failures)
		resume()
		atTime(4 * time.Minute)
		require.Len(t, sent.deliveries(), 1)
		require.NotZero(t, d.Endpoints("app")[0].Failures, "what is behind it ages again")
		atTime(time.Hour)
		all := sent.deliveries()
		require.Equal(t, all[0].ID, all[1].ID)
	})
}

func TestTimingRulesStandStillWhileHeld(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.ChannelVacated("a"), webhook.ChannelVacated("b"), webhook.CacheMiss("c"), webhook.ChannelVacated("d"))
		atTime(time.Second / 2)
		resume := d.Hold(t.Context())
		atTime(time.Hour)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		resume()
		emit(t, d, "app", webhook.ChannelOccupied("b"), webhook.CacheMiss("c"))
		emit(t, d, "app", webhook.ChannelVacated("e"))
		atTime(grace - time.Second/2 - 1)
		require.Equal(t, []string{"cache_miss c"}, said())
		resume = d.Hold(t.Context())
		atTime(time.Hour) // with a nanosecond to go
		require.Equal(t, []string{"cache_miss c"}, said())
		resume()
		atTime(1)
		require.Equal(t, []string{"cache_miss c", "channel_vacated d"}, said())
		atTime(time.Second / 2)
		require.Equal(t, []string{"cache_miss c", "channel_vacated d", "channel_vacated e"}, said())
		require.EqualValues(t, 5, d.Stats().Suppressed)
	})
}

// A lane that has got a place and has not started when it is held does not start.
func TestHoldComesBeforeAnAttemptThatHasAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, nil)
		d := newDispatcher(t, cfg)
		f := &stuckFollower{goOn: make(chan bool)}
		for range 2 {
			require.NoError(t, d.EmitTicket("app", webhook.ChannelOccupied("c"), &webhook.Ticket{Follower: f}))
		}
		synctest.Wait() // the lane has a place for the second event, and tells of the first
		resume := d.Hold(ended(t))
		synctest.Wait()
		close(f.goOn)
		atTime(time.Minute)
		require.Len(t, sent.deliveries(), 1)
		resume()
		synctest.Wait()
		require.Len(t, sent.deliveries(), 2)
	})
}

// A stuckFollower does not go on before the test does.
type stuckFollower struct {
	follower
	goOn chan bool
}

func (f *stuckFollower) Ended(*webhook.Ticket, string) { <-f.goOn }

func TestWhatFailsAfterResumeHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{SendTimeout: time.Second}, dead)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		atTime(500 * time.Millisecond)
		resume := d.Hold(ended(t))
		synctest.Wait()
		require.Zero(t, d.Endpoints("app")[0].Failures)
		resume()
		atTime(1100 * time.Millisecond)
		require.Equal(t, 1, d.Endpoints("app")[0].Failures)
	})
}

// Close hands back what is pending and does not wait for a resume that may never come.
func TestCloseWhileHeld(t *testing.T) {
	for name, test := range map[string]struct {
		takes     time.Duration // a request on the wire when it is held
		err       error         // its answer
		cancelled time.Duration // when Hold's ctx ends; 0: never
		during    bool          // Hold is called while Close waits
		lasts     time.Duration // Close
		left      int
	}{
		"nothing is on the wire":          {left: 1},
		"what is on the wire is accepted": {takes: 10 * time.Second, lasts: 10 * time.Second, left: 1},
		"what is on the wire fails":       {takes: 10 * time.Second, err: errors.New("down"), lasts: 10 * time.Second, left: 2},
		"what is on the wire is cancelled": {takes: time.Hour, err: errors.New("down"), cancelled: 5 * time.Second,
			lasts: 5 * time.Second, left: 2},
		"held while it waits": {takes: 10 * time.Second, during: true, lasts: 10 * time.Second, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1, SendTimeout: 2 * time.Hour}, func(ctx context.Context, _ *webhook.Delivery) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(test.takes):
						return test.err
					}
				})
				var told atomic.Int32
				cfg.Hooks.Undelivered = func(*webhook.Delivery, error) { told.Add(1) }
				d := newDispatcher(t, cfg)
				if test.takes > 0 {
					emit(t, d, "app", webhook.ChannelOccupied("a"))
					synctest.Wait()
				}
				ctx := t.Context()
				if test.cancelled > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.cancelled)
					defer cancel()
				}
				if test.during {
					time.AfterFunc(time.Second, func() { d.Hold(ctx) })
				} else {
					defer d.Hold(ctx)()
				}
				emit(t, d, "app", webhook.ChannelOccupied("b"))
				began := time.Now()
				var left *webhook.UndeliveredError
				require.ErrorAs(t, d.Close(context.Background()), &left)
				require.Equal(t, test.lasts, time.Since(began))
				require.Len(t, left.Deliveries, test.left)
				require.EqualValues(t, test.left, told.Load())
				require.Equal(t, "b", channels(t, left.Deliveries[test.left-1].Body)[0])
				require.ErrorContains(t, left, "held")
			})
		})
	}
}

// Close waits, within its time, for the hooks of what was on the wire, and for what has to be settled.
func TestCloseWhileHeldWaits(t *testing.T) {
	for name, answer := range map[string]error{"for hooks": nil, "for what is not settled": webhook.ErrFinal} {
		for _, patience := range []time.Duration{time.Minute, time.Second} {
			t.Run(fmt.Sprint(name, " ", patience), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(context.Context, *webhook.Delivery) error { return answer })
					cfg.Hooks.Delivered = func(*webhook.Delivery, time.Duration) { time.Sleep(10 * time.Second) }
					cfg.Hooks.GivenUp = func(_ *webhook.Delivery, _ error, settle func()) { time.AfterFunc(10*time.Second, settle) }
					d := newDispatcher(t, cfg)
					emit(t, d, "app", webhook.ChannelOccupied("c"))
					synctest.Wait()
					defer d.Hold(t.Context())()
					emit(t, d, "app", webhook.ChannelOccupied("d"))
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					began := time.Now()
					var left *webhook.UndeliveredError
					require.ErrorAs(t, d.Close(ctx), &left)
					require.Len(t, left.Deliveries, 1)
					require.Equal(t, min(patience, 10*time.Second), time.Since(began))
					require.Equal(t, patience < 10*time.Second, errors.Is(left, context.DeadlineExceeded), "%v", left)
					time.Sleep(time.Minute)
				})
			})
		}
	}
}

func TestCloseWhileHeldWithNothingPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		atTime(time.Second)
		resume := d.Hold(t.Context())
		require.NoError(t, d.Close(t.Context()))
		resume()
		d.Hold(t.Context())()
	})
}

// drain reads a request's body: only then the server notices that the client goes.
func drain(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }

// Over real connections: requests that hang are cancelled, and come again when the endpoint answers.
func TestHoldOverHTTP(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	hang, arrived := true, make(chan bool, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		drain(r)
		mu.Lock()
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Webhook-Id"))
		hangs := hang
		mu.Unlock()
		arrived <- true
		if hangs {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", server.URL+"/a", server.URL+"/b")}, Sender: newSender(t),
		Hooks: webhook.Hooks{Attempt: func(_ *webhook.Delivery, a webhook.Attempt) {
			if a.Err != nil {
				t.Errorf("a cancelled attempt is no attempt: %v", a.Err)
			}
		}}})
	emit(t, d, "app", webhook.ChannelOccupied("c"))
	<-arrived
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	resume := d.Hold(ctx)
	cancel()
	require.True(t, settles(func() bool { return d.Endpoints("app")[0].InFlight+d.Endpoints("app")[1].InFlight == 0 }))
	require.EqualValues(t, 2, d.Stats().Pending)
	mu.Lock()
	hang = false
	mu.Unlock()
	resume()
	require.NoError(t, d.Flush(t.Context()))
	require.EqualValues(t, 2, d.Stats().Delivered)
	mu.Lock()
	defer mu.Unlock()
	require.ElementsMatch(t, seen[:2], seen[2:])
}

// Hold and resume beside everything else: nothing starts between them, nothing is lost.
func TestHoldBesideEmit(t *testing.T) {
	cfg, _ := oneEndpoint(webhook.Config{BatchWindow: time.Millisecond, MaxInFlight: 4, MaxBatchEvents: 3}, nil)
	for i := range 10 {
		cfg.Apps = append(cfg.Apps, testApp(strings.Repeat("x", i+1), "http://localhost/"))
	}
	var mu sync.Mutex
	next := map[string]int{}
	cfg.Sender = webhook.SenderFunc(func(_ context.Context, d *webhook.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range parse(t, d.Body).Events {
			if key := d.AppID + e.Channel; next[key] != e.SubscriptionCount {
				t.Errorf("%s: %d in the place of %d", key, e.SubscriptionCount, next[key])
			}
			next[d.AppID+e.Channel]++
		}
		return nil
	})
	d := newDispatcher(t, cfg)
	done := make(chan struct{})
	var holding sync.WaitGroup
	for range 2 {
		holding.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				resume := d.Hold(ctx)
				time.Sleep(100 * time.Microsecond) // any moment will do
				resume()
				cancel()
			}
		})
	}
	for i := range 500 {
		for _, app := range cfg.Apps {
			emit(t, d, app.ID, webhook.SubscriptionCount("a", i), webhook.SubscriptionCount("b", i))
		}
	}
	close(done)
	holding.Wait()
	require.NoError(t, d.Flush(t.Context()))
	require.EqualValues(t, 500*2*len(cfg.Apps), d.Stats().Delivered)
}
