package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
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

// A transport is a RoundTripper that answers without a network, for tests of time.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is a response with a status and, in pairs, headers.
func answer(status int, header ...string) *http.Response {
	w := httptest.NewRecorder()
	for i := 0; i < len(header); i += 2 {
		w.Header().Set(header[i], header[i+1])
	}
	w.WriteHeader(status)
	return w.Result()
}

// delivery is a well-signed one for url.
func delivery(url string) *webhook.Delivery {
	body := []byte(`{"time_ms":1,"events":[{"name":"channel_occupied","channel":"room"}]}`)
	h := signed("app-key", "app-secret", body)
	h.Set("Webhook-Id", "id-1")
	h.Set("Content-Type", "application/json")
	return &webhook.Delivery{ID: "id-1", AppID: "app", URL: url, Header: h, Body: body, Events: 1}
}

// attempts collects what OnAttempt is told.
type attempts struct {
	mu  sync.Mutex
	all []webhook.Attempt
}

func (a *attempts) add(_ *webhook.Delivery, attempt webhook.Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, attempt)
}

// statuses returns the status of each attempt so far.
func (a *attempts) statuses() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []int
	for _, attempt := range a.all {
		all = append(all, attempt.Status)
	}
	return all
}

func TestHTTPConfigFaults(t *testing.T) {
	_, err := webhook.NewHTTPSender(webhook.HTTPConfig{
		Timeout: -1, RetryWaitMin: time.Minute, RetryWaitMax: time.Second, MaxConcurrent: -1, UserAgent: "a\nb",
		Transport: http.DefaultTransport, DialControl: func(string, string, syscall.RawConn) error { return nil },
	})
	require.EqualError(t, err, `webhook: invalid HTTP config:
Timeout: must be positive, or 0 for the default
MaxConcurrent: must be positive, or 0 for the default
RetryWaitMin: 1m0s is more than RetryWaitMax, 1s
UserAgent: has a character that an HTTP header cannot carry
DialControl: has no effect on a Transport of your own, give it to NewTransport and wrap that`)
}

func TestRetriedDeliveryIsByteIdentical(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	app.Webhooks = testApp("", r.URL).Webhooks
	r.Fail(2, http.StatusBadGateway)
	r.Fail(1, http.StatusNotFound)
	var seen attempts
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{app}, Sender: fastRetries(t, func(c *webhook.HTTPConfig) { c.OnAttempt = seen.add })})
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	_, err := r.Wait(1, 5*time.Second)
	require.NoError(t, err)
	requests := r.Requests()
	require.Len(t, requests, 4)
	for _, request := range requests {
		require.Equal(t, requests[0].Body, request.Body)
		require.Equal(t, requests[0].Header, request.Header)
	}
	require.Equal(t, "pusherhooks-webhook", requests[0].Header.Get("User-Agent"))
	require.True(t, settles(func() bool { return len(seen.statuses()) == 4 }))
	require.Equal(t, []int{502, 502, 404, 200}, seen.statuses())
	for i, a := range seen.all {
		require.Equal(t, i+1, a.N)
		require.Positive(t, a.Took)
		require.Equal(t, i < 3, a.Err != nil)
		require.Equal(t, i < 3, a.RetryIn > 0)
	}
}

func TestUserAgent(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	s := fastRetries(t, func(c *webhook.HTTPConfig) { c.UserAgent = "server/1" })
	d := delivery(r.URL)
	require.NoError(t, s.Send(t.Context(), d))
	require.NotContains(t, d.Header, "User-Agent", "the delivery is not changed")
	d.Header.Set("User-Agent", "app/2")
	require.NoError(t, s.Send(t.Context(), d))
	require.Equal(t, "server/1", r.Requests()[0].Header.Get("User-Agent"))
	require.Equal(t, "app/2", r.Requests()[1].Header.Get("User-Agent"))
}

func TestUserinfoIsBasicAuthentication(t *testing.T) {
	r := newReceiver(t, testApp("app"))
	require.NoError(t, fastRetries(t).Send(t.Context(), delivery(strings.Replace(r.URL, "http://", "http://user:pass@", 1))))
	request := http.Request{Header: r.Requests()[0].Header}
	user, pass, ok := request.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "user:pass", user+":"+pass)
}

// Every status: 2xx is success, 410 ends at once, all others are failures that are retried.
func TestStatuses(t *testing.T) {
	for status := 200; status < 600; status++ {
		tries := 0
		s := fastRetries(t, func(c *webhook.HTTPConfig) {
			c.RetryWaitMin, c.RetryWaitMax = 1, 1
			c.Transport = transport(func(*http.Request) (*http.Response, error) {
				tries++
				if tries > 1 {
					return answer(200), nil
				}
				return answer(status, "Location", "http://localhost/elsewhere"), nil
			})
		})
		err := s.Send(t.Context(), delivery("http://localhost/"))
		switch {
		case status < 300:
			require.NoError(t, err)
			require.Equal(t, 1, tries, status)
		case status == http.StatusGone:
			var answered *webhook.StatusError
			require.ErrorAs(t, err, &answered)
			require.Equal(t, http.StatusGone, answered.Code)
			require.Equal(t, 1, tries)
		default:
			require.NoError(t, err)
			require.Equal(t, 2, tries, status)
		}
	}
}

func TestStatusError(t *testing.T) {
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("secret? ", 1000), http.StatusTeapot)
	}))
	defer r.Close()
	err := fastRetries(t, func(c *webhook.HTTPConfig) { c.RetryFor = -1 }).Send(t.Context(), delivery(r.URL))
	var answered *webhook.StatusError
	require.ErrorAs(t, err, &answered)
	require.Equal(t, 418, answered.Code)
	require.Equal(t, strings.Repeat("secret? ", 64), answered.Body)
	require.Contains(t, err.Error(), "gave up after 1 attempts in")
	require.Contains(t, err.Error(), "endpoint answered 418 I'm a teapot")
	require.NotContains(t, err.Error(), "secret")
	require.EqualError(t, &webhook.StatusError{Code: 599}, "endpoint answered 599")
}

// retryTimes sends to an endpoint that never accepts and returns when each attempt was made.
func retryTimes(t *testing.T, cfg webhook.HTTPConfig, header ...string) []time.Duration {
	var times []time.Duration
	start := time.Now()
	cfg.Transport = transport(func(*http.Request) (*http.Response, error) {
		times = append(times, time.Since(start))
		return answer(http.StatusServiceUnavailable, header...), nil
	})
	s, err := webhook.NewHTTPSender(cfg)
	require.NoError(t, err)
	require.Error(t, s.Send(t.Context(), delivery("http://localhost/")))
	return times
}

func TestBackOffDoublesFromOneSecondToOneMinuteForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := retryTimes(t, webhook.HTTPConfig{})
		longest := 2 * time.Second
		for i := 1; i < len(times); i++ {
			wait := times[i] - times[i-1]
			require.GreaterOrEqual(t, wait, longest/2, "attempt %d", i)
			require.LessOrEqual(t, wait, longest, "attempt %d", i)
			longest = min(2*longest, time.Minute)
		}
		require.Greater(t, len(times), 8)
		require.LessOrEqual(t, times[len(times)-1], 5*time.Minute)
		require.Greater(t, times[len(times)-1], 4*time.Minute)
	})
}

func TestRetryForBoundsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.Len(t, retryTimes(t, webhook.HTTPConfig{RetryFor: -1}), 1)
		times := retryTimes(t, webhook.HTTPConfig{RetryFor: time.Hour, RetryWaitMax: time.Second})
		require.Len(t, times, 3601)
	})
}

func TestRetryAfterIsHonouredUpToTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second, minute := time.Second, time.Minute
		for _, test := range []struct {
			header          string
			atLeast, atMost time.Duration // of the first wait
		}{
			{"1", second, 2 * second},
			{"30", 30 * second, 38 * second},
			{"0", second, 2 * second},
			{"60", 45 * second, minute},
			{"3600", 45 * second, minute},
			{"9223372037", 45 * second, minute}, // overflows into no wait when taken for nanoseconds
			{"99999999999999", 45 * second, minute},
			{"99999999999999999999999999", 45 * second, minute},
			{"-5", second, 2 * second},
			{"soon", second, 2 * second},
			{"", second, 2 * second},
			{"a date in 20s", 18 * second, 26 * second},
			{"Fri, 31 Dec 1999 23:59:59 GMT", second, 2 * second},
			{"Fri, 31 Dec 9999 23:59:59 GMT", 45 * second, minute},
		} {
			for range 20 {
				header := test.header
				if header == "a date in 20s" {
					header = time.Now().Add(20 * second).UTC().Format(http.TimeFormat)
				}
				times := retryTimes(t, webhook.HTTPConfig{RetryFor: minute}, "Retry-After", header)
				require.Greater(t, len(times), 1, test.header)
				require.GreaterOrEqual(t, times[1], test.atLeast, test.header)
				require.LessOrEqual(t, times[1], test.atMost, test.header)
			}
		}
	})
}

func TestRetryPolicyCanBeReplaced(t *testing.T) {
	tries := 0
	s := fastRetries(t, func(c *webhook.HTTPConfig) {
		c.Retry = func(status int, err error) bool { return status != 404 && webhook.DefaultRetry(status, err) }
		c.Transport = transport(func(*http.Request) (*http.Response, error) {
			tries++
			return answer([]int{500, 404}[tries-1]), nil
		})
	})
	require.Error(t, s.Send(t.Context(), delivery("http://localhost/")))
	require.Equal(t, 2, tries)
}

// A Transport of the user's sees an ordinary request, at every attempt.
func TestTransportSeesAnOrdinaryRequest(t *testing.T) {
	tries := 0
	d := delivery("http://localhost/path?q=1")
	s := fastRetries(t, func(c *webhook.HTTPConfig) {
		c.Transport = transport(func(r *http.Request) (*http.Response, error) {
			tries++
			want, err := http.NewRequestWithContext(r.Context(), http.MethodPost, d.URL, bytes.NewReader(d.Body))
			require.NoError(t, err)
			require.Equal(t, []any{want.Method, want.URL, want.Host, want.Proto, want.ProtoMajor, want.ProtoMinor, want.ContentLength},
				[]any{r.Method, r.URL, r.Host, r.Proto, r.ProtoMajor, r.ProtoMinor, r.ContentLength})
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.Equal(t, d.Body, body)
			return answer([]int{500, 200}[tries-1]), nil
		})
	})
	require.NoError(t, s.Send(t.Context(), d))
	require.Equal(t, 2, tries)
}

func TestAttemptsWaitForAPlaceOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var onWire, most atomic.Int64
		s := fastRetries(t, func(c *webhook.HTTPConfig) {
			c.MaxConcurrent = 4
			c.Transport = transport(func(*http.Request) (*http.Response, error) {
				most.Store(max(most.Load(), onWire.Add(1)))
				defer onWire.Add(-1)
				time.Sleep(time.Second)
				return answer(200), nil
			})
		})
		start := time.Now()
		var sends sync.WaitGroup
		for range 40 {
			sends.Go(func() {
				if err := s.Send(t.Context(), delivery("http://localhost/")); err != nil {
					t.Error(err)
				}
			})
		}
		sends.Wait()
		require.EqualValues(t, 4, most.Load())
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}

// Endpoints that time out take no more than their share of the wire, however many they are: one that answers
// finds a place at once, and one that is new does as soon as the others have had their first attempt.
func TestHangingEndpointsLeaveRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var healthy []time.Time
		s, err := webhook.NewHTTPSender(webhook.HTTPConfig{
			MaxConcurrent: 8,
			RetryFor:      time.Hour,
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				if r.URL.Host == "healthy" {
					healthy = append(healthy, time.Now())
					return answer(200), nil
				}
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			}),
		})
		require.NoError(t, err)
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("healthy", "http://healthy/")}, MaxBatchEvents: 1, Sender: s})
		deliver := func(app string, within time.Duration) {
			t.Helper()
			start, before := time.Now(), len(healthy)
			emit(t, d, app, webhook.ChannelOccupied("room"))
			time.Sleep(within)
			synctest.Wait()
			require.Len(t, healthy, before+1)
			require.LessOrEqual(t, healthy[before].Sub(start), within)
		}
		deliver("healthy", 0)
		for i := range 100 {
			id := fmt.Sprint("hanging-", i)
			require.NoError(t, d.SetApp(testApp(id, "http://hanging/")))
			emit(t, d, id, webhook.ChannelOccupied("room"))
		}
		synctest.Wait()
		deliver("healthy", 0)
		time.Sleep(10 * time.Minute) // all of them have been tried, and are being tried again
		deliver("healthy", 0)
		require.NoError(t, d.SetApp(testApp("new", "http://healthy/")))
		deliver("new", 0)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, d.Close(ctx))
	})
}

// Close cuts a wait short and lets a request finish.
func TestCloseTriesAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Duration
		start := time.Now()
		s, err := webhook.NewHTTPSender(webhook.HTTPConfig{
			RetryWaitMin: time.Minute,
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				times = append(times, time.Since(start))
				select {
				case <-time.After(5 * time.Second): // a slow endpoint
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
				if len(times) < 4 {
					return answer(500), nil
				}
				return answer(200), nil
			}),
		})
		require.NoError(t, err)
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/")}, MaxBatchEvents: 1, Sender: s})
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		time.Sleep(10 * time.Second) // the first attempt has failed after 5s, the second would be a minute later
		require.NoError(t, d.Close(t.Context()))
		require.Len(t, times, 4)
		require.Equal(t, 10*time.Second, times[1], "the wait is cut short")
		require.GreaterOrEqual(t, times[2], times[1]+5*time.Second+time.Minute, "after that the schedule starts anew")
	})
}

func TestCloseLetsARequestFinishThenTriesOnceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests int
		s, err := webhook.NewHTTPSender(webhook.HTTPConfig{Transport: transport(func(r *http.Request) (*http.Response, error) {
			requests++
			select {
			case <-time.After(3 * time.Second):
				return answer([]int{500, 200}[requests-1]), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})})
		require.NoError(t, err)
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/")}, MaxBatchEvents: 1, Sender: s})
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		time.Sleep(time.Second)
		start := time.Now()
		require.NoError(t, d.Close(t.Context()))
		require.Equal(t, 5*time.Second, time.Since(start), "2s for the rest of the first request, 3s for the second")
		require.Equal(t, 2, requests)
	})
}

func TestSendEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, s := range map[string]*webhook.HTTPSender{
			"on the wire": fastRetries(t, func(c *webhook.HTTPConfig) {
				c.Transport = transport(func(r *http.Request) (*http.Response, error) {
					<-r.Context().Done()
					return nil, context.Cause(r.Context())
				})
			}),
			"waiting to retry": fastRetries(t, func(c *webhook.HTTPConfig) {
				c.RetryWaitMin, c.RetryWaitMax = time.Minute, time.Minute
				c.Transport = transport(func(*http.Request) (*http.Response, error) { return answer(500), nil })
			}),
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			require.ErrorIs(t, s.Send(ctx, delivery("http://localhost/")), context.DeadlineExceeded, name)
			require.Equal(t, time.Second, time.Since(start), name)
		}
	})
}

func TestLogTellsEveryAttemptAndNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		tries := 0
		s := fastRetries(t, func(c *webhook.HTTPConfig) {
			c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			c.Transport = transport(func(r *http.Request) (*http.Response, error) {
				if tries++; tries == 1 {
					return nil, errors.New("connection reset")
				}
				return answer([]int{503, 200}[tries-2]), nil
			})
		})
		require.NoError(t, s.Send(t.Context(), delivery("http://user:CANARY@localhost:80/hook?token=CANARY")))
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		require.Len(t, lines, 3)
		for i, want := range []string{
			`level=WARN msg="webhook attempt failed" delivery.id=id-1 delivery.app=app delivery.host=localhost:80 delivery.events=1 attempt=1 status=0`,
			`level=WARN msg="webhook attempt failed" delivery.id=id-1 delivery.app=app delivery.host=localhost:80 delivery.events=1 attempt=2 status=503`,
			`level=DEBUG msg="webhook delivered" delivery.id=id-1 delivery.app=app delivery.host=localhost:80 delivery.events=1 attempt=3 status=200`,
		} {
			require.Contains(t, lines[i], want)
		}
		require.Contains(t, lines[0], `error="connection reset" retry_in=`)
		require.NotContains(t, log.String(), "CANARY")
	})
}

func TestDeliveryPrintsWithoutWhatIsSecret(t *testing.T) {
	d := delivery("https://user:CANARY@example.com/hook?token=CANARY")
	d.Header.Set("Authorization", "Bearer CANARY")
	d.Body = []byte("CANARY")
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "d", d, "value", *d)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("", "d", d, "value", *d)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb, d, *d)
	}
	require.NotContains(t, out.String(), "CANARY")
	require.Contains(t, out.String(), "delivery id-1 of 1 events for app app to example.com")
}

func TestBadURLIsRefusedWithoutAnAttempt(t *testing.T) {
	s := fastRetries(t, func(c *webhook.HTTPConfig) {
		c.Transport = transport(func(*http.Request) (*http.Response, error) { panic("not to be called") })
	})
	for _, url := range []string{"ftp://localhost/?CANARY", "", "http://", "http://local host/?CANARY", "/hook"} {
		err := s.Send(t.Context(), delivery(url))
		require.ErrorContains(t, err, "webhook: url: ")
		require.NotContains(t, err.Error(), "CANARY")
	}
}

// An endpoint may answer before it has read everything, and the transport then reads the body on after it has
// returned. Only once it is written is the batch's memory used for the next one; and what a hook or a Sender of
// one's own is given stays as it is for good.
func TestBodiesAreNotWrittenToWhileSomebodyReads(t *testing.T) {
	marker := strings.Repeat("first-batch-", 1000)
	var kept []byte // the first body's memory itself
	observe := func(closed bool) webhook.Config {
		s := fastRetries(t, func(c *webhook.HTTPConfig) {
			c.Transport = transport(func(r *http.Request) (*http.Response, error) {
				if kept == nil {
					_, err := r.Body.(io.WriterTo).WriteTo(writer(func(p []byte) { kept = p }))
					require.NoError(t, err)
				}
				time.Sleep(time.Millisecond) // the next batch begins while this one is in flight
				trace := httptrace.ContextClientTrace(r.Context())
				trace.GotConn(httptrace.GotConnInfo{})
				if closed {
					trace.WroteRequest(httptrace.WroteRequestInfo{})
				}
				return answer(200), nil
			})
		})
		return webhook.Config{Sender: s}
	}
	withHook := observe(true)
	withHook.Hooks.Delivered = func(*webhook.Delivery, time.Duration) {}
	for name, test := range map[string]struct {
		cfg    webhook.Config
		reused bool
	}{
		"written":     {observe(true), true},
		"not written": {observe(false), false},
		"a hook":      {withHook, false},
		"a Sender": {webhook.Config{Sender: webhook.SenderFunc(func(_ context.Context, d *webhook.Delivery) error {
			if kept == nil {
				kept = d.Body
			}
			return nil
		})}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kept = nil
				test.cfg.Apps = []webhook.App{testApp("app", "http://localhost/")}
				test.cfg.MaxBatchEvents = 2
				d := newDispatcher(t, test.cfg)
				first, other := webhook.ChannelOccupied(marker), webhook.ChannelOccupied(strings.Repeat("other", 2000))
				emit(t, d, "app", first, first, other) // one more than a batch, so that the lane is never idle
				for range 10 {
					atTime(window / 2)
					emit(t, d, "app", other, other)
				}
				require.NotNil(t, kept)
				require.Equal(t, test.reused, !bytes.Contains(kept[:1000], []byte("first-batch-")))
			})
		})
	}
}

// The same over a real connection, under the race detector: an endpoint that answers before it reads.
func TestEarlyAnswersDoNotMixBatches(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		body, err := io.ReadAll(req.Body)
		if err == nil && webhook.Verify("app-key", "app-secret", req.Header, body) != nil {
			t.Error("a body changed while it was sent")
		}
		mu.Lock()
		defer mu.Unlock()
		seen[req.Header.Get("Webhook-Id")]++
	}))
	defer r.Close()
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", r.URL)}, MaxBatchEvents: 100, MaxEndpointQueuedBytes: 1 << 30, MaxQueuedBytes: 1 << 30})
	for i := range 20_000 {
		emit(t, d, "app", webhook.SubscriptionCount("room", i))
	}
	closeNow(t, d)
	require.NotEmpty(t, seen)
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }
