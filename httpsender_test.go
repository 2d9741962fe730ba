package webhook_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
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

func TestHTTPConfigFaults(t *testing.T) {
	_, err := webhook.NewHTTPSender(webhook.HTTPConfig{Timeout: -1, UserAgent: "a\nb", Transport: http.DefaultTransport,
		DialControl: func(string, string, syscall.RawConn) error { return nil }, TLS: &tls.Config{}, HTTP2: true})
	require.EqualError(t, err, `webhook: invalid HTTP config:
Timeout: must be positive, or 0 for the default
UserAgent: has a character that an HTTP header cannot carry
DialControl: has no effect on a Transport of your own, use WrapTransport instead
TLS: has no effect on a Transport of your own, use WrapTransport instead
HTTP2: has no effect on a Transport of your own, use WrapTransport instead`)
}

func TestRetriedDeliveryIsByteIdentical(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	app.Webhooks = testApp("", r.URL).Webhooks
	r.Fail(3, http.StatusBadGateway)
	var mu sync.Mutex
	var seen []webhook.Attempt
	d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{app}, Hooks: webhook.Hooks{Attempt: func(_ *webhook.Delivery, a webhook.Attempt) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, a)
	}}}))
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	require.NoError(t, d.Flush(t.Context()))
	requests := r.Requests()
	require.Len(t, requests, 4)
	for _, request := range requests {
		require.Equal(t, requests[0].Body, request.Body)
		require.Equal(t, requests[0].Header, request.Header)
	}
	require.Equal(t, "pusher-webhooks", requests[0].Header.Get("User-Agent"))
	require.Len(t, seen, 4)
	for i, a := range seen {
		require.Equal(t, i+1, a.N)
		require.Equal(t, []int{502, 502, 502, 200}[i], a.Status)
		require.Positive(t, a.Took)
		require.Equal(t, i < 3, a.Err != nil)
		require.Equal(t, i < 3, a.RetryIn > 0)
	}
}

func TestUserAgent(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	s := newSender(t, func(c *webhook.HTTPConfig) { c.UserAgent = "server/1" })
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
	require.NoError(t, newSender(t).Send(t.Context(), delivery(strings.Replace(r.URL, "http://", "http://user:pass@", 1))))
	request := http.Request{Header: r.Requests()[0].Header}
	user, pass, ok := request.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "user:pass", user+":"+pass)
}

// What every status means: 2xx is success, the others are three kinds of error.
func TestStatuses(t *testing.T) {
	failures := []int{408, 425, 429, 502, 503, 504}
	for status := 200; status < 600; status++ {
		tries := 0
		s := newSender(t, func(c *webhook.HTTPConfig) {
			c.Transport = transport(func(*http.Request) (*http.Response, error) {
				tries++
				return answer(status, "Location", "http://localhost/elsewhere"), nil
			})
		})
		err := s.Send(t.Context(), delivery("http://localhost/"))
		require.Equal(t, 1, tries, "one attempt")
		require.Equal(t, status < 300, err == nil, status)
		require.Equal(t, status == http.StatusGone, errors.Is(err, webhook.ErrFinal), status)
		refused := status >= 400 && status != http.StatusGone && !slices.Contains(failures, status)
		require.Equal(t, refused, errors.Is(err, webhook.ErrRefused), status)
		var answered *webhook.StatusError
		require.Equal(t, err != nil, errors.As(err, &answered))
	}
}

func TestStatusError(t *testing.T) {
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("secret? ", 1000), http.StatusTeapot)
	}))
	defer r.Close()
	err := newSender(t).Send(t.Context(), delivery(r.URL))
	var answered *webhook.StatusError
	require.ErrorAs(t, err, &answered)
	require.Equal(t, 418, answered.Code)
	require.Equal(t, strings.Repeat("secret? ", 64), answered.Body)
	require.EqualError(t, err, "endpoint answered 418 I'm a teapot")
	require.EqualError(t, &webhook.StatusError{Code: 599}, "endpoint answered 599")
}

// What bounds the default transport; http.Transport's own defaults are without.
func TestTransportBounds(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		bounds := webhook.NewTransport(webhook.HTTPConfig{Timeout: timeout, TLS: &tls.Config{MinVersion: tls.VersionTLS10}})
		require.Nil(t, bounds.Proxy, "a proxy would hide the address from DialControl")
		require.Equal(t, cmp.Or(timeout, 10*time.Second), bounds.TLSHandshakeTimeout)
		require.Equal(t, 90*time.Second, bounds.IdleConnTimeout)
		require.Equal(t, 2048, bounds.MaxIdleConnsPerHost, "many endpoints may live on one host")
		require.Equal(t, 2048, bounds.MaxIdleConns)
		require.EqualValues(t, tls.VersionTLS12, bounds.TLSClientConfig.MinVersion)
	}
}

// A long answer is read only so far that a usual one leaves its connection usable.
func TestLongAnswersAreNotReadToTheEnd(t *testing.T) {
	body := strings.NewReader(strings.Repeat("x", 10<<20))
	s := newSender(t, func(c *webhook.HTTPConfig) {
		c.Transport = transport(func(*http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Body, resp.ContentLength = io.NopCloser(body), body.Size()
			return resp, nil
		})
	})
	require.NoError(t, s.Send(t.Context(), delivery("http://localhost/")))
	require.LessOrEqual(t, body.Size()-int64(body.Len()), int64(96<<10))
}

// A guard that panics, on a goroutine that is not the dispatcher's, refuses this delivery.
func TestDialControlThatPanics(t *testing.T) {
	s := newSender(t, func(c *webhook.HTTPConfig) {
		c.DialControl = func(string, string, syscall.RawConn) error { panic("guard") }
	})
	require.ErrorIs(t, s.Send(t.Context(), delivery("http://127.0.0.1:1/")), webhook.ErrRefused)
}

// What an answer's Retry-After asks for, as the dispatcher sees it.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for header, want := range map[string]time.Duration{
			"1": time.Second, "0": 0, "3600": time.Hour, "-5": 0, "soon": 0, "": 0,
			"9223372037":           9223372036 * time.Second, // would overflow into no wait
			"99999999999999999999": 9223372036 * time.Second,
			time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat): 20 * time.Second,
			"Fri, 31 Dec 1999 23:59:59 GMT":                                0,
		} {
			s := newSender(t, func(c *webhook.HTTPConfig) {
				c.Transport = transport(func(*http.Request) (*http.Response, error) { return answer(503, "Retry-After", header), nil })
			})
			var answered *webhook.StatusError
			require.ErrorAs(t, s.Send(t.Context(), delivery("http://localhost/")), &answered)
			require.Equal(t, want, answered.RetryAfter(), header)
		}
	})
}

// A Transport of the user's sees an ordinary request, at every attempt.
func TestTransportSeesAnOrdinaryRequest(t *testing.T) {
	tries := 0
	d := delivery("http://localhost/path?q=1")
	s := newSender(t, func(c *webhook.HTTPConfig) {
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
	require.Error(t, s.Send(t.Context(), d))
	require.NoError(t, s.Send(t.Context(), d))
	require.Equal(t, 2, tries)
}

func TestSendEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSender(t, func(c *webhook.HTTPConfig) {
			c.Transport = transport(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, s.Send(ctx, delivery("http://localhost/")), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
	})
}

// A kept connection that turns out to be closed costs no attempt: the request is repeated at once, and once only.
func TestReusedConnectionThatWasClosed(t *testing.T) {
	e := newEndpoint(t, func(c net.Conn, n int64) bool { return say(c, ok) && n != 1 && n < 3 })
	s := newSender(t)
	for range 2 {
		require.NoError(t, s.Send(t.Context(), delivery(e.url)))
	}
	silent := newEndpoint(t, func(c net.Conn, n int64) bool { return n == 1 && say(c, ok) })
	require.NoError(t, s.Send(t.Context(), delivery(silent.url)))
	require.Error(t, s.Send(t.Context(), delivery(silent.url)), "closed without an answer, twice")
	require.EqualValues(t, 3, silent.requests.Load(), "the second Send tried twice")
	require.Error(t, s.Send(t.Context(), delivery(silent.url)), "and on a new connection once")
	require.EqualValues(t, 4, silent.requests.Load())
}

func TestWrapTransportSeesEveryRequest(t *testing.T) {
	r := newReceiver(t, testApp("app"))
	var urls []string
	s := newSender(t, func(c *webhook.HTTPConfig) {
		c.WrapTransport = func(base http.RoundTripper) http.RoundTripper {
			return transport(func(r *http.Request) (*http.Response, error) {
				urls = append(urls, r.URL.String())
				return base.RoundTrip(r)
			})
		}
	})
	require.NoError(t, s.Send(t.Context(), delivery(r.URL+"/hook?q=1")))
	require.Equal(t, []string{r.URL + "/hook?q=1"}, urls)
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
	s := newSender(t, func(c *webhook.HTTPConfig) {
		c.Transport = transport(func(*http.Request) (*http.Response, error) { panic("not to be called") })
	})
	for _, url := range []string{"ftp://localhost/?CANARY", "", "http://", "http://local host/?CANARY", "/hook"} {
		err := s.Send(t.Context(), delivery(url))
		require.ErrorContains(t, err, "webhook: url: ")
		require.NotContains(t, err.Error(), "CANARY")
	}
}

// largeDelivery has a body that is not copied for the transport, but lent to it.
func largeDelivery() *webhook.Delivery {
	d := delivery("http://localhost/")
	d.Body = []byte(`{"time_ms":1,"events":[{"name":"channel_occupied","channel":"` + strings.Repeat("x", 10_000) + `"}]}`)
	return d
}

// A transport may read the body after it has returned. Once Send has returned it cannot: the memory is used again.
func TestNobodyReadsABodyAfterSend(t *testing.T) {
	var body io.ReadCloser
	for name, test := range map[string]struct {
		err  error
		read int
	}{"accepted": {nil, 0}, "accepted early": {nil, 1}, "failed": {errors.New("reset"), 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSender(t, func(c *webhook.HTTPConfig) {
					c.Transport = transport(func(r *http.Request) (*http.Response, error) {
						body = r.Body
						_, _ = r.Body.Read(make([]byte, test.read))
						if test.err != nil {
							return nil, test.err
						}
						return answer(200), nil
					})
				})
				require.Equal(t, test.err == nil, s.Send(t.Context(), largeDelivery()) == nil)
				_, err := body.Read(make([]byte, 10))
				require.Error(t, err)
			})
		})
	}
}

// A transport that is still sending when the endpoint has answered may finish.
func TestEarlyAnswerLetsTheBodyFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, sent := largeDelivery(), make(chan string, 1)
		s := newSender(t, func(c *webhook.HTTPConfig) {
			c.Transport = transport(func(r *http.Request) (*http.Response, error) {
				first := make([]byte, 1)
				_, _ = r.Body.Read(first)
				go func() {
					time.Sleep(100 * time.Millisecond)
					rest, _ := io.ReadAll(r.Body)
					_ = r.Body.Close()
					sent <- string(first) + string(rest)
				}()
				return answer(200), nil
			})
		})
		start := time.Now()
		require.NoError(t, s.Send(t.Context(), d))
		require.Equal(t, 100*time.Millisecond, time.Since(start))
		require.Equal(t, string(d.Body), <-sent)
	})
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

// An answer counts from its status: a body that drips is read for a quarter of a second.
func TestDrippingBodyHoldsItsPlaceForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSender(t, func(c *webhook.HTTPConfig) {
			c.Transport = transport(func(r *http.Request) (*http.Response, error) { return dripping(r), nil })
		})
		start := time.Now()
		require.NoError(t, s.Send(t.Context(), delivery("http://localhost/")))
		require.Equal(t, 250*time.Millisecond, time.Since(start))
	})
}
