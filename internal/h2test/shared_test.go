package h2test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// newHTTPServer is net/http's server, which offers HTTP/2.
func newHTTPServer(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handle)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// Between the sender and its endpoint the network goes quiet: no reset, no end, as after a NAT's timeout, a failover
// or a resume. Pings find out, and the delivery goes on over a new connection within one attempt.
func TestFrozenConnectionIsReplaced(t *testing.T) {
	var protocol string
	url := newHTTPServer(t, func(_ http.ResponseWriter, r *http.Request) {
		protocol = r.Proto
		_, _ = io.Copy(io.Discard, r.Body)
	})
	way := newWay(t, strings.TrimPrefix(url, "https://"))
	attempts := make(chan webhook.Attempt, 10)
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "https://"+way.address)},
		Hooks: webhook.Hooks{Attempt: func(_ *webhook.Delivery, a webhook.Attempt) { attempts <- a }}})
	require.NoError(t, d.Emit("app", small))
	require.NoError(t, (<-attempts).Err)
	require.Equal(t, "HTTP/2.0", protocol)
	way.freeze()
	require.NoError(t, d.Emit("app", small))
	a := <-attempts
	require.NoError(t, a.Err)
	t.Logf("delivered after %v, timeout %v", a.Took, timeout)
	require.Less(t, a.Took, timeout)
}

// A way is a TCP proxy on loopback.
type way struct {
	address string
	mu      sync.Mutex
	frozen  chan struct{} // of the connections that are open
}

func newWay(t *testing.T, to string) *way {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &way{address: l.Addr().String(), frozen: make(chan struct{})}
	var running sync.WaitGroup
	var conns sync.Map
	t.Cleanup(func() {
		_ = l.Close()
		conns.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		running.Wait()
	})
	running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			conns.Store(in, true)
			conns.Store(out, true)
			w.mu.Lock()
			frozen := w.frozen
			w.mu.Unlock()
			running.Go(func() { carry(out, in, frozen) })
			running.Go(func() { carry(in, out, frozen) })
		}
	})
	return w
}

// carry copies until it is frozen; then it swallows what comes, and says nothing.
func carry(to, from net.Conn, frozen <-chan struct{}) {
	for buf := make([]byte, 16<<10); ; {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			if err != nil {
				return
			}
			continue
		default:
		}
		if err != nil {
			_ = to.Close()
			return
		}
		_, _ = to.Write(buf[:n])
	}
}

func (w *way) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.frozen)
	w.frozen = make(chan struct{})
}

// Four endpoints of a host do not read 500 kB each, which is more than the host's window. Over HTTP/1.1 their
// neighbour on that host does not notice. Over HTTP/2 it waits for as long as their attempts last, each up to Timeout, and
// not for ever; as they back off these become rare.
func TestNeighbourOfEndpointsThatDoNotRead(t *testing.T) {
	for protocol, most := range map[string]time.Duration{"HTTP/1.1": 2 * timeout, "HTTP/2.0": 20 * timeout} {
		t.Run(protocol, func(t *testing.T) {
			url := newHTTPServer(t, func(_ http.ResponseWriter, r *http.Request) {
				if r.Proto != protocol {
					t.Errorf("%s spoken", r.Proto)
				}
				if strings.HasPrefix(r.URL.Path, "/hangs") {
					select { // HTTP/1.1's ends with its body read
					case <-r.Context().Done():
					case <-t.Context().Done():
					}
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
			})
			s, err := webhook.NewHTTPSender(webhook.HTTPConfig{HTTP2: protocol == "HTTP/2.0", TLS: &tls.Config{RootCAs: identity.roots}, Timeout: timeout})
			require.NoError(t, err)
			t.Cleanup(s.CloseIdleConnections)
			delivered := make(chan time.Duration, 1)
			d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("good", url+"/good")}, Sender: s,
				RetryWaitMin: 10 * time.Millisecond, RetryWaitMax: time.Minute,
				Hooks: webhook.Hooks{Delivered: func(d *webhook.Delivery, _ time.Duration) {
					if d.AppID == "good" {
						delivered <- time.Since(d.CreatedAt)
					}
				}}})
			for i := range 4 {
				id := fmt.Sprint("hangs", i)
				require.NoError(t, d.SetApp(testApp(id, url+"/"+id)))
				require.NoError(t, d.Emit(id, large))
			}
			var took []time.Duration
			for start := time.Now(); time.Since(start) < 2*timeout; {
				require.NoError(t, d.Emit("good", small))
				took = append(took, <-delivered)
			}
			slices.Sort(took)
			t.Logf("p50 %v, p99 %v, worst %v of %d", took[len(took)/2], took[len(took)*99/100], took[len(took)-1], len(took))
			require.Less(t, took[len(took)-1], most)
		})
	}
}
