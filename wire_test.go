package webhook_test

import (
	"bufio"
	"bytes"
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
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// The default transport on real sockets. internal/h2test has what it does over HTTP/2.

func TestHTTP2IsNotOfferedByDefault(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		var offered []string
		var protocol string
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocol = r.Proto }))
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			offered = hello.SupportedProtos
			return nil, nil
		}}
		server.StartTLS()
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		s := newSender(t, func(c *webhook.HTTPConfig) { c.TLS, c.HTTP2 = &tls.Config{RootCAs: pool}, wanted })
		require.NoError(t, s.Send(t.Context(), delivery(server.URL)))
		s.CloseIdleConnections()
		server.Close()
		if wanted {
			require.Contains(t, offered, "h2")
			require.Equal(t, "HTTP/2.0", protocol)
		} else {
			require.NotContains(t, offered, "h2")
			require.Equal(t, "HTTP/1.1", protocol)
		}
	}
}

// A proxy would hide from DialControl where a request goes. This is a process of its own, because net/http reads the
// environment once, and the endpoint has a name, because net/http uses no proxy for 127.0.0.1.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	if target := os.Getenv("WEBHOOK_TEST_TARGET"); target != "" {
		s := newSender(t, func(c *webhook.HTTPConfig) {
			transport := webhook.NewTransport(*c)
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if address == "receiver.invalid:80" {
					address = target
				}
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			c.Transport = transport
		})
		require.NoError(t, s.Send(t.Context(), delivery("http://receiver.invalid/")))
		return
	}
	target := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
	proxy := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
	child := exec.Command(os.Args[0], "-test.run=^TestProxyOfTheEnvironmentIsNotUsed$")
	address := strings.Trim(strings.TrimPrefix(target.url, "http://"), "/")
	child.Env = append(os.Environ(), "HTTP_PROXY="+proxy.url, "http_proxy="+proxy.url, "NO_PROXY=", "no_proxy=", "WEBHOOK_TEST_TARGET="+address)
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Zero(t, proxy.connections.Load())
	require.EqualValues(t, 1, target.requests.Load())
}

// Sixteen lanes of an endpoint keep a connection each.
func TestLanesKeepTheirConnections(t *testing.T) {
	const lanes, rounds = 16, 10
	e := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", e.url)}, MaxBatchEvents: 1, MaxInFlight: lanes})
	for range rounds {
		for i := range 10 * lanes {
			emit(t, d, "app", webhook.ChannelOccupied(fmt.Sprint(i)))
		}
		require.NoError(t, d.Flush(t.Context()))
	}
	require.EqualValues(t, rounds*10*lanes, e.requests.Load())
	require.LessOrEqual(t, e.connections.Load(), int64(2*lanes), "a dial may lose against a connection that becomes free")
}

func TestIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		var answered time.Time
		closed := make(chan time.Duration, 1)
		go func() {
			r := bufio.NewReader(theirs)
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			answered = time.Now()
			say(theirs, ok)
			_, _ = r.ReadByte()
			closed <- time.Since(answered)
		}()
		s := newSender(t, func(c *webhook.HTTPConfig) {
			transport := webhook.NewTransport(*c)
			transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
			c.Transport = transport
		})
		require.NoError(t, s.Send(t.Context(), delivery("http://localhost/")))
		require.Equal(t, 90*time.Second, <-closed)
	})
}

// Like the attempt, the dial and the handshake that it has begun end with the timeout; wire_unix_test.go has the dial's.
func TestTLSHandshakeTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose connections nobody answers
	require.NoError(t, err)
	defer l.Close()
	transport := webhook.NewTransport(webhook.HTTPConfig{Timeout: 100 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+l.Addr().String(), nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.ErrorContains(t, err, "TLS handshake timeout")
}

// DialControl has the last word on every dial, over either protocol: what it refuses is not connected to, and the
// delivery is given up. If it panics the dial fails, and nothing else.
func TestDialControl(t *testing.T) {
	for name, test := range map[string]struct {
		control func() error
		want    string
		final   bool
	}{
		"refuses": {func() error { return errors.New("internal address") }, "address refused: internal address", true},
		"panics":  {func() error { panic("guard trouble") }, "webhook: panic in DialControl: guard trouble", false},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP2 %v", name, http2), func(t *testing.T) {
				e := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok) })
				var asked []string
				s := newSender(t, func(c *webhook.HTTPConfig) {
					c.HTTP2 = http2
					c.DialControl = func(_, address string, _ syscall.RawConn) error {
						asked = append(asked, address)
						return test.control()
					}
				})
				err := s.Send(t.Context(), delivery(e.url))
				require.ErrorContains(t, err, test.want)
				require.Equal(t, test.final, errors.Is(err, webhook.ErrFinal))
				require.Equal(t, []string{strings.Trim(e.url, "htp:/")}, asked, "one attempt")
				require.Zero(t, e.connections.Load())
			})
		}
	}
}

// A lockedBuffer is an output of package log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// quiet is the guide's.
type quiet struct{ io.Writer }

func (q quiet) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("Unsolicited response received on idle HTTP channel")) {
		return len(line), nil
	}
	return q.Writer.Write(line)
}

// The guide's answer to net/http's own log: what an endpoint sends behind its answer is printed by package log, and
// the writer that the guide shows leaves these lines out.
func TestBytesBehindAnAnswer(t *testing.T) {
	before := log.Writer()
	defer log.SetOutput(before)
	out := &lockedBuffer{}
	for output, printed := range map[io.Writer]bool{out: true, quiet{out}: false} {
		log.SetOutput(output)
		e := newEndpoint(t, func(c net.Conn, _ int64) bool { return say(c, ok+"CANARY") && hang(c) })
		s := newSender(t)
		require.NoError(t, s.Send(t.Context(), delivery(e.url)))
		require.True(t, settles(func() bool { return e.open.Load() == 0 }), "the connection is of no use any more")
		log.Print("end")
		require.Equal(t, printed, strings.Contains(out.String(), "CANARY"), out.String())
		require.Contains(t, out.String(), "end")
		out.buf.Reset()
	}
}
