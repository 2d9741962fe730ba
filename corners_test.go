package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// Corners that a careful reader found, each of which went wrong once.

// A burst of refused events in one lane does not keep the others of the endpoint waiting.
func TestBurstOfRefusedEventsInOneLane(t *testing.T) {
	for name, test := range map[string]struct {
		cfg     webhook.Config
		channel string
	}{
		"unbatched":          {webhook.Config{MaxBatchEvents: 1}, "private-noisy"},
		"encrypted channels": {webhook.Config{}, "private-encrypted-noisy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(t, test.cfg, func(_ time.Duration, body []byte) int {
					if bytes.Contains(body, []byte("noisy")) {
						return 400
					}
					return 0
				})
				for range 5 {
					b.emit(test.channel, "x")
				}
				time.Sleep(time.Second)
				for i := range 100 {
					b.emit(fmt.Sprint("private-", i%5), "x")
					time.Sleep(time.Second)
				}
				for _, key := range b.undelivered() {
					require.Contains(t, key, "noisy")
				}
				require.Less(t, b.latest(), 20*time.Second)
				b.d.Purge("app")
			})
		})
	}
}

// An endpoint that refuses, fails and refuses is well once it accepts.
func TestRefusingEndsWhenSomethingIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []int{400, 400, 400, 503, 400}
		b := newBackend(t, webhook.Config{}, func(time.Duration, []byte) (status int) {
			if len(answers) > 0 {
				status, answers = answers[0], answers[1:]
			}
			return status
		})
		for range 4 {
			b.emit("private-a", "x")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		require.Equal(t, webhook.EndpointOK, b.d.Endpoints("app")[0].State)
		require.Empty(t, b.undelivered())
	})
}

// A hook that ends its goroutine keeps nothing from being reported, counted or closed.
func TestHooksThatEndTheirGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		cfg, _ := oneEndpoint(webhook.Config{RetryFor: -1, MaxBatchEvents: 1, MaxInFlight: 1}, func(context.Context, *webhook.Delivery) error {
			return errors.New("down")
		})
		cfg.Hooks.Attempt = func(*webhook.Delivery, webhook.Attempt) { runtime.Goexit() }
		cfg.Hooks.Undelivered = func(*webhook.Delivery, error) { told++; runtime.Goexit() }
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelOccupied("b"))
		require.NoError(t, d.Flush(t.Context()))
		require.Equal(t, 2, told)
	})
}

// The same where several are given up at once.
func TestHookThatEndsItsGoroutineHearsOfAllThatIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		cfg, _ := busyThenDown(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1})
		cfg.Hooks.Undelivered = func(*webhook.Delivery, error) { told++; runtime.Goexit() }
		d := newDispatcher(t, cfg)
		for i := range 4 {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
		}
		require.NoError(t, d.Flush(t.Context()))
		require.Equal(t, 3, told)
	})
}

// Close does not wait for hooks of what is given up while they ask the dispatcher something.
func TestHookThatAsksTheDispatcherDuringClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d *webhook.Dispatcher
		sent := &recorder{answer: func(ctx context.Context, d *webhook.Delivery) error {
			if strings.Contains(d.URL, "hangs") {
				return dead(ctx, d)
			}
			return errors.New("down")
		}}
		cfg := webhook.Config{Apps: []webhook.App{testApp("app", "http://fails/", "http://hangs/")}, RetryFor: -1, MaxBatchEvents: 1, Sender: sent}
		asks := func(delivery *webhook.Delivery) {
			if strings.Contains(delivery.URL, "fails") {
				time.Sleep(time.Second)
				d.Endpoints("app")
			}
		}
		cfg.Hooks.Attempt = func(delivery *webhook.Delivery, _ webhook.Attempt) { asks(delivery) }
		cfg.Hooks.Undelivered = func(delivery *webhook.Delivery, _ error) { asks(delivery) }
		d = newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		require.Less(t, time.Since(start), 300*time.Millisecond)
		atTime(5 * time.Second)
	})
}

// An error whose methods panic costs its own delivery: no lock is held while it is asked.
type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text }

func TestErrorThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error {
			var nobody *brokenError
			return nobody
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(time.Minute)
		require.EqualValues(t, 1, d.Stats().Undelivered)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
	})
}

// Ten thousand flushes cost no more than the one that is not over yet.
func TestManyFlushesBesideAnEndpointThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{SendTimeout: time.Hour}, dead)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		before := heap()
		for range 10_000 {
			require.ErrorIs(t, d.Flush(ctx), context.Canceled)
		}
		require.Less(t, heap()-before, int64(1<<20))
		d.Purge("app")
	})
}

// What a hook is told of stays as it is until the hook returns, whatever happens to it elsewhere meanwhile.
func TestLentDeliveriesStayAsTheyAre(t *testing.T) {
	for name, meddle := range map[string]func(*webhook.Dispatcher){
		"set aside and tried again": func(d *webhook.Dispatcher) { d.RetryNow("app") },
		"purged": func(d *webhook.Dispatcher) {
			app := testApp("app", "http://localhost/")
			app.Secret = "rotated"
			_ = d.SetApp(app)
			d.Purge("app")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sends, changed, unsigned atomic.Int64
				cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1}, func(_ context.Context, d *webhook.Delivery) error {
					if sends.Add(1) == 1 {
						return webhook.ErrRefused
					}
					time.Sleep(50 * time.Millisecond) // the header is read when it is dialled
					if d.Header.Get("X-Pusher-Signature") == "" {
						unsigned.Add(1)
					}
					return nil
				})
				cfg.Hooks.Attempt = func(d *webhook.Delivery, a webhook.Attempt) {
					was := d.Clone()
					time.Sleep(20 * time.Millisecond)
					if fmt.Sprint(was.Header) != fmt.Sprint(d.Header) || !bytes.Equal(was.Body, d.Body) {
						changed.Add(1)
					}
				}
				d := newDispatcher(t, cfg)
				emit(t, d, "app", webhook.ChannelOccupied(strings.Repeat("x", 2000)))
				time.Sleep(10 * time.Millisecond)
				meddle(d)
				atTime(time.Minute)
				require.Zero(t, changed.Load())
				require.Zero(t, unsigned.Load())
				checkAccounts(t, d)
			})
		})
	}
}

// A stream of local trouble gives nothing up and purges all the same.
func TestPurgeBesideLocalTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error {
			time.Sleep(time.Second)
			return fmt.Errorf("dial: %w", syscall.EMFILE)
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		time.Sleep(window + time.Millisecond)
		require.Zero(t, d.Purge("app"), "it is on the wire")
		atTime(time.Minute)
		require.Len(t, sent.deliveries(), 1)
		require.EqualValues(t, 1, d.Stats().Undelivered)
	})
}

// SetApp with the credentials that an app has already changes no delivery.
func TestEqualCredentialsKeepTheBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		for range 10 {
			atTime(time.Second)
			require.NoError(t, d.SetApp(cfg.Apps[0]))
		}
		for _, got := range sent.deliveries() {
			require.Equal(t, sent.deliveries()[0].Body, got.Body, "its stamp is fresh and its credentials are the same")
		}
		d.Purge("app")
	})
}

// A hook that takes its time while Close gives up what was failing does not change the order of what is handed back.
func TestCloseKeepsTheOrderBesideASlowHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sends atomic.Int64
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2}, func(context.Context, *webhook.Delivery) error {
			if sends.Add(1) == 2 {
				time.Sleep(200 * time.Millisecond) // its hook runs when the other lane has its last attempt
			}
			return errors.New("down")
		})
		cfg.Hooks.Attempt = func(*webhook.Delivery, webhook.Attempt) { time.Sleep(300 * time.Millisecond) }
		d := newDispatcher(t, cfg)
		for i := range 5 {
			for _, channel := range []string{"a", "b", "c", "d"} {
				emit(t, d, "app", webhook.SubscriptionCount(channel, i))
			}
		}
		time.Sleep(20 * time.Millisecond) // one lane has failed, the other is on the wire
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(t.Context()), &left)
		next := map[string]int{}
		for _, delivery := range left.Deliveries {
			for _, e := range parse(t, delivery.Body).Events {
				require.Equal(t, next[e.Channel], e.SubscriptionCount, e.Channel)
				next[e.Channel]++
			}
		}
		require.Len(t, next, 4)
	})
}

// A Sender may ask two HTTPSenders at once.
func TestSenderOfTwoHTTPSenders(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer server.Close()
	one, two := newSender(t), newSender(t)
	var sent atomic.Int64
	mirror := webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		var wg sync.WaitGroup
		wg.Go(func() { _ = two.Send(ctx, d) })
		err := one.Send(ctx, d)
		wg.Wait()
		sent.Add(1)
		return err
	})
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("a", server.URL)}, MaxBatchEvents: 1, MaxInFlight: 1, Sender: mirror})
	for range 50 {
		emit(t, d, "a", webhook.ChannelOccupied("c"))
	}
	require.True(t, settles(func() bool { return d.Stats().Pending == 0 }))
}

// An error that asks the dispatcher something when it is asked for its text.
type lockError struct {
	look func()
}

func (e lockError) Error() string { e.look(); return "lock" }

func TestErrorIsAskedWithoutALock(t *testing.T) {
	var d *webhook.Dispatcher
	stuck := make(chan []byte, 1)
	var depth atomic.Int64
	look := func() {
		done := make(chan struct{})
		go func() { d.Endpoints("a"); close(done) }()
		select {
		case <-done:
		case <-time.After(300 * time.Millisecond):
			if depth.Add(1) == 1 {
				buf := make([]byte, 8<<10)
				stuck <- buf[:runtime.Stack(buf, false)]
			}
		}
	}
	d, err := webhook.New(fast(webhook.Config{Apps: []webhook.App{testApp("a", "http://a.test/")}, MaxBatchEvents: 1, RetryFor: time.Millisecond,
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return lockError{look: look} })}))
	require.NoError(t, err)
	emit(t, d, "a", webhook.ChannelOccupied("c"))
	select {
	case s := <-stuck:
		t.Errorf("Error() is called while endpoint.mu is held:\n%s", s)
	case <-time.After(time.Second):
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = d.Close(ctx)
}

// A handler that ends its goroutine when a Sender has panicked costs no place on the wire.
type exitHandler struct{ slog.Handler }

func (exitHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (exitHandler) Handle(context.Context, slog.Record) error    { runtime.Goexit(); return nil }

func TestLoggerThatEndsTheGoroutineAfterAPanic(t *testing.T) {
	var calls atomic.Int64
	d, err := webhook.New(fast(webhook.Config{Apps: []webhook.App{testApp("a", "http://a.test/"), testApp("b", "http://b.test/")}, MaxBatchEvents: 1, MaxConcurrent: 1,
		Logger: slog.New(exitHandler{}),
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
			if calls.Add(1) == 1 {
				panic("once")
			}
			return nil
		})}))
	require.NoError(t, err)
	emit(t, d, "a", webhook.ChannelOccupied("c"))
	require.True(t, settles(func() bool { return calls.Load() >= 1 }))
	emit(t, d, "b", webhook.ChannelOccupied("c"))
	deadline := time.Now().Add(2 * time.Second)
	for d.Stats().Pending > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = d.Close(ctx)
	require.NoError(t, err)
}
