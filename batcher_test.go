package webhook_test

import (
	"context"
	"errors"
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

// The tests of this file run on synctest's clock: times are exact, and waiting takes none.

const window = 50 * time.Millisecond

// atTime moves the bubble's clock forward and lets everything that is due happen.
func atTime(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func oneEndpoint(cfg webhook.Config, answer func(context.Context, *webhook.Delivery) error) (webhook.Config, *recorder) {
	sent := &recorder{answer: answer}
	cfg.Apps = []webhook.App{testApp("app", "http://localhost/")}
	cfg.Sender = sent
	return cfg, sent
}

// A gate is an answer that holds every Send until it is opened, one time for each.
type gate chan error

func (g gate) answer(ctx context.Context, _ *webhook.Delivery) error {
	select {
	case err := <-g:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestWindowRunsFromTheFirstEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		first := time.Now()
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		atTime(window - time.Millisecond)
		emit(t, d, "app", webhook.ChannelOccupied("b"))
		require.Empty(t, sent.deliveries())
		atTime(time.Millisecond)
		require.Equal(t, [][]string{{"a", "b"}}, sent.batches(t))
		require.Equal(t, first.Add(window).UnixMilli(), parse(t, sent.deliveries()[0].Body).TimeMS, "time_ms is when it left")
		require.True(t, first.Equal(sent.deliveries()[0].CreatedAt))

		emit(t, d, "app", webhook.ChannelOccupied("c"))
		atTime(window - 1)
		require.Len(t, sent.deliveries(), 1)
		atTime(time.Nanosecond)
		require.Equal(t, [][]string{{"a", "b"}, {"c"}}, sent.batches(t))
	})
}

// A window's timer may run a moment late, when its batch is already on the wire. That is no Send that hangs.
func TestLateWindowIsNoFailure(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			open := make(gate)
			cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 2}, open.answer)
			d := newDispatcher(t, cfg)
			emit(t, d, "app", webhook.ChannelOccupied("a"))
			time.Sleep(window)
			emit(t, d, "app", webhook.ChannelOccupied("b")) // fills the batch at the moment when its window ends
			synctest.Wait()
			require.Zero(t, d.Endpoints("app")[0].Failures)
			close(open)
		})
	}
}

func TestFullByEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 2}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelOccupied("b"), webhook.ChannelOccupied("c"))
		synctest.Wait()
		require.Equal(t, [][]string{{"a", "b"}}, sent.batches(t), "the window is not awaited")
		atTime(window)
		require.Equal(t, [][]string{{"a", "b"}, {"c"}}, sent.batches(t), "the next batch has a window of its own")
	})
}

func TestFullByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for most := 900; most < 1000; most++ { // whatever is left over at the end of a batch
			cfg, sent := oneEndpoint(webhook.Config{MaxBatchBytes: most}, nil)
			d := newDispatcher(t, cfg)
			for i := range 50 {
				emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint("channel-", i+10)))
			}
			closeNow(t, d)
			event := len(`,{"name":"channel_occupied","channel":"channel-10"}`)
			for i, delivery := range sent.deliveries() {
				body := len(delivery.Body) + 1 // time_ms has a digit less in the year 2000
				require.LessOrEqual(t, body, most)
				if i < len(sent.deliveries())-1 {
					require.Greater(t, body+event, most, "there was room for another event")
				}
			}
		}
	})
}

func TestBatchingOffSendsEachEventAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1}, nil)
		d := newDispatcher(t, cfg)
		for range 5 {
			emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelVacated("b"))
		}
		synctest.Wait()
		require.Len(t, sent.deliveries(), 10)
	})
}

func TestNextBatchFillsWhileOneIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		cfg, sent := oneEndpoint(webhook.Config{}, open.answer)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		atTime(window)
		emit(t, d, "app", webhook.ChannelOccupied("b"))
		atTime(10 * window)
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}}, sent.batches(t), "one request in flight")
		open <- nil
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}, {"b", "c"}}, sent.batches(t), "its window has long ended: sent at once")

		emit(t, d, "app", webhook.ChannelOccupied("d"))
		open <- nil
		atTime(window - 1)
		require.Len(t, sent.deliveries(), 2, "a batch younger than its window waits for the rest of it")
		atTime(time.Nanosecond)
		require.Equal(t, [][]string{{"a"}, {"b", "c"}, {"d"}}, sent.batches(t))
		open <- nil
	})
}

func TestBacklogGoesOutInFullBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 10}, open.answer)
		d := newDispatcher(t, cfg)
		for i := range 35 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
			atTime(window) // each event arrives in a window of its own
		}
		close(open)
		synctest.Wait()
		var sizes []int
		for _, delivery := range sent.deliveries() {
			sizes = append(sizes, delivery.Events)
		}
		require.Equal(t, []int{1, 10, 10, 10, 4}, sizes)
	})
}

func TestChannelKeepsItsOrderHoweverManyRequestsAreInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		inFlight, most := 0, 0
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 8}, func(_ context.Context, d *webhook.Delivery) error {
			mu.Lock()
			inFlight++
			most = max(most, inFlight)
			mu.Unlock()
			time.Sleep(time.Duration(len(d.Body)*int(d.ID[0])) * time.Microsecond) // some are slower than others
			mu.Lock()
			defer mu.Unlock()
			inFlight--
			return nil
		})
		d := newDispatcher(t, cfg)
		const channelCount, each = 40, 25
		for i := range each {
			for c := range channelCount {
				emit(t, d, "app", webhook.SubscriptionCount(fmt.Sprint("channel-", c), i))
			}
		}
		closeNow(t, d)
		require.Len(t, countsInOrder(t, sent), channelCount)
		require.Equal(t, 8, most, "as many requests at once as MaxInFlight")
	})
}

func TestIdleEndpointHasNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	cfg, _ := oneEndpoint(webhook.Config{BatchWindow: time.Hour}, nil)
	d := newDispatcher(t, cfg)
	emit(t, d, "app", webhook.ChannelOccupied("a"))
	require.LessOrEqual(t, runtime.NumGoroutine(), before, "a window is a timer, not a goroutine")
	require.Equal(t, 1, d.Stats().ActiveEndpoints)
	require.NoError(t, d.Flush(t.Context()))
	require.True(t, settles(func() bool { return runtime.NumGoroutine() <= before }))
	checkAccounts(t, d)
}

func TestFullEndpointRefusesAndOthersDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 8 << 10
		var rejected []error
		sent := &recorder{answer: func(ctx context.Context, d *webhook.Delivery) error {
			if d.AppID == "other" || strings.HasSuffix(d.URL, "/alive") {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		d := newDispatcher(t, webhook.Config{
			Apps:                   []webhook.App{testApp("app", "http://localhost/dead", "http://localhost/alive"), testApp("other", "http://localhost/dead")},
			MaxEndpointQueuedBytes: most,
			Sender:                 sent,
			Hooks:                  webhook.Hooks{Rejected: func(_ string, _ webhook.Event, err error) { rejected = append(rejected, err) }},
		})
		accepted, refused := 0, 0
		for i := range 1000 {
			if i%50 == 0 {
				atTime(window) // the endpoint that is alive is never full
			}
			err := d.Emit("app", webhook.ChannelOccupied(fmt.Sprint(i)))
			if err == nil {
				accepted++
				continue
			}
			require.ErrorIs(t, err, webhook.ErrQueueFull)
			require.ErrorContains(t, err, "MaxEndpointQueuedBytes")
			refused++
			require.LessOrEqual(t, d.Stats().PendingBytes, int64(3*most), "three endpoints")
			emit(t, d, "other", webhook.ChannelOccupied("a"))
		}
		atTime(window)
		require.Greater(t, accepted, 50)
		require.Greater(t, refused, 500)
		require.Len(t, rejected, refused)
		s := d.Stats()
		require.EqualValues(t, refused, s.Rejected)
		require.EqualValues(t, accepted+refused, s.Emitted) // accepted by app, and one of other for each refusal
		alive := 0
		for _, delivery := range sent.deliveries() {
			if strings.HasSuffix(delivery.URL, "/alive") {
				alive += delivery.Events
			}
		}
		require.Equal(t, 1000, alive, "the app's other endpoint gets every event, also those that Emit reported as refused")
	})
}

func TestFullDispatcherRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 10_000
		open := make(gate)
		cfg := webhook.Config{MaxQueuedBytes: most, MaxEventBytes: 200, Sender: &recorder{answer: open.answer}}
		for i := range 100 {
			cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint(i), "http://localhost/"))
		}
		d := newDispatcher(t, cfg)
		full := 0
		for i := range 100 {
			if err := d.Emit(fmt.Sprint(i), webhook.ChannelOccupied("a")); err != nil {
				require.ErrorIs(t, err, webhook.ErrQueueFull)
				require.ErrorContains(t, err, "MaxQueuedBytes")
				full++
			}
			require.LessOrEqual(t, d.Stats().PendingBytes, int64(most))
		}
		require.Greater(t, full, 0)
		require.Less(t, full, 100)
		close(open)
		atTime(window)
		emit(t, d, "99", webhook.ChannelOccupied("a")) // and there is room again
	})
}

func TestTooLargeEventIsInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxEventBytes: 100}, nil)
		d := newDispatcher(t, cfg)
		frame := len(`{"name":"channel_occupied","channel":""}`)
		emit(t, d, "app", webhook.ChannelOccupied(strings.Repeat("x", 100-frame)))
		for _, channel := range []string{strings.Repeat("x", 101-frame), strings.Repeat("\n", 60-frame/2), strings.Repeat("x", 1000)} {
			err := d.Emit("app", webhook.ChannelOccupied(channel))
			require.ErrorIs(t, err, webhook.ErrInvalidEvent)
			require.ErrorContains(t, err, "MaxEventBytes is 100")
		}
		atTime(window)
		require.Equal(t, 1, sent.deliveries()[0].Events)
	})
}

// An event is as large as it is encoded: what is ignored or becomes shorter does not count.
func TestOnlyTheEncodedEventCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{ClientData: webhook.DataRaw}, nil)
		d := newDispatcher(t, cfg)
		ignored := webhook.ChannelOccupied("room")
		ignored.Data = []byte(strings.Repeat("x", 700_000))
		ignored.Event, ignored.SocketID, ignored.UserID = string(ignored.Data), string(ignored.Data), string(ignored.Data)
		escapes := []byte(`"` + strings.Repeat(`\u0041`, 11_000) + `"`) // 66 kB, of which 11 are left
		emit(t, d, "app", ignored, webhook.ClientEvent("private-room", "client-a", escapes, "", ""))
		require.NoError(t, d.Flush(t.Context()))
		require.EqualValues(t, 2, d.Stats().Delivered)
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		cfg, sent := oneEndpoint(webhook.Config{MaxInFlight: 4}, open.answer)
		d := newDispatcher(t, cfg)
		require.NoError(t, d.Flush(t.Context()), "nothing to wait for")
		for i := range 20 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, d.Flush(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.EqualValues(t, 20, d.Stats().Pending, "a Flush that gives up loses nothing")

		flushed := make(chan error)
		go func() { flushed <- d.Flush(t.Context()) }()
		synctest.Wait()
		select {
		case <-flushed:
			t.Fatal("Flush did not wait")
		default:
		}
		close(open)
		require.NoError(t, <-flushed)
		require.EqualValues(t, 20, d.Stats().Delivered)
		require.Len(t, sent.deliveries(), 4)
	})
}

func TestFlushReturnsWhenDeliveriesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := 0
		cfg, _ := oneEndpoint(webhook.Config{Hooks: webhook.Hooks{
			Undelivered: func(*webhook.Delivery, error) { failed++ },
		}}, func(context.Context, *webhook.Delivery) error { return errors.New("no") })
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		require.NoError(t, d.Flush(t.Context()))
		require.Equal(t, 1, failed, "the hook has been called by then")
		require.EqualValues(t, 1, d.Stats().Undelivered)
	})
}

func TestDeliveryIsSignedAndComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		cfg.Apps[0].Webhooks[0].Headers = map[string]string{
			"x-custom": "1", "X-Pusher-Signature": "forged", "x-pusher-key": "forged", "Content-Type": "text/plain",
			"Webhook-Id": "forged", "User-Agent": "mine",
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		closeNow(t, d)
		delivery := sent.deliveries()[0]
		require.NoError(t, webhook.Verify("app-key", "app-secret", delivery.Header, delivery.Body))
		require.NotEmpty(t, delivery.ID)
		for name, want := range map[string]string{
			"X-Custom": "1", "X-Pusher-Key": "app-key", "Content-Type": "application/json", "Webhook-Id": delivery.ID,
			"User-Agent": "mine", "X-Pusher-Signature": webhook.Sign("app-secret", delivery.Body),
		} {
			require.Equal(t, []string{want}, delivery.Header[name], name)
		}
		require.Len(t, delivery.Header, 6)
	})
}
