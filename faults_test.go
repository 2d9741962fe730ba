package webhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
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

// What the library survives. Faults of the network happen on real sockets, on loopback; faults of time on
// synctest's clock. Faults that are the subject of other tests: a full queue (batcher_test.go), Close with
// events pending, hanging, twice, and against Emit (close_test.go), panics and reconfiguration
// (webhook_test.go), Retry-After (httpsender_test.go), headers (config_test.go).

// soon makes a sender that waits 100ms for an answer.
func soon(c *webhook.HTTPConfig) { c.Timeout = 100 * time.Millisecond }

// latencies emits events of the healthy app, one after the other, and returns how long Emit took and how long
// it took until each was delivered, sorted.
func latencies(t *testing.T, d *webhook.Dispatcher, delivered <-chan string) (emits, deliveries []time.Duration) {
	t.Helper()
	for range 200 {
		start := time.Now()
		emit(t, d, "healthy", webhook.ChannelOccupied("room"))
		emits = append(emits, time.Since(start))
		select {
		case <-delivered:
			deliveries = append(deliveries, time.Since(start))
		case <-time.After(10 * time.Second):
			t.Fatal("not delivered")
		}
	}
	slices.Sort(emits)
	slices.Sort(deliveries)
	return emits, deliveries
}

func TestDeadEndpointsBesideAHealthyOne(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	healthy := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
	hanging := newEndpoint(t, func(c net.Conn, _ int64) bool { return hang(c) })
	failing := newEndpoint(t, func(c net.Conn, _ int64) bool {
		return say(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
	})
	delivered := make(chan string, 1)
	s := newSender(t, func(c *webhook.HTTPConfig) { c.Timeout = 300 * time.Millisecond })
	d, err := webhook.New(webhook.Config{
		Apps: []webhook.App{testApp("healthy", healthy.url)}, MaxBatchEvents: 1, MaxInFlight: 1, Sender: s,
		RetryWaitMin: 100 * time.Millisecond, RetryWaitMax: time.Second,
		Hooks: webhook.Hooks{Delivered: func(d *webhook.Delivery, _ time.Duration) { delivered <- d.ID }},
	})
	require.NoError(t, err)
	emits, alone := latencies(t, d, delivered)

	for i := range 200 {
		url := hanging.url
		if i%2 == 0 {
			url = failing.url
		}
		id := fmt.Sprint("dead-", i)
		require.NoError(t, d.SetApp(testApp(id, url)))
		emit(t, d, id, webhook.ChannelOccupied("a"), webhook.ChannelOccupied("b"))
	}
	require.True(t, settles(func() bool { return hanging.requests.Load() > 100 && failing.requests.Load() > 100 }))
	emitsBeside, beside := latencies(t, d, delivered)

	median, p99 := len(alone)/2, len(alone)*99/100
	require.LessOrEqual(t, beside[median], 2*alone[median]+10*time.Millisecond, "median latency, alone %v", alone[median])
	// isolation_test.go has the exact bounds, on a clock that does not depend on what else the machine does
	require.LessOrEqual(t, beside[p99], 2*alone[p99]+500*time.Millisecond, "p99, alone %v", alone[p99])
	require.Less(t, emits[median], time.Millisecond)
	require.Less(t, emitsBeside[median], time.Millisecond)
	require.LessOrEqual(t, healthy.connections.Load(), int64(5), "the healthy endpoint keeps its connection, whatever fails elsewhere")
	require.EqualValues(t, 400, d.Stats().Pending)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var left *webhook.UndeliveredError
	require.ErrorAs(t, d.Close(ctx), &left)
	require.Len(t, left.Deliveries, 400)
	require.True(t, settles(func() bool { return d.Stats().ActiveEndpoints == 0 }), "Sends that Close has ended return")
	checkAccounts(t, d)
	s.CloseIdleConnections()
	require.True(t, settles(func() bool {
		return healthy.open.Load()+hanging.open.Load()+failing.open.Load() == 0
	}), "sockets return")
	require.True(t, settles(func() bool { return runtime.NumGoroutine() <= goroutines+6 }), "goroutines return, but for the listeners'")
}

func TestHangs(t *testing.T) {
	const slowBody = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 1000\r\n\r\n"
	for name, test := range map[string]struct {
		serve   func(c net.Conn, n int64) bool
		success bool
	}{
		"before the headers":        {func(c net.Conn, _ int64) bool { return hang(c) }, false},
		"within the headers":        {func(c net.Conn, _ int64) bool { return say(c, "HTTP/1.1 200 OK\r\nContent-") && hang(c) }, false},
		"after a failure's headers": {func(c net.Conn, _ int64) bool { return say(c, slowBody) && hang(c) }, false},
		"after a success's headers": {func(c net.Conn, _ int64) bool {
			return say(c, strings.Replace(slowBody, "500 Int", "200 Int", 1)) && hang(c)
		}, true},
		"with a failure byte by byte": {func(c net.Conn, _ int64) bool {
			for say(c, slowBody); say(c, "x"); {
				time.Sleep(10 * time.Millisecond) // the endpoint's pace, not the test's
			}
			return false
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t, test.serve) // which checks that the socket returns
			start := time.Now()
			err := newSender(t, soon).Send(t.Context(), delivery(e.url))
			require.Equal(t, test.success, err == nil, "%v", err)
			require.GreaterOrEqual(t, time.Since(start), 100*time.Millisecond, "the answer's body has a quarter of a second")
			require.Less(t, time.Since(start), 5*time.Second, "the attempt ends at its timeout")
			require.EqualValues(t, 1, e.requests.Load())
			var answered *webhook.StatusError
			if err != nil && !errors.As(err, &answered) {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "no answer within 100ms")
			}
		})
	}
}

func TestResetBeforeTheAnswerIsRetried(t *testing.T) {
	var bodies [][]byte
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		bodies = append(bodies, append([]byte(fmt.Sprint(req.Header["Webhook-Id"], req.Header["X-Pusher-Signature"])), body...))
		if len(bodies) < 3 {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				reset(c)
				_ = c.Close()
			}
		}
	}))
	defer r.Close()
	d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{testApp("app", r.URL)}}))
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	require.NoError(t, d.Flush(t.Context()))
	require.Len(t, bodies, 3)
	require.Equal(t, bodies[0], bodies[1])
	require.Equal(t, bodies[0], bodies[2])
}

func TestResetAfterASuccessIsASuccess(t *testing.T) {
	e := newEndpoint(t, func(c net.Conn, _ int64) bool {
		return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf") && reset(c)
	})
	require.NoError(t, newSender(t).Send(t.Context(), delivery(e.url)))
	require.EqualValues(t, 1, e.requests.Load())
}

// A backend that did its work but whose answer came too late gets the same request again.
func TestDuplicateAfterATimeout(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	r.Hang()
	app.Webhooks = testApp("", r.URL).Webhooks
	d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{app}, MaxBatchEvents: 1, Sender: newSender(t, soon)}))
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	require.True(t, settles(func() bool { return len(r.Requests()) >= 2 }))
	r.Release()
	_, err := r.Wait(1, 5*time.Second)
	require.NoError(t, err)
	for _, again := range r.Requests() {
		require.Equal(t, r.Requests()[0].ID, again.ID)
		require.Equal(t, r.Requests()[0].Header, again.Header)
		require.Equal(t, r.Requests()[0].Body, again.Body)
	}
}

// An attempt with a fault of TLS shows the endpoint no request. It is a failure: certificates are renewed.
func TestTLSFaultsAreFailures(t *testing.T) {
	pool := x509.NewCertPool()
	in, past := time.Now().Add(24*time.Hour), time.Now().Add(-24*time.Hour)
	for name, test := range map[string]struct {
		server *tls.Config
		want   string
	}{
		"unknown authority": {&tls.Config{Certificates: []tls.Certificate{certificate(t, "127.0.0.1", in, nil)}}, "certificate"},
		"wrong host":        {&tls.Config{Certificates: []tls.Certificate{certificate(t, "example.com", in, pool)}}, "certificate"},
		"expired":           {&tls.Config{Certificates: []tls.Certificate{certificate(t, "127.0.0.1", past, pool)}}, "expired"},
		"TLS 1.1": {&tls.Config{Certificates: []tls.Certificate{certificate(t, "127.0.0.1", in, pool)},
			MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}, "protocol version not supported"},
		"": {&tls.Config{Certificates: []tls.Certificate{certificate(t, "127.0.0.1", in, pool)}}, ""}, // well configured
	} {
		var requests, connections atomic.Int64
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		server.TLS = test.server
		server.StartTLS()
		s := newSender(t, func(c *webhook.HTTPConfig) { c.TLS = &tls.Config{RootCAs: pool} })
		err := s.Send(t.Context(), delivery(server.URL))
		s.CloseIdleConnections()
		server.Close()
		if name == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, test.want, name)
		require.NotErrorIs(t, err, webhook.ErrFinal, name)
		require.NotErrorIs(t, err, webhook.ErrRefused, name)
		require.EqualValues(t, 1, connections.Load(), name)
		require.Zero(t, requests.Load(), name)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	target := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, location := range []string{target.url, "//" + strings.TrimPrefix(target.url, "http://"), "", "http://[::bad", "ftp://x"} {
			r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Location"] = []string{location}
				w.WriteHeader(status)
			}))
			err := newSender(t, soon).Send(t.Context(), delivery(r.URL))
			r.Close()
			var answered *webhook.StatusError
			require.ErrorAs(t, err, &answered, "%d to %q", status, location)
		}
	}
	require.Zero(t, target.connections.Load(), "the target sees nothing")
}

// A resolver on loopback that answers like a broken one, or not at all.
func brokenResolver(t *testing.T, answers bool) *net.Resolver {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		for buf := make([]byte, 512); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if answers && n > 3 {
				buf[2], buf[3] = buf[2]|0x80, buf[3]|0x03 // NXDOMAIN
				_, _ = c.WriteTo(buf[:n], from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

func TestDNSFaultsAreRetried(t *testing.T) {
	for name, answers := range map[string]bool{"no such host": true, "no answer": false} {
		s := newSender(t, func(c *webhook.HTTPConfig) {
			soon(c)
			transport := webhook.NewTransport(*c)
			dialer := &net.Dialer{Timeout: c.Timeout, Resolver: brokenResolver(t, answers)}
			transport.DialContext = dialer.DialContext
			c.Transport = transport
		})
		d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{testApp("app", "http://endpoint.invalid/")}, Sender: s}))
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		require.True(t, settles(func() bool { return d.Endpoints("app")[0].Failures >= 2 }), name)
		last := d.Endpoints("app")[0].LastError
		require.Equal(t, answers, strings.Contains(last, "no such host"), last)
		d.Purge("app")
	}
}

// Whatever an endpoint answers, an attempt takes less than 1 MiB of memory.
func TestMemoryOfAnAttemptIsBounded(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 10 {
		_, _ = z.Write(zeros)
	}
	require.NoError(t, z.Close())
	flood := func(c net.Conn, what []byte) bool { _, err := c.Write(what); return err == nil }
	chunk := []byte("8000\r\n" + strings.Repeat("x", 32<<10) + "\r\n")
	headerLine := []byte("X-Long: " + strings.Repeat("y", 1000) + "\r\n")
	hints := slices.Concat([]byte("HTTP/1.1 103 Early Hints\r\n"), headerLine, []byte("\r\n"))
	for name, serve := range map[string]func(c net.Conn, n int64) bool{
		"endless body": func(c net.Conn, _ int64) bool {
			for say(c, "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n"); flood(c, chunk); {
			}
			return false
		},
		"gzip bomb": func(c net.Conn, _ int64) bool {
			return say(c, fmt.Sprintf("HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", bomb.Len())) && say(c, bomb.String())
		},
		"10 MB of headers": func(c net.Conn, _ int64) bool {
			say(c, "HTTP/1.1 200 OK\r\n")
			for range 10_000 {
				if !flood(c, headerLine) {
					return false
				}
			}
			return say(c, "\r\n")
		},
		"endless informational answers": func(c net.Conn, _ int64) bool {
			for flood(c, hints) {
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t, serve)
			s := newSender(t, soon, func(c *webhook.HTTPConfig) { c.Timeout = 5 * time.Second })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			const attempts = 10
			for range attempts {
				err := s.Send(t.Context(), delivery(e.url))
				require.Error(t, err)
				var answered *webhook.StatusError
				if name == "gzip bomb" && errors.As(err, &answered) {
					require.True(t, strings.HasPrefix(answered.Body, "\x1f\x8b"), "not decompressed")
				}
			}
			runtime.ReadMemStats(&after)
			require.Less(t, time.Since(start), 10*time.Second, "no attempt reads until its timeout of 5s")
			require.Less(t, (after.TotalAlloc-before.TotalAlloc)/attempts, uint64(1<<20), "allocated in all, the endpoint's own share included")
		})
	}
}

// keepAlive: replies of any size up to the bound leave the connection usable.
func TestConnectionIsKeptAlive(t *testing.T) {
	for _, size := range []int{0, 100, 10_000, 60_000} {
		body := strings.Repeat("x", size)
		e := newEndpoint(t, func(c net.Conn, n int64) bool {
			status := "200 OK"
			if n%2 == 0 {
				status = "500 Oh"
			}
			return say(c, fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, size, body))
		})
		s := newSender(t)
		for i := range 100 {
			require.Equal(t, i%2 == 0, s.Send(t.Context(), delivery(e.url)) == nil)
		}
		require.EqualValues(t, 1, e.connections.Load(), "%d bytes", size)
	}
}

func TestRecovery(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	r.Answer(503)
	app.Webhooks = testApp("", r.URL).Webhooks
	d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{app}, MaxBatchEvents: 10}))
	for i := range 95 {
		emit(t, d, "app", webhook.SubscriptionCount("room", i))
	}
	require.True(t, settles(func() bool { return len(r.Requests()) > 5 }))
	s := d.Stats()
	require.Equal(t, webhook.Stats{Emitted: 95, Queued: 95, Pending: 95, PendingBytes: s.PendingBytes, ActiveEndpoints: 1}, s, "total outage")
	r.Answer(200)
	events, err := r.Wait(95, 10*time.Second)
	require.NoError(t, err)
	for i, e := range events {
		require.Equal(t, i, e.SubscriptionCount, "in order, once")
	}
	// A failed attempt closes the batch that is open at that moment: a few may have been while the events came.
	require.LessOrEqual(t, len(r.Deliveries()), 15, "in full batches, or nearly so")
	require.True(t, settles(func() bool { return d.Stats().ActiveEndpoints == 0 }))
	checkAccounts(t, d)
}

func TestNoBatchOvertakesOneThatFails(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	r.Fail(7, 503)
	app.Webhooks = testApp("", r.URL).Webhooks
	d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{app}, MaxBatchEvents: 1}))
	for i := range 20 {
		emit(t, d, "app", webhook.SubscriptionCount("room", i))
	}
	_, err := r.Wait(20, 10*time.Second)
	require.NoError(t, err)
	require.Len(t, r.Requests(), 27)
	for i, request := range r.Requests() {
		require.Equal(t, max(0, i-7), request.Events[0].SubscriptionCount, "failed attempts included")
	}
}

func TestUglyStringsAreDeliveredVerifiably(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	app.Webhooks = []webhook.Webhook{{URL: r.URL, EventTypes: every, Filter: webhook.Filter{ChannelNameStartsWith: "presence-\xff"}}}
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{app}})
	ugly := "\xff<b>&\u2028\u2029\x00\x1f\"\\\U0001F30D"
	emit(t, d, "app",
		webhook.ClientEvent("presence-"+ugly, "client-"+ugly, []byte(ugly), ugly, ugly),
		webhook.MemberAdded("presence-\uFFFD", "does not match: the filter sees the original bytes"))
	closeNow(t, d)
	clean := strings.ToValidUTF8(ugly, "\uFFFD")
	require.Len(t, r.Events(), 1, "valid JSON, well signed")
	got := r.Events()[0]
	require.Equal(t, "presence-"+clean, got.Channel)
	require.Equal(t, "client-"+clean, got.Event)
	require.Equal(t, clean, got.UserID)
}

func TestChangesWhileADeliveryIsRetried(t *testing.T) {
	for name, change := range map[string]func(d *webhook.Dispatcher, app webhook.App) error{
		"app removed": func(d *webhook.Dispatcher, app webhook.App) error { d.RemoveApp(app.ID); return nil },
		"endpoint replaced": func(d *webhook.Dispatcher, app webhook.App) error {
			return d.SetApp(testApp(app.ID, "http://localhost:1/"))
		},
		"secret rotated": func(d *webhook.Dispatcher, app webhook.App) error {
			app.Secret = "rotated"
			return d.SetApp(app)
		},
		"secret rotated and webhook dropped": func(d *webhook.Dispatcher, app webhook.App) error {
			app.Secret, app.Webhooks = "rotated", nil
			return d.SetApp(app)
		},
	} {
		t.Run(name, func(t *testing.T) {
			app := testApp("app")
			r := newReceiver(t, app)
			r.Answer(503)
			app.Webhooks = testApp("", r.URL).Webhooks
			d := newDispatcher(t, fast(webhook.Config{Apps: []webhook.App{app}, MaxBatchEvents: 1}))
			emit(t, d, "app", webhook.ChannelOccupied("room"))
			require.True(t, settles(func() bool { return len(r.Requests()) > 2 }))
			if strings.HasPrefix(name, "secret") {
				rotated := app
				rotated.Secret = "rotated"
				r.Accept(rotated)
			}
			require.NoError(t, change(d, app))
			r.Answer(200)
			_, err := r.Wait(1, 5*time.Second)
			require.NoError(t, err, "it still arrives, signed with the secret that holds when it leaves")
			for _, request := range r.Requests() {
				require.Equal(t, r.Requests()[0].ID, request.ID)
			}
		})
	}
}

// A thousand endpoints that failed together do not come back together.
func TestRecoveringEndpointsAreSpreadOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const endpoints, places = 1000, 400
		var mu sync.Mutex
		var seconds []time.Duration // when each endpoint was tried the second time
		tried := map[string]int{}
		onWire, most := 0, 0
		start := time.Now()
		s, err := webhook.NewHTTPSender(webhook.HTTPConfig{Transport: transport(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			onWire++
			most = max(most, onWire)
			tried[r.URL.Path]++
			first := tried[r.URL.Path] == 1
			if !first {
				seconds = append(seconds, time.Since(start))
			}
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			onWire--
			if first {
				return answer(503, "Retry-After", "10"), nil
			}
			return answer(200), nil
		})})
		require.NoError(t, err)
		cfg := webhook.Config{MaxBatchEvents: 1, MaxConcurrent: places, Sender: s}
		for i := range endpoints {
			cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint(i), fmt.Sprint("http://localhost/", i)))
		}
		d := newDispatcher(t, cfg)
		for i := range endpoints {
			emit(t, d, fmt.Sprint(i), webhook.ChannelOccupied("room"))
		}
		require.NoError(t, d.Flush(t.Context()))
		require.Len(t, seconds, endpoints)
		require.LessOrEqual(t, most, places)
		slices.Sort(seconds)
		fifths := map[time.Duration]int{}
		for _, at := range seconds {
			fifths[(at-10*time.Second)/(500*time.Millisecond)]++ // waits are multiples of 100 ms, mostly
		}
		require.GreaterOrEqual(t, seconds[0], 10*time.Second, "not before the Retry-After")
		for fifth := range time.Duration(5) {
			require.InDelta(t, endpoints/5, fifths[fifth], endpoints/10, "a fifth of them in each fifth of 2.5s, more or less")
		}
	})
}

func TestCloseWhileWaiting(t *testing.T) {
	hangs := newEndpoint(t, func(c net.Conn, _ int64) bool { return hang(c) })
	asks := newEndpoint(t, func(c net.Conn, _ int64) bool {
		return say(c, "HTTP/1.1 503 Oh\r\nRetry-After: 99999999999999\r\nContent-Length: 0\r\n\r\n")
	})
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", asks.url, hangs.url, hangs.url+"2", hangs.url+"3")},
		MaxBatchEvents: 1, MaxConcurrent: 2}) // the others do not even get on the wire
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	require.True(t, settles(func() bool { return hangs.requests.Load() >= 1 }))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	var left *webhook.UndeliveredError
	require.ErrorAs(t, d.Close(ctx), &left)
	require.Less(t, time.Since(start), 5*time.Second)
	require.Len(t, left.Deliveries, 4)
	require.True(t, settles(func() bool { return d.Stats().ActiveEndpoints == 0 }), "Sends that Close has ended return")
	for _, delivery := range left.Deliveries {
		require.NoError(t, webhook.Verify("app-key", "app-secret", delivery.Header, delivery.Body))
	}
}
