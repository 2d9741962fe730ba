package webhook_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
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

// What an operator sees of endpoints and does about them, and what a Sender's answers mean.

func TestEndpointsTellHowTheyDo(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		net.set("down", func(int, []byte) (int, time.Duration) { return 503, time.Millisecond })
		net.set("refuses", func(int, []byte) (int, time.Duration) { return 401, time.Millisecond })
		net.set("up", quick)
		app := testApp("app", "http://down/hook?token=CANARY", "http://down/other", "http://refuses/", "http://up/")
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{app}, MaxBatchEvents: 1, Sender: net.sender(t)})
		start := time.Now()
		for i := range 6 {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
			time.Sleep(1013 * time.Millisecond) // no multiple of what waits are aligned to
		}
		all := d.Endpoints("app")
		require.Len(t, all, 4)
		require.Equal(t, []string{"http://down", "http://down", "http://refuses", "http://up"},
			[]string{all[0].URL, all[1].URL, all[2].URL, all[3].URL})
		require.NotEqual(t, all[0].ID, all[1].ID, "two webhooks of one host are told apart")
		for _, s := range all[:2] {
			require.Equal(t, webhook.EndpointFailing, s.State)
			require.EqualValues(t, 6, s.Pending)
			require.Positive(t, s.PendingBytes)
			require.True(t, start.Equal(s.Oldest))
			require.Equal(t, "endpoint answered 503 Service Unavailable", s.LastError)
			require.GreaterOrEqual(t, s.Failures, 2)
			require.True(t, s.NextAttempt.After(time.Now()))
			require.True(t, s.LastSuccess.IsZero())
		}
		require.Equal(t, webhook.EndpointRefusing, all[2].State)
		require.Equal(t, webhook.EndpointOK, all[3].State)
		require.Zero(t, all[3].Pending)
		require.False(t, all[3].LastSuccess.IsZero())
		require.Len(t, d.Endpoints(""), 3, "those that have something pending")
		require.Empty(t, d.Endpoints("nobody"))
		require.Equal(t, "ok failing refusing", fmt.Sprint(all[3].State, " ", all[0].State, " ", all[2].State))
		require.NotContains(t, fmt.Sprint(all), "CANARY")
		require.EqualValues(t, 3*6, d.Purge("app"))
	})
}

func TestRetryNowEndsTheWait(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		status := 503
		net.set("host", func(int, []byte) (int, time.Duration) { return status, 0 })
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://host/")},
			RetryWaitMin: time.Hour, RetryWaitMax: 4 * time.Hour, RetryFor: 100 * time.Hour, Sender: net.sender(t)})
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(time.Minute)
		require.Equal(t, 1, net.count("host"))
		d.RetryNow("app")
		synctest.Wait()
		require.Equal(t, 2, net.count("host"), "at once")
		wait := time.Until(d.Endpoints("app")[0].NextAttempt)
		require.GreaterOrEqual(t, wait, time.Hour, "and the doubling goes on")
		require.LessOrEqual(t, wait, 2*time.Hour)
		status = 200
		d.RetryNow("nobody")
		d.RetryNow("app")
		synctest.Wait()
		require.EqualValues(t, 1, d.Stats().Delivered)
	})
}

func TestPurgeGivesUpWhatIsPendingAndHeld(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		var mu sync.Mutex
		var purged []string
		cfg := webhook.Config{Apps: []webhook.App{testApp("app", "http://hangs/"), testApp("other", "http://hangs/")}, MaxBatchEvents: 2,
			Sender: net.sender(t), Hooks: webhook.Hooks{Undelivered: func(d *webhook.Delivery, err error) {
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, webhook.ErrPurged) {
					purged = append(purged, channels(t, d.Body)...)
				}
			}}}
		d := newDispatcher(t, cfg.WithPusherTiming())
		for _, app := range []string{"app", "other"} {
			emit(t, d, app, webhook.ChannelOccupied("1"), webhook.ChannelOccupied("2"), webhook.ChannelOccupied("3"), webhook.ChannelVacated("held"))
		}
		synctest.Wait() // 1 and 2 are on the wire
		require.Equal(t, 2, d.Purge("app"), "what waits and what is held")
		require.Equal(t, []string{"held", "3"}, purged)
		require.Zero(t, d.Purge("app"))
		atTime(11 * time.Second) // the Timeout of those on the wire
		require.Equal(t, []string{"held", "3", "1", "2"}, purged, "which have failed")
		require.EqualValues(t, 4, d.Stats().Undelivered)
		require.EqualValues(t, 4, d.Stats().Pending, "another app's stay")
		require.Zero(t, d.Purge(""))
		d.Purge("other")
	})
}

// The hook hears of every change, at most once in RetryWaitMin, and always of the latest.
func TestEndpointHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var states []webhook.EndpointState
		var times []time.Time
		var mood error
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, RetryWaitMin: 10 * time.Second}, func(context.Context, *webhook.Delivery) error { return mood })
		cfg.Hooks.Endpoint = func(s webhook.EndpointStatus) {
			states, times = append(states, s.State), append(times, time.Now())
		}
		d := newDispatcher(t, cfg)
		for range 20 {
			mood = errors.New("down")
			emit(t, d, "app", webhook.ChannelOccupied("room"))
			atTime(time.Second)
			mood = nil
			d.RetryNow("app")
			atTime(time.Second)
		}
		atTime(time.Minute)
		require.Greater(t, len(states), 3)
		for i := 1; i < len(states); i++ {
			require.NotEqual(t, states[i-1], states[i])
			require.GreaterOrEqual(t, times[i].Sub(times[i-1]), 10*time.Second)
		}
		require.Equal(t, webhook.EndpointOK, states[len(states)-1])
	})
}

// A stored delivery of an app that is known is stamped and signed afresh, under its Webhook-Id.
func TestRedeliverStampsAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		stored := delivery("http://localhost/")
		stored.CreatedAt = time.Now().Add(-time.Hour)
		unknown := delivery("http://localhost/")
		unknown.AppID = "unknown"
		require.NoError(t, d.Redeliver(stored, unknown))
		require.NoError(t, d.Flush(t.Context()))
		for _, got := range sent.deliveries() {
			require.Equal(t, stored.ID, got.ID)
			require.Equal(t, stored.ID, got.Header.Get("Webhook-Id"))
			require.Equal(t, []string{"room"}, channels(t, got.Body))
			require.NoError(t, webhook.Verify("app-key", "app-secret", got.Header, got.Body))
			if got.AppID == "unknown" {
				require.Equal(t, unknown.Header, got.Header, "as it was")
				require.Equal(t, unknown.Body, got.Body)
				continue
			}
			require.Equal(t, time.Now().UnixMilli(), parse(t, got.Body).TimeMS)
			require.True(t, stored.CreatedAt.Equal(got.CreatedAt))
		}
		require.EqualValues(t, 1, parse(t, stored.Body).TimeMS, "the caller's is not touched")
	})
}

// A batch that is tried again keeps its bytes for four minutes, and the Webhook-Id for ever.
func TestStampIsKeptForFourMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{RetryFor: time.Hour}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(10 * time.Minute)
		first := sent.deliveries()[0]
		stamps := map[int64]bool{}
		for _, got := range sent.deliveries() {
			require.Equal(t, first.ID, got.ID)
			require.NoError(t, webhook.Verify("app-key", "app-secret", got.Header, got.Body))
			at := parse(t, got.Body).TimeMS
			stamps[at] = true
			if at == parse(t, first.Body).TimeMS {
				require.Equal(t, first.Body, got.Body)
				require.Equal(t, first.Header, got.Header)
			}
		}
		require.Len(t, stamps, 3, "of ten minutes")
		d.Purge("app")
	})
}

// What leaves after an app's credentials have changed is signed with the new ones: what is tried again, and what follows on
// the same lane.
func TestRotatedCredentialsSignWhatLeavesLater(t *testing.T) {
	for name, first := range map[string]error{"tried again": errors.New("down"), "the next": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(gate)
				cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, open.answer)
				d := newDispatcher(t, cfg)
				emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelOccupied("b"))
				synctest.Wait()
				require.NoError(t, d.SetApp(webhook.App{ID: "app", Key: "new-key", Secret: "new-secret", Webhooks: cfg.Apps[0].Webhooks}))
				open <- first
				close(open)
				atTime(time.Second)
				all := sent.deliveries()
				require.NoError(t, webhook.Verify("app-key", "app-secret", all[0].Header, all[0].Body))
				require.Greater(t, len(all), 1)
				for _, later := range all[1:] {
					require.NoError(t, webhook.Verify("new-key", "new-secret", later.Header, later.Body))
				}
			})
		})
	}
}

// retries returns when a Sender that always fails is asked, in the first so long.
func retries(t *testing.T, cfg webhook.Config, err error, long time.Duration) (times []time.Duration) {
	start := time.Now()
	cfg, _ = oneEndpoint(cfg, func(context.Context, *webhook.Delivery) error {
		times = append(times, time.Since(start)-window)
		return err
	})
	d := newDispatcher(t, cfg)
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	atTime(long)
	d.Purge("app")
	return times
}

func TestBackOffDoublesFromOneSecondToOneMinuteForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := retries(t, webhook.Config{}, errors.New("down"), time.Hour)
		longest := time.Second
		for i := 1; i < len(times); i++ {
			wait := times[i] - times[i-1]
			require.GreaterOrEqual(t, wait, longest/2, "attempt %d", i)
			require.LessOrEqual(t, wait, longest, "attempt %d", i)
			longest = min(2*longest, time.Minute)
		}
		require.Greater(t, len(times), 8)
		require.Greater(t, times[len(times)-1], 5*time.Minute, "the last one finds it too old")
		require.LessOrEqual(t, times[len(times)-1], 6*time.Minute)
	})
}

// Most waits end at a multiple of a tenth of a second, so that many endpoints that fail wake the processor together.
func TestWaitsAreAligned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		aligned, all := 0, 0
		for range 20 {
			for _, at := range retries(t, webhook.Config{}, errors.New("down"), time.Minute)[1:] {
				if all++; (at+window)%(100*time.Millisecond) == 0 {
					aligned++
				}
			}
		}
		require.Greater(t, aligned, all/2, "of %d", all)
	})
}

// Requests that left before an endpoint's back-off began, or before it ended, say nothing new when they end.
func TestLateAnswersSayNothingNew(t *testing.T) {
	const second = time.Second
	down := errors.New("down")
	for name, test := range map[string]struct {
		quick    error         // what becomes at once of the first event of one channel
		slow     error         // and of another's
		takes    time.Duration // after so long
		failures int           // in a row, then
		sends    int           // so far
	}{
		"both fail":                                            {down, down, second / 2, 1, 2},
		"one fails, then one is accepted":                      {down, nil, second / 2, 1, 2},
		"one fails, then one is refused":                       {down, webhook.ErrRefused, second / 2, 1, 2},
		"one hangs, then it is accepted":                       {nil, nil, 3 * second, 0, 3},
		"one hangs, then it fails":                             {nil, down, 3 * second, 2, 2},
		"one hangs, another is accepted, then the first fails": {nil, down, 10 * second, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2, RetryWaitMin: 4 * second, SendTimeout: second},
					func(_ context.Context, d *webhook.Delivery) error {
						switch channels(t, d.Body)[0] {
						case "slow":
							time.Sleep(test.takes)
							return test.slow
						case "prompt":
							return test.quick
						}
						return nil
					})
				d := newDispatcher(t, cfg)
				emit(t, d, "app", webhook.ChannelOccupied("slow"))
				synctest.Wait()
				emit(t, d, "app", webhook.ChannelOccupied("prompt"))
				synctest.Wait()
				require.Len(t, sent.deliveries(), 2, "in two lanes")
				time.AfterFunc(5*second/2, func() { _ = d.Emit("app", webhook.ChannelOccupied("prompt")) })
				atTime(test.takes)
				require.Equal(t, test.failures, d.Endpoints("app")[0].Failures)
				require.Len(t, sent.deliveries(), test.sends)
				d.Purge("app")
			})
		})
	}
}

// An asksLater error, as an HTTPSender's Retry-After.
type asksLater time.Duration

func (a asksLater) Error() string             { return "later" }
func (a asksLater) RetryAfter() time.Duration { return time.Duration(a) }

func TestRetryAfterIsHonouredUpToTheCap(t *testing.T) {
	const second, minute = time.Second, time.Minute
	for asks, want := range map[time.Duration][2]time.Duration{
		0: {second / 2, second}, -second: {second / 2, second}, second / 10: {second, 5 * second / 4}, second: {second, 5 * second / 4},
		30 * second: {30 * second, 38 * second},
		minute:      {45 * second, minute}, 1 << 62: {45 * second, minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			waits := map[time.Duration]bool{}
			for range 20 {
				times := retries(t, webhook.Config{}, fmt.Errorf("wrapped: %w", asksLater(asks)), 2*minute)
				require.GreaterOrEqual(t, times[1], want[0], asks)
				require.LessOrEqual(t, times[1], want[1], asks)
				waits[times[1]] = true
			}
			require.Greater(t, len(waits), 1, "those that are asked for %v do not come back together", asks)
		})
	}
}

// What a Sender may answer, and how often it is asked again in an hour.
func TestVerdicts(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		sends int // of the only event
		state webhook.EndpointState
	}{
		"refused":       {webhook.ErrRefused, 1 + 3, webhook.EndpointOK},
		"final":         {fmt.Errorf("gone: %w", webhook.ErrFinal), 1, webhook.EndpointFailing},
		"404":           {&webhook.StatusError{Code: 404}, 1 + 3, webhook.EndpointOK},
		"410":           {&webhook.StatusError{Code: 410}, 1, webhook.EndpointFailing},
		"500":           {&webhook.StatusError{Code: 500}, 1 + 9, webhook.EndpointOK}, // 1+2+4+…+60 s, for 5 minutes
		"no descriptor": {fmt.Errorf("dial: %w", syscall.EMFILE), 3600 * 4 / 3, webhook.EndpointOK},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var state webhook.EndpointState
				start := time.Now()
				sends := 0
				cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error { sends++; return test.err })
				d := newDispatcher(t, cfg)
				emit(t, d, "app", webhook.ChannelOccupied("room"))
				atTime(time.Hour)
				state = d.Endpoints("app")[0].State
				require.InDelta(t, test.sends, sends, float64(test.sends)/10, "%v", time.Since(start))
				require.Equal(t, test.state, state)
				d.Purge("app")
			})
		})
	}
}

// A stream of answers that are final, or of failures that cost a handshake, is no load: for each endpoint a few attempts
// at first and then one a minute, and no more lines than that.
func TestHopelessEndpointsAreNoLoad(t *testing.T) {
	for name, send := range map[string]func(*http.Request) (*http.Response, error){
		"410": func(*http.Request) (*http.Response, error) { return answer(http.StatusGone), nil },
		"untrusted certificate": func(*http.Request) (*http.Response, error) {
			return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
		},
		"refused by the guard": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const webhooks = 20
				var urls []string
				for i := range webhooks {
					urls = append(urls, fmt.Sprintf("http://127.0.0.1:1/%d", i))
				}
				var log diary
				var attempts atomic.Int64
				cfg := webhook.Config{Apps: []webhook.App{testApp("app", urls...)}, MaxBatchEvents: 1, Logger: log.logger(),
					Hooks: webhook.Hooks{Attempt: func(*webhook.Delivery, webhook.Attempt) { attempts.Add(1) }}}
				cfg.Sender = newSender(t, func(c *webhook.HTTPConfig) {
					if send != nil {
						c.Transport = transport(send)
					} else {
						c.DialControl = func(string, string, syscall.RawConn) error { return errors.New("not allowed") }
					}
				})
				d := newDispatcher(t, cfg)
				for range 20 * 600 {
					_ = d.Emit("app", webhook.ChannelOccupied("room"))
					time.Sleep(50 * time.Millisecond)
				}
				require.LessOrEqual(t, attempts.Load(), int64(webhooks*25))
				require.LessOrEqual(t, len(log.with("")), webhooks*25)
				require.Less(t, d.Stats().Pending, uint64(webhooks*20*60*7), "age empties the queues")
				d.Purge("app")
			})
		})
	}
}

// A Sender or hook that ends its goroutine, as a failing test does, costs its own batch and nothing else.
func TestGoexitIsSurvived(t *testing.T) {
	for _, where := range []string{"Sender", "Attempt", "Delivered", "Endpoint"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exited := false
				exit := func(here string) {
					if here == where && !exited {
						exited = true
						runtime.Goexit()
					}
				}
				sends := 0
				cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(context.Context, *webhook.Delivery) error {
					exit("Sender")
					if sends++; sends == 1 && where == "Endpoint" {
						return errors.New("down")
					}
					return nil
				})
				cfg.Hooks = webhook.Hooks{
					Attempt:   func(*webhook.Delivery, webhook.Attempt) { exit("Attempt") },
					Delivered: func(*webhook.Delivery, time.Duration) { exit("Delivered") },
					Endpoint:  func(webhook.EndpointStatus) { exit("Endpoint") },
				}
				d := newDispatcher(t, cfg)
				for i := range 5 {
					emit(t, d, "app", webhook.SubscriptionCount("room", i))
				}
				require.NoError(t, d.Flush(t.Context()))
				require.EqualValues(t, 5, d.Stats().Delivered)
				closeNow(t, d)
			})
		})
	}
}

// What ends its goroutine with the last delivery of a lane gives the place on the wire back: with one place for all, the
// next app gets it.
func TestGoexitGivesThePlaceBack(t *testing.T) {
	for _, where := range []string{"Sender", "Attempt", "Delivered", "Undelivered"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exit := func(here, app string) {
					if here == where && app == "exits" {
						runtime.Goexit()
					}
				}
				sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
					exit("Sender", d.AppID)
					if d.AppID == "exits" && where == "Undelivered" {
						return webhook.ErrFinal
					}
					return nil
				}}
				d := newDispatcher(t, webhook.Config{
					Apps: []webhook.App{testApp("exits", "http://localhost/"), testApp("next", "http://localhost/")}, MaxConcurrent: 1, Sender: sent,
					Hooks: webhook.Hooks{
						Attempt:     func(d *webhook.Delivery, _ webhook.Attempt) { exit("Attempt", d.AppID) },
						Delivered:   func(d *webhook.Delivery, _ time.Duration) { exit("Delivered", d.AppID) },
						Undelivered: func(d *webhook.Delivery, _ error) { exit("Undelivered", d.AppID) },
					},
				})
				emit(t, d, "exits", webhook.ChannelOccupied("a"))
				emit(t, d, "next", webhook.ChannelOccupied("b"))
				atTime(window)
				require.Contains(t, sent.batches(t), []string{"b"})
				d.Purge("exits")
			})
		})
	}
}

// A Send that ignores its context keeps its place, and what is behind it still ages.
func TestWhatIsBehindASenderThatHangsStillAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var lost []string
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(context.Context, *webhook.Delivery) error { <-release; return nil })
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) { lost = append(lost, channels(t, d.Body)...) }
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("stuck"), webhook.ChannelOccupied("behind"))
		atTime(8 * time.Minute)
		require.Equal(t, []string{"behind"}, lost)
		require.Equal(t, webhook.EndpointFailing, d.Endpoints("app")[0].State)
		close(release)
		synctest.Wait()
		require.EqualValues(t, 1, d.Stats().Delivered)
		emit(t, d, "app", webhook.ChannelOccupied("later"))
		atTime(2 * time.Minute)
		require.EqualValues(t, 2, d.Stats().Delivered)
	})
}

// A delivery is not given up for the time that it has waited for a place on the wire: its endpoint has not failed yet.
func TestWaitingForAPlaceGivesNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
			if d.AppID == "hog" {
				time.Sleep(20 * time.Minute)
				return nil
			}
			if tries++; tries == 1 {
				return errors.New("down")
			}
			return nil
		}}
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("hog", "http://localhost/"), testApp("app", "http://localhost/")},
			MaxConcurrent: 1, MaxBatchEvents: 1, SendTimeout: time.Hour, Sender: sent})
		emit(t, d, "hog", webhook.ChannelOccupied("room"))
		synctest.Wait()
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(30 * time.Minute)
		require.EqualValues(t, 2, d.Stats().Delivered)
	})
}

// One lane tries for all while an endpoint is down, and success frees the others.
func TestOneRequestPerWait(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		net.set("host", func(int, []byte) (int, time.Duration) { return 503, time.Millisecond })
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://host/")}, MaxBatchEvents: 1, Sender: net.sender(t)})
		for i := range 100 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		atTime(500 * time.Millisecond)
		before := net.count("host")
		require.LessOrEqual(t, before, 16, "the first of each lane")
		atTime(time.Minute - 500*time.Millisecond)
		require.LessOrEqual(t, net.count("host")-before, 8, "1+2+4+8+16+32 s")
		net.set("host", quick)
		d.RetryNow("app")
		atTime(time.Second)
		require.EqualValues(t, 100, d.Stats().Delivered)
	})
}

// The lane that tries for all is the one whose event has waited longest, so that no event grows old behind younger ones.
func TestOldestEventIsTriedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, cfg)
		for i := range 50 {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
			atTime(time.Second)
		}
		require.Greater(t, len(sent.batches(t)), 4)
		for _, tried := range sent.batches(t) {
			require.Equal(t, []string{"0"}, tried)
		}
		d.Purge("app")
	})
}

// What is left of a batch that is being sent in parts is purged too.
func TestPurgeOfADividedBatch(t *testing.T) {
	bubble(t, func(t *testing.T, net *network) {
		net.set("host", func(n int, body []byte) (int, time.Duration) {
			if n == 1 {
				return 400, 0
			}
			return 200, time.Second
		})
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://host/")}, Sender: net.sender(t)})
		for i := range 8 {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
		}
		atTime(window + time.Millisecond) // refused, and the first half is on the wire
		require.Equal(t, 4, d.Purge("app"))
		require.NoError(t, d.Flush(t.Context()))
		require.EqualValues(t, 4, d.Stats().Delivered)
		require.EqualValues(t, 4, d.Stats().Undelivered)
		require.Equal(t, 2, net.count("host"))
	})
}

// The rest of a divided batch is given up while a part of it is on the wire: each event ends once, whatever becomes of
// the part.
func TestRestOfADividedBatchIsGivenUpOnce(t *testing.T) {
	for name, giveUp := range map[string]func(d *webhook.Dispatcher){
		"purged":         func(d *webhook.Dispatcher) { d.Purge("app") },
		"purged twice":   func(d *webhook.Dispatcher) { d.Purge("app"); d.Purge("app") },
		"too old":        func(*webhook.Dispatcher) { time.Sleep(10 * time.Minute) }, // the Send hangs
		"old and purged": func(d *webhook.Dispatcher) { time.Sleep(10 * time.Minute); d.Purge("app") },
	} {
		for partEnds, err := range map[string]error{"accepted": nil, "failed": errors.New("down"), "final": webhook.ErrFinal} {
			t.Run(name+", the part is "+partEnds, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var ends []string
					ended := func(d *webhook.Delivery) {
						for _, e := range parse(t, d.Body).Events {
							ends = append(ends, fmt.Sprint(e.SubscriptionCount))
						}
					}
					release := make(chan struct{})
					cfg, sent := oneEndpoint(webhook.Config{}, nil)
					sent.answer = func(context.Context, *webhook.Delivery) error {
						switch len(sent.deliveries()) {
						case 1:
							return webhook.ErrRefused
						case 2: // the first half
							<-release
							return err
						}
						return nil
					}
					cfg.Hooks.Delivered = func(d *webhook.Delivery, _ time.Duration) { ended(d) }
					cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) { ended(d) }
					d := newDispatcher(t, cfg)
					for i := range 8 {
						emit(t, d, "app", webhook.SubscriptionCount("room", i))
					}
					atTime(window)
					giveUp(d)
					synctest.Wait()
					require.Equal(t, []string{"4", "5", "6", "7"}, ends, "the rest, while the part is on the wire")
					close(release)
					require.NoError(t, d.Flush(t.Context()))
					require.Equal(t, []string{"4", "5", "6", "7", "0", "1", "2", "3"}, ends)
				})
			})
		}
	}
}

func TestRetryNowTriesWhatWasSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		sent.answer = func(context.Context, *webhook.Delivery) error {
			if len(sent.deliveries()) == 1 {
				return webhook.ErrRefused
			}
			return nil
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(window)
		d.RetryNow("app")
		synctest.Wait()
		require.EqualValues(t, 1, d.Stats().Delivered)
	})
}

// An endpoint that recovers soon after it was told to fail is told to be well later, without anything else happening.
func TestEndpointHookHearsOfTheLatestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var states []webhook.EndpointState
		told := func() []webhook.EndpointState {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(states)
		}
		err := errors.New("down")
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, RetryWaitMin: 10 * time.Second}, func(context.Context, *webhook.Delivery) error { return err })
		cfg.Hooks.Endpoint = func(s webhook.EndpointStatus) {
			mu.Lock()
			defer mu.Unlock()
			states = append(states, s.State)
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(time.Second)
		err = nil
		d.RetryNow("app")
		atTime(8 * time.Second)
		require.Equal(t, []webhook.EndpointState{webhook.EndpointFailing}, told())
		atTime(time.Second)
		require.Equal(t, []webhook.EndpointState{webhook.EndpointFailing, webhook.EndpointOK}, told())
	})
}

// What an endpoint or a Sender says is bounded and on one line where it is shown.
func TestLastErrorIsOneShortLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error {
			return errors.New("first line\nsecond line\x1b[31m" + strings.Repeat("x", 1000))
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(window)
		last := d.Endpoints("app")[0].LastError
		require.Contains(t, last, `first line\nsecond line\x1b[31m`)
		require.Less(t, len(last), 350)
		d.Purge("app")
	})
}

// At most MaxInFlight requests of an endpoint are on the wire, whatever lanes there are beside those for channels.
func TestMaxInFlightHoldsForAllLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxInFlight: 1}, dead)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"), webhook.ChannelOccupied("private-encrypted-room"))
		atTime(window)
		require.Len(t, sent.deliveries(), 1)
		d.Purge("app")
	})
}

// A lane that gets a place after its endpoint has begun to wait gives it back, for others to use; and nobody waits for a
// place while a hook runs.
func TestPlaceIsGivenBack(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		hook time.Duration
	}{"the endpoint waits": {errors.New("down"), 0}, "a hook runs": {nil, time.Minute}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
					if d.AppID == "app" {
						return test.err
					}
					return nil
				}}
				d := newDispatcher(t, webhook.Config{
					Apps: []webhook.App{testApp("app", "http://localhost/"), testApp("other", "http://localhost/")}, Sender: sent,
					MaxBatchEvents: 1, MaxInFlight: 2, MaxConcurrent: 1,
					Hooks: webhook.Hooks{Attempt: func(d *webhook.Delivery, _ webhook.Attempt) {
						if d.AppID == "app" {
							time.Sleep(test.hook)
						}
					}},
				})
				emit(t, d, "app", webhook.ChannelOccupied("slow"), webhook.ChannelOccupied("prompt")) // in two lanes
				emit(t, d, "other", webhook.ChannelOccupied("b"))
				atTime(100 * time.Millisecond)
				require.Contains(t, sent.batches(t), []string{"b"})
				if test.err != nil {
					require.Len(t, sent.deliveries(), 2, "the other lane waits")
				}
				d.Purge("app")
				atTime(2 * test.hook)
			})
		})
	}
}

// The lane that tries for all is told of to a hook that takes its time: meanwhile the next one may try.
func TestNextProbeDoesNotWaitForAHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int64
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		cfg.Hooks.Attempt = func(*webhook.Delivery, webhook.Attempt) {
			if attempts.Add(1) == 3 {
				time.Sleep(time.Minute)
			}
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("slow"))
		atTime(time.Millisecond)
		emit(t, d, "app", webhook.ChannelOccupied("prompt"))
		atTime(30 * time.Second)
		require.Contains(t, sent.batches(t), []string{"prompt"})
		d.Purge("app")
		atTime(time.Minute)
	})
}

// A lane that was to try for all and was purged while it waited for a place leaves that to the next.
func TestPurgedProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{}
		sent.answer = func(_ context.Context, d *webhook.Delivery) error {
			if d.AppID == "other" {
				time.Sleep(20 * time.Second)
				return nil
			}
			if len(sent.deliveries()) == 1 {
				return errors.New("down")
			}
			return nil
		}
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/"), testApp("other", "http://localhost/")},
			MaxBatchEvents: 1, MaxInFlight: 2, MaxConcurrent: 1, Sender: sent})
		emit(t, d, "app", webhook.ChannelOccupied("slow"))
		synctest.Wait()
		emit(t, d, "other", webhook.ChannelOccupied("b"))
		atTime(10 * time.Second) // the lane waits for the place that the other app has
		require.Equal(t, 1, d.Purge("app"))
		emit(t, d, "app", webhook.ChannelOccupied("prompt"))
		atTime(time.Minute)
		require.Contains(t, sent.batches(t), []string{"prompt"})
	})
}
