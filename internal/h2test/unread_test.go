package h2test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/pusherhooks/webhook"
)

// Endpoints that do not read what they are sent. Whatever they do, nothing is left of an attempt soon after it has
// ended: no memory, no goroutine, no socket.

const tenants = 10

// leavesNothing sends so many tenants an event each, so many times, and checks what remains.
func leavesNothing(t *testing.T, s *server, e webhook.Event, tenants, rounds int, delivered bool) {
	t.Helper()
	sender := newSender(t)
	cfg := webhook.Config{Apps: apps(tenants, s.url), RetryWaitMin: 10 * time.Millisecond, Sender: sender}
	if !delivered {
		cfg.RetryFor = -1
	}
	d := newDispatcher(t, cfg)
	before, goroutines := heap(), runtime.NumGoroutine()
	for range rounds {
		for _, app := range apps(tenants, s.url) {
			require.NoError(t, d.Emit(app.ID, e))
		}
		require.NoError(t, d.Flush(t.Context()))
	}
	want := map[bool]uint64{delivered: uint64(tenants * rounds)}
	require.Equal(t, want[true], d.Stats().Delivered)
	require.Equal(t, want[false], d.Stats().Undelivered)
	// net/http keeps a connection until idleConnTimeout if its GOAWAY comes after the last request has ended, as that of
	// an attempt that timed out. These are few, and none has a request on it.
	settles(t, "sockets are closed, but for idle ones", func() bool { sender.CloseIdleConnections(); return s.clients() < tenants*rounds/2 })
	const own = 3 // goroutines of a server for each connection that it holds
	settles(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines+own*int(s.held.Load())+tenants/2+5 })
	var grown int64
	settles(t, "memory is free, but for the server's own share", func() bool { grown = heap() - before; return grown < 2<<20 })
	t.Logf("%d sockets, heap %+d KiB, with %d connections that the server holds", s.clients(), grown>>10, s.held.Load())
}

func TestAnswerThenGoAwayAndNothingIsRead(t *testing.T) {
	end := make(chan struct{})
	s := newServer(t, func(c *conn) {
		_ = c.WriteSettings()
		stream := c.headers()
		c.answer(stream, "200")
		_ = c.WriteGoAway(stream, http2.ErrCodeNo, nil)
		<-end
	})
	defer close(end)
	leavesNothing(t, s, large, tenants, 2, true)
}

func TestNothingIsRead(t *testing.T) {
	end := make(chan struct{})
	s := newServer(t, func(c *conn) {
		c.open()
		<-end
	})
	defer close(end)
	leavesNothing(t, s, large, tenants, 2, false)
}

// The window is open, some bytes are read all the time, and frames come all the time, so that no ping is due.
func TestRequestsAreReadInDrips(t *testing.T) {
	s := newServer(t, func(c *conn) {
		c.open()
		go func() {
			for buf := make([]byte, 1<<10); ; time.Sleep(timeout / 50) { // the endpoint's pace, not the test's
				if _, err := c.secure.Read(buf); err != nil {
					return
				}
			}
		}()
		for c.WriteRSTStream(1<<20+1, 0) == nil {
			time.Sleep(timeout / 10)
		}
	})
	leavesNothing(t, s, large, tenants, 2, false)
}
