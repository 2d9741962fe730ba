package fleet

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// A wire leads to a server, can be slow, and can be cut: then nothing goes through, and nobody is told.
type wire struct {
	url   string
	cut   atomic.Bool
	delay atomic.Int64 // of what goes through
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	u, err := url.Parse(to)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{url: "nats://" + l.Addr().String()}
	var open sync.Map
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = client.Close()
				continue
			}
			open.Store(client, true)
			open.Store(server, true)
			all.Go(func() { w.pass(client, server) })
			all.Go(func() { w.pass(server, client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		open.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		all.Wait()
	})
	return w
}

// pass swallows what comes while the wire is cut, and closes the connection then: it is not to be used again.
func (w *wire) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	swallowed := false
	for {
		n, err := from.Read(b)
		if err != nil {
			if w.cut.Load() && err == io.EOF {
				continue
			}
			return
		}
		if w.cut.Load() {
			swallowed = true
			continue
		}
		if swallowed {
			return
		}
		time.Sleep(time.Duration(w.delay.Load()))
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// A worker that is cut off from the engine stops sending before its lease is over, has nothing on the wire and sends
// nothing while another has its partitions. When it is back it takes its share again.
func TestAWorkerThatIsCutOffSendsNothing(t *testing.T) {
	server := startServer(t)
	q := openQueue(t, server)
	l := newLoad(t, q, 20, 2, 20)
	w := newWire(t, server)
	var sends, onWire atomic.Int64
	cfg := workerConfig()
	sender, err := webhook.NewHTTPSender(webhook.HTTPConfig{})
	require.NoError(t, err)
	t.Cleanup(sender.CloseIdleConnections)
	cfg.Sender = webhook.SenderFunc(func(ctx context.Context, d *webhook.Delivery) error {
		sends.Add(1)
		onWire.Add(1)
		defer onWire.Add(-1)
		if w.cut.Load() { // the endpoint does not answer
			<-ctx.Done()
			return ctx.Err()
		}
		return sender.Send(ctx, d)
	})
	a, b := newWorker(t, openQueue(t, w.url), cfg), newWorker(t, q, workerConfig())
	shares(t, a, b)
	l.run(10 * time.Millisecond)
	require.True(t, settles(func() bool { return sends.Load() > 50 }))

	w.cut.Store(true)
	at := time.Now()
	require.True(t, settles(func() bool { return a.Stats().Suspended }))
	require.Less(t, time.Since(at), lease)
	held := sends.Load()
	shares(t, b)
	require.GreaterOrEqual(t, time.Since(at), lease*8/10)
	require.Zero(t, onWire.Load(), "what was on the wire was cancelled")
	got := l.r.numbers()
	require.True(t, settles(func() bool { return l.r.numbers() > got+400 }), "b delivers all")
	require.Equal(t, held, sends.Load(), "a sends nothing")

	w.cut.Store(false)
	shares(t, a, b)
	require.Positive(t, a.Stats().Lost)
	require.True(t, settles(func() bool { return sends.Load() > held+50 }), "a sends again")
	duplicates, late := l.end()
	require.Zero(t, late)
	t.Logf("%d events to each of 40 endpoints, %d duplicates", l.emitted, duplicates)
}

// A worker with many partitions goes on after it was cut off, also where its way to the engine is long.
func TestAWorkerOfManyPartitionsGoesOn(t *testing.T) {
	w := newWire(t, startServer(t))
	q, err := queue.Open(t.Context(), connect(t, w.url), queue.Config{Partitions: 128})
	require.NoError(t, err)
	a := newWorker(t, q, workerConfig())
	require.True(t, settles(func() bool { return len(a.Partitions()) == 128 }))
	w.delay.Store(int64(20 * time.Millisecond))
	w.cut.Store(true)
	require.True(t, settles(func() bool { return a.Stats().Suspended }))
	w.cut.Store(false)
	require.True(t, settles(func() bool { return !a.Stats().Suspended }))
	require.Len(t, a.Partitions(), 128)
}

// Close of a worker that is cut off, with requests on the wire, keeps its time and says that it could not note how far
// it has got. The next worker delivers all.
func TestCloseWhileCutOff(t *testing.T) {
	server := startServer(t)
	q := openQueue(t, server)
	w := newWire(t, server)
	l := newLoad(t, q, 20, 1, 0)
	l.r.slow = time.Minute
	a := newWorker(t, openQueue(t, w.url), workerConfig())
	shares(t, a)
	l.run(10 * time.Millisecond)
	require.True(t, settles(func() bool { return a.Stats().Read > 100 }))
	w.cut.Store(true)
	require.True(t, settles(func() bool { return a.Stats().Suspended }))
	at := time.Now()
	require.ErrorContains(t, within(time.Second, a.Close), "queue: record")
	require.ErrorContains(t, within(time.Second, a.Close), "queue: record", "twice")
	require.Less(t, time.Since(at), 6*time.Second)
	l.r.mu.Lock()
	l.r.slow = 0
	l.r.mu.Unlock()
	newWorker(t, q, workerConfig())
	_, late := l.end()
	require.Zero(t, late)
}
