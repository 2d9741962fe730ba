package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
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

func TestCloseDoesNotAwaitTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{BatchWindow: time.Hour}, nil)
		d := newDispatcher(t, cfg)
		for i := range 2500 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		start := time.Now()
		closeNow(t, d)
		require.Zero(t, time.Since(start))
		require.EqualValues(t, 2500, d.Stats().Delivered)
		require.Len(t, sent.deliveries(), 3)
	})
}

func TestClosedDispatcherRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		closeNow(t, d)
		require.ErrorIs(t, d.Emit("app", webhook.ChannelOccupied("a")), webhook.ErrClosed)
		require.ErrorIs(t, d.Emit("unknown", webhook.ChannelOccupied("a")), webhook.ErrClosed)
		require.ErrorIs(t, d.SetApp(testApp("new")), webhook.ErrClosed)
		require.ErrorIs(t, d.Redeliver(sent.deliveries()...), webhook.ErrClosed)
		require.NoError(t, d.Flush(t.Context()))
		d.RemoveApp("app")
		require.EqualValues(t, 2, d.Stats().Rejected)
	})
}

func TestCloseHandsBackWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported []*webhook.Delivery
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 2, SendTimeout: time.Hour}, func(ctx context.Context, _ *webhook.Delivery) error {
			<-ctx.Done()
			return ctx.Err()
		})
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			require.ErrorIs(t, err, context.Canceled)
			reported = append(reported, d)
		}
		d := newDispatcher(t, cfg)
		for i := range 7 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		start := time.Now()
		err := d.Close(ctx)
		require.Equal(t, time.Minute, time.Since(start), "Close returns when ctx ends")

		var left *webhook.UndeliveredError
		require.ErrorAs(t, err, &left)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "webhook: undelivered (deliveries: 4, events: 7): context canceled")
		var got []string
		for _, delivery := range left.Deliveries {
			require.NoError(t, webhook.Verify("app-key", "app-secret", delivery.Header, delivery.Body))
			got = append(got, channels(t, delivery.Body)...)
		}
		require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6"}, got, "in order")
		require.Equal(t, left.Deliveries, reported, "each was reported to the hook as well")
		require.Equal(t, err, d.Close(t.Context()), "a second call returns the same")
		checkAccounts(t, d)
	})
}

// Two callers of Close get the same deliveries, and what one appends to them the other does not see.
func TestCallersOfCloseShareNoArray(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1}, dead)
		d := newDispatcher(t, cfg)
		for i := range 5 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var one, other *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &one)
		require.ErrorAs(t, d.Close(ctx), &other)
		mine := append(one.Deliveries, delivery("http://mine/"))
		_ = append(other.Deliveries, delivery("http://theirs/"))
		require.Equal(t, "http://mine/", mine[5].URL)
	})
}

// A batch that is being sent in parts is handed back in order: the part that is on the wire, and the rest.
func TestCloseHandsBackADividedBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		sent.answer = func(ctx context.Context, d *webhook.Delivery) error {
			switch len(sent.deliveries()) {
			case 1:
				return webhook.ErrRefused
			case 2:
				return nil
			}
			return dead(ctx, d)
		}
		d := newDispatcher(t, cfg)
		for i := range 16 {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
		}
		atTime(window)
		require.Len(t, sent.deliveries(), 3)
		flushed := make(chan error)
		go func() { flushed <- d.Flush(context.Background()) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		var counts []int
		for _, delivery := range left.Deliveries {
			require.NoError(t, webhook.Verify("app-key", "app-secret", delivery.Header, delivery.Body))
			for _, e := range parse(t, delivery.Body).Events {
				counts = append(counts, e.SubscriptionCount)
			}
		}
		require.Equal(t, []int{8, 9, 10, 11, 12, 13, 14, 15}, counts)
		require.NoError(t, <-flushed, "nothing is pending any more")
	})
}

func TestCloseGivesUpASenderThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(context.Context, *webhook.Delivery) error {
			<-release
			return nil
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelOccupied("b"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		require.Less(t, time.Since(start), 2*time.Second)
		require.Len(t, left.Deliveries, 2)
		close(release)
		synctest.Wait()
		require.EqualValues(t, 2, d.Stats().Undelivered, "what was handed back has ended, whatever the Sender says later")
		require.EqualValues(t, 0, d.Stats().Delivered)
	})
}

func TestCloseReportsOnlyWhatFailedSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		cfg, _ := oneEndpoint(webhook.Config{RetryFor: -1}, func(context.Context, *webhook.Delivery) error { return refused })
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("before"))
		atTime(window)
		emit(t, d, "app", webhook.ChannelOccupied("since"))
		err := d.Close(t.Context())
		require.ErrorIs(t, err, refused)
		var left *webhook.UndeliveredError
		require.ErrorAs(t, err, &left)
		require.Len(t, left.Deliveries, 1)
		require.Equal(t, []string{"since"}, channels(t, left.Deliveries[0].Body))
	})
}

func TestCloseTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(ctx context.Context, _ *webhook.Delivery) error {
			<-ctx.Done()
			return ctx.Err()
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		first, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		results := make(chan error, 2)
		go func() { results <- d.Close(first) }()
		synctest.Wait()
		second, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, d.Close(second), context.DeadlineExceeded, "a caller waits no longer than its own ctx")
		go func() { results <- d.Close(t.Context()) }()
		one, two := <-results, <-results
		require.Same(t, one, two)
	})
}

// What Emit accepts while Close runs is delivered, what it refuses is not: no event falls between.
func TestEmitAgainstClose(t *testing.T) {
	for range 50 {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 7, MaxInFlight: 3}, nil)
		d := newDispatcher(t, cfg)
		var mu sync.Mutex
		var accepted, delivered []string
		var emitters sync.WaitGroup
		start := make(chan struct{})
		for g := range 8 {
			emitters.Go(func() {
				<-start
				for i := 0; ; i++ {
					channel := fmt.Sprint(g, "-", i)
					if err := d.Emit("app", webhook.ChannelOccupied(channel)); err != nil {
						if !errors.Is(err, webhook.ErrClosed) {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					accepted = append(accepted, channel)
					mu.Unlock()
				}
			})
		}
		close(start)
		closeNow(t, d)
		emitters.Wait()
		for _, delivery := range sent.deliveries() {
			delivered = append(delivered, channels(t, delivery.Body)...)
		}
		slices.Sort(accepted)
		slices.Sort(delivered)
		require.Equal(t, accepted, delivered)
		require.EqualValues(t, len(accepted), d.Stats().Delivered)
		require.EqualValues(t, 8, d.Stats().Rejected)
	}
}

func TestRedeliverAfterAJSONRoundTrip(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	app.Webhooks = []webhook.Webhook{{URL: r.URL + "/hook?token=1", EventTypes: every, Headers: map[string]string{"Authorization": "Bearer x"}}}
	dead := &recorder{answer: func(context.Context, *webhook.Delivery) error { return errors.New("down") }}
	before := newDispatcher(t, webhook.Config{Apps: []webhook.App{app}, MaxBatchEvents: 2, MaxInFlight: 1, Sender: dead})
	for i := range 5 {
		emit(t, before, "app", webhook.SubscriptionCount("room-<é>", i))
	}
	require.True(t, settles(func() bool { return before.Endpoints("app")[0].State == webhook.EndpointFailing }))
	var left *webhook.UndeliveredError
	require.ErrorAs(t, before.Close(t.Context()), &left)
	stored, err := json.Marshal(left.Deliveries)
	require.NoError(t, err)
	require.NotContains(t, string(stored), "app-secret")

	var restored []*webhook.Delivery
	require.NoError(t, json.Unmarshal(stored, &restored))
	after := newDispatcher(t, webhook.Config{}) // the app is not even configured any more: they go out as they are
	require.NoError(t, after.Redeliver(restored...))
	require.NoError(t, after.Redeliver(left.Deliveries[0]), "twice does no harm: the receiver knows the Webhook-Id")
	closeNow(t, after)
	events := r.Events()
	require.Len(t, events, 5)
	for i, e := range events {
		require.Equal(t, i, e.SubscriptionCount, "in order")
	}
	require.Len(t, r.Requests(), 4)
	for i, request := range r.Requests() {
		require.NoError(t, request.Err)
		require.Equal(t, left.Deliveries[i%3].Body, request.Body)
		require.Equal(t, left.Deliveries[i%3].ID, request.ID)
		require.Equal(t, "Bearer x", request.Header.Get("Authorization"))
		require.Equal(t, "/hook?token=1", request.Path)
	}
	require.EqualValues(t, 7, after.Stats().Queued)
}

func TestRedeliverGoesBehindWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		var failed *webhook.Delivery
		cfg, sent := oneEndpoint(webhook.Config{MaxInFlight: 8, RetryFor: -1}, func(context.Context, *webhook.Delivery) error {
			if fail {
				return errors.New("down")
			}
			return nil
		})
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) { failed = d }
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(window)
		fail = false
		emit(t, d, "app", webhook.ChannelVacated("room"))
		require.NoError(t, d.Redeliver(failed))
		require.EqualValues(t, 2, d.Stats().Pending)
		closeNow(t, d)
		require.Equal(t, webhook.TypeChannelVacated, parse(t, sent.deliveries()[1].Body).Events[0].Name, "one lane, in order")
		require.Equal(t, failed.ID, sent.deliveries()[2].ID)
	})
}

func TestRedeliverSaysWhatItRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxEndpointQueuedBytes: 2000}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		atTime(window)
		change := func(f func(*webhook.Delivery)) *webhook.Delivery {
			changed := *sent.deliveries()[0]
			changed.Header = changed.Header.Clone()
			f(&changed)
			return &changed
		}
		good := change(func(*webhook.Delivery) {})
		err := d.Redeliver(
			good,
			nil,
			change(func(d *webhook.Delivery) { d.URL = "ftp://user:CANARY@localhost/?CANARY" }),
			change(func(d *webhook.Delivery) { d.Header.Set("Host", "example.com") }),
			change(func(d *webhook.Delivery) { d.Header.Set("X-A", "CANARY\r\n") }),
			change(func(d *webhook.Delivery) { d.Header.Del("X-Pusher-Signature") }),
			change(func(d *webhook.Delivery) { d.Header["x-pusher-signature"] = []string{"another"} }),
			change(func(d *webhook.Delivery) { d.Header.Add("X-Pusher-Key", "another") }),
			change(func(d *webhook.Delivery) { d.Header.Set("X-Long", strings.Repeat("x", 9000)) }),
			change(func(d *webhook.Delivery) { d.Body = nil }),
			change(func(d *webhook.Delivery) { d.Events = 0 }),
			change(func(d *webhook.Delivery) {
				d.Body = []byte(`{"time_ms":1,"events":[{"name":"channel_occupied","channel":"` + strings.Repeat("x", 2000) + `"}]}`)
			}),
			change(func(*webhook.Delivery) {}),
		)
		require.ErrorIs(t, err, webhook.ErrQueueFull)
		for _, want := range []string{"deliveries[1]: is nil", "deliveries[2]: url: must be", `deliveries[3]: header["Host"]`, `deliveries[4]: header["X-A"]`,
			"deliveries[5]: header: must have one X-Pusher-Signature, has 0",
			`deliveries[6]: header["x-pusher-signature"]: must be written as "X-Pusher-Signature"`,
			"deliveries[7]: header: must have one X-Pusher-Key, has 2", "deliveries[8]: header: has 9006 bytes of the app's own, at most 8192",
			"deliveries[9]: body", "deliveries[10]: events",
			"deliveries[11]: webhook: queue is full", "deliveries[12]: webhook: queue is full: for a delivery before it"} {
			require.ErrorContains(t, err, want)
		}
		require.NotContains(t, err.Error(), "CANARY")
		var refused *webhook.UndeliveredError
		require.ErrorAs(t, err, &refused)
		require.Len(t, refused.Deliveries, 12)
		synctest.Wait()
		require.Len(t, sent.deliveries(), 2)
	})
}

// Batches of several lanes, stored and taken up by another process: every channel is still in order, with what is
// emitted there as well, also one whose name is no UTF-8 or is written with escapes.
func TestRedeliveredLanesKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		emitAll := func(d *webhook.Dispatcher, from, to int) {
			for i := from; i < to; i++ {
				for channel := range 10 {
					for _, prefix := range []string{"room-", "\xff-", "\"\n-", "private-encrypted-\xff"} {
						emit(t, d, "app", webhook.SubscriptionCount(fmt.Sprint(prefix, channel), i))
					}
				}
			}
		}
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 3, MaxInFlight: 4}, dead)
		before := newDispatcher(t, cfg)
		emitAll(before, 0, 20)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, before.Close(ctx), &left)

		cfg, sent := oneEndpoint(webhook.Config{MaxInFlight: 4}, func(_ context.Context, d *webhook.Delivery) error {
			time.Sleep(time.Duration(d.ID[0]) * time.Millisecond)
			return nil
		})
		after := newDispatcher(t, cfg)
		require.NoError(t, after.Redeliver(left.Deliveries...))
		emitAll(after, 20, 30)
		closeNow(t, after)
		require.Len(t, countsInOrder(t, sent), 40)
	})
}

// Thousands of deliveries that find no room come back at a price that grows with their number, and with an error that
// can be logged.
func TestRedeliverOfManyThatAreRefused(t *testing.T) {
	const refused = 4_000
	cfg, _ := oneEndpoint(webhook.Config{MaxEndpointQueuedBytes: 2000}, dead)
	d := newDispatcher(t, cfg)
	all := []*webhook.Delivery{delivery("http://localhost/")}
	for range refused {
		all = append(all, largeDelivery())
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := d.Redeliver(all...)
	text := err.Error()
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, webhook.ErrQueueFull)
	var left *webhook.UndeliveredError
	require.ErrorAs(t, err, &left)
	require.Equal(t, all[1:], left.Deliveries)
	require.Contains(t, text, "(deliveries: 4000, events: 4000)")
	require.Less(t, len(text), 4000)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(refused*20_000), "a copy of each, and a little more")
	d.Purge("app")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = d.Close(ctx)
}

// withinHook returns a dispatcher whose only event has just arrived, and whose hook returns once it is released.
func withinHook(t *testing.T) (d *webhook.Dispatcher, release func()) {
	gate := make(chan struct{})
	cfg, _ := oneEndpoint(webhook.Config{Hooks: webhook.Hooks{Delivered: func(*webhook.Delivery, time.Duration) { <-gate }}}, nil)
	d = newDispatcher(t, cfg)
	emit(t, d, "app", webhook.ChannelOccupied("a"))
	atTime(window)
	return d, func() { close(gate) }
}

// A hook has been told of everything that Flush waited for, also of what had just arrived when Flush was called.
func TestFlushWaitsForTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, release := withinHook(t)
		flushed := false
		go func() {
			if err := d.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			flushed = true
		}()
		synctest.Wait()
		require.False(t, flushed)
		release()
		synctest.Wait()
		require.True(t, flushed)
	})
}

// What Close hands back has ended for Flush when its hook has returned, too: what a spool stores there is safe then.
func TestFlushWaitsForTheHookOfWhatCloseHandsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{})
		cfg, _ := oneEndpoint(webhook.Config{SendTimeout: time.Hour}, func(ctx context.Context, _ *webhook.Delivery) error {
			<-ctx.Done()
			return ctx.Err()
		})
		cfg.Hooks.Undelivered = func(*webhook.Delivery, error) {
			time.Sleep(time.Second)
			close(told)
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = d.Close(ctx)
		}()
		require.NoError(t, d.Flush(t.Context()))
		select {
		case <-told:
		default:
			require.Fail(t, "Flush has returned before the hook")
		}
	})
}

// Close does not wait for a hook for ever, and what the hook is being told of has arrived.
func TestCloseHandsBackNothingThatArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, release := withinHook(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, d.Close(ctx))
		release()
		synctest.Wait()
		require.EqualValues(t, 1, d.Stats().Delivered)
		require.Zero(t, d.Stats().Undelivered)
	})
}

// What Close hands back is the caller's, also while a Sender that ignores its context still reads what it was lent.
func TestHandedBackIsACopyOfWhatIsOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var before, after *webhook.Delivery
		cfg, _ := oneEndpoint(webhook.Config{}, func(_ context.Context, d *webhook.Delivery) error {
			before = d.Clone()
			<-release
			after = d.Clone()
			return nil
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(window)
		rotated := cfg.Apps[0]
		rotated.Secret = "rotated"
		require.NoError(t, d.SetApp(rotated))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		require.Len(t, left.Deliveries, 1)
		got := left.Deliveries[0]
		require.NoError(t, webhook.Verify("app-key", "app-secret", got.Header, got.Body), "as it was sent")
		require.Equal(t, []string{"room"}, channels(t, got.Body))
		clear(got.Header)
		clear(got.Body)
		close(release)
		synctest.Wait()
		require.Equal(t, before, after)
	})
}

// Sends that return at the very moment when Close hands back what they have: each event has one end, and what is handed
// back is whole. The race detector sees the rest.
func TestSendsThatReturnWhileTheyAreHandedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lanes = 64
		var n atomic.Int64
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: lanes, SendTimeout: time.Hour}, func(ctx context.Context, _ *webhook.Delivery) error {
			i := n.Add(1)
			<-ctx.Done()
			time.Sleep(100*time.Millisecond + time.Duration(i%3-1)) // when Close waits no longer, or just before or after that
			if i%2 == 0 {
				return nil
			}
			return errors.New("cut")
		})
		ends := map[string]int{}
		var mu sync.Mutex
		ended := func(d *webhook.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			ends[channels(t, d.Body)[0]]++
		}
		cfg.Hooks.Attempt = func(d *webhook.Delivery, _ webhook.Attempt) { _ = d.Clone() }
		cfg.Hooks.Delivered = func(d *webhook.Delivery, _ time.Duration) { ended(d) }
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) { ended(d) }
		d := newDispatcher(t, cfg)
		for i := range 2 * lanes {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		for _, got := range left.Deliveries {
			require.NoError(t, webhook.Verify("app-key", "app-secret", got.Header, got.Body))
			require.Equal(t, got.ID, got.Header.Get("Webhook-Id"))
			got.Header.Set("Webhook-Id", "the caller's")
		}
		atTime(time.Second)
		require.Len(t, ends, 2*lanes)
		for channel, times := range ends {
			require.Equal(t, 1, times, channel)
		}
	})
}

// What Close does with an event that was set aside: it is tried at once, and given up if it is refused again.
func TestCloseTriesWhatWasSetAside(t *testing.T) {
	for want, answers := range map[uint64][]error{1: {webhook.ErrRefused, nil}, 0: {webhook.ErrRefused, webhook.ErrRefused, nil}} {
		synctest.Test(t, func(t *testing.T) {
			cfg, sent := oneEndpoint(webhook.Config{}, nil)
			sent.answer = func(context.Context, *webhook.Delivery) error { return answers[len(sent.deliveries())-1] }
			d := newDispatcher(t, cfg)
			emit(t, d, "app", webhook.ChannelOccupied("room"))
			atTime(window)
			start := time.Now()
			require.Equal(t, want == 1, d.Close(t.Context()) == nil)
			require.Zero(t, time.Since(start))
			require.Equal(t, want, d.Stats().Delivered)
			require.Len(t, sent.deliveries(), 2)
		})
	}
}

// What was set aside is handed back before what came later.
func TestCloseHandsBackWhatWasSetAsideFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, nil)
		sent.answer = func(ctx context.Context, d *webhook.Delivery) error {
			if len(sent.deliveries()) == 1 {
				return webhook.ErrRefused
			}
			return dead(ctx, d)
		}
		d := newDispatcher(t, cfg)
		for i := range 3 {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		require.Len(t, left.Deliveries, 3)
		for i, delivery := range left.Deliveries {
			require.Equal(t, i, parse(t, delivery.Body).Events[0].SubscriptionCount)
		}
	})
}

// The last attempt of an endpoint that was failing may be on the wire when Close begins: it has a second then.
func TestLastAttemptHasASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		sent.answer = func(ctx context.Context, d *webhook.Delivery) error {
			if len(sent.deliveries()) == 1 {
				return errors.New("down")
			}
			return dead(ctx, d)
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(2 * time.Second)
		require.Len(t, sent.deliveries(), 2)
		start := time.Now()
		require.Error(t, d.Close(t.Context()))
		require.Equal(t, time.Second, time.Since(start))
		require.Len(t, sent.deliveries(), 2)
	})
}

// The last attempt fails while another lane has a request on the wire: what is behind that is handed back behind it.
func TestLastAttemptKeepsTheOrderOfOtherLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2}, func(_ context.Context, d *webhook.Delivery) error {
			if channels(t, d.Body)[0] == "slow" {
				time.Sleep(500 * time.Millisecond)
			}
			return errors.New("down")
		})
		d := newDispatcher(t, cfg)
		for i := range 4 {
			emit(t, d, "app", webhook.SubscriptionCount("slow", i))
		}
		synctest.Wait()
		emit(t, d, "app", webhook.SubscriptionCount("prompt", 0)) // in the other lane
		synctest.Wait()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(t.Context()), &left)
		next := 0
		for _, delivery := range left.Deliveries {
			if e := parse(t, delivery.Body).Events[0]; e.Channel == "slow" {
				require.Equal(t, next, e.SubscriptionCount)
				next++
			}
		}
		require.Equal(t, 4, next)
	})
}

// A Send that Close has cut has a tenth of a second to say that its delivery has arrived all the same.
func TestCloseWaitsAMomentForSendsItHasCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(ctx context.Context, _ *webhook.Delivery) error {
			<-ctx.Done()
			time.Sleep(90 * time.Millisecond)
			return nil
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(window)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.NoError(t, d.Close(ctx))
		require.Equal(t, 1090*time.Millisecond, time.Since(start))
	})
}

// With much pending, Close leaves itself the time to hand it back, and says why endpoints did not accept it.
func TestCloseEndsEarlyWithMuchPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 10_000
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, nil)
		sent.answer = func(ctx context.Context, d *webhook.Delivery) error {
			if len(sent.deliveries()) == 1 {
				time.Sleep(time.Millisecond) // until Close has begun: it gives up what was failing before
				return errors.New("down")
			}
			return dead(ctx, d)
		}
		d := newDispatcher(t, cfg)
		for i := range events {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := d.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "last errors: localhost: down")
		require.Equal(t, 10*time.Second-events*5*time.Microsecond, time.Since(start))
	})
}

// The connections of the default Sender are closed with the dispatcher.
func TestCloseClosesConnections(t *testing.T) {
	e := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", e.url)}})
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	require.NoError(t, d.Flush(t.Context()))
	require.EqualValues(t, 1, e.open.Load())
	closeNow(t, d)
	require.True(t, settles(func() bool { return e.open.Load() == 0 }))
}

// Flush waits for all that becomes of what was queued: parts, events that are set aside, and the hooks that are told.
func TestFlushWaitsToTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		wait time.Duration // from the first event to Flush
		want time.Duration // until it returns, from the first event on
		cfg  webhook.Config
	}{
		"set aside after Flush has begun": {0, 7 * time.Second, webhook.Config{}},
		"set aside before Flush":          {time.Second, 7 * time.Second, webhook.Config{}},
		"hook of the last part":           {11 * time.Second, 20 * time.Second, webhook.Config{Hooks: webhook.Hooks{Delivered: func(*webhook.Delivery, time.Duration) { time.Sleep(10 * time.Second) }}}},
		"hook of a loss":                  {8 * time.Second, 10 * time.Second, webhook.Config{Hooks: webhook.Hooks{Undelivered: func(*webhook.Delivery, error) { time.Sleep(3 * time.Second) }}}},
		"hook of a loss that is to come":  {0, 10 * time.Second, webhook.Config{Hooks: webhook.Hooks{Undelivered: func(*webhook.Delivery, error) { time.Sleep(3 * time.Second) }}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.cfg.BatchWindow = time.Nanosecond
				cfg, _ := oneEndpoint(test.cfg, func(_ context.Context, d *webhook.Delivery) error {
					if d.Events > 1 || slices.Contains(channels(t, d.Body), "bad") {
						return webhook.ErrRefused
					}
					return nil
				})
				d := newDispatcher(t, cfg)
				start := time.Now()
				first := "bad"
				if cfg.Hooks.Delivered != nil {
					first = "good"
				}
				emit(t, d, "app", webhook.ChannelOccupied(first), webhook.ChannelOccupied("good"))
				time.Sleep(test.wait)
				require.NoError(t, d.Flush(t.Context()))
				require.Equal(t, test.want, time.Since(start).Truncate(time.Microsecond))
			})
		})
	}
}
