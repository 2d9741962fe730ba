package fleet

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// A partition that a newer version wrote to is left by a worker that cannot read it, which goes on with the others. One
// that can read it takes it (here the next one, after the message is gone).
func TestANewerVersionCostsAPartition(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/")))
	w := newWorker(t, q, workerConfig())
	shares(t, w)
	nc := connect(t, url)
	const newer = "wh.ev.3"
	_, err := nc.Request(newer, []byte{250, 1, 2, 3}, 5*time.Second)
	require.NoError(t, err)
	require.True(t, settles(func() bool { return w.Stats().Err != nil }))
	require.ErrorContains(t, w.Stats().Err, "newer version")
	require.True(t, settles(func() bool { return len(w.Partitions()) == 15 }), "%v", w.Partitions())
	require.NotContains(t, w.Partitions(), 3)
	require.True(t, settles(func() bool {
		status, err := q.Partitions(t.Context())
		require.NoError(t, err)
		return status[3].Owner == "" && status[3].Messages == 1
	}))
	e := newEmitter(t, q)
	require.NoError(t, e.Emit("app", webhook.ChannelOccupied("c")))
	require.True(t, settles(func() bool { return len(r.events("/")) == 1 }))
}

// Two processes that make the streams at once have the same ones, and another number of partitions is refused.
func TestOpenAtOnce(t *testing.T) {
	url := startServer(t)
	const n = 8
	errs := make(chan error, n)
	for range n {
		nc := connect(t, url)
		go func() {
			_, err := queue.Open(context.Background(), nc, queue.Config{Partitions: 4})
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	_, err := queue.Open(t.Context(), connect(t, url), queue.Config{Partitions: 5})
	require.ErrorContains(t, err, `it has "4" partitions, which cannot be changed to 5`)
	q, err := queue.Open(t.Context(), connect(t, url), queue.Config{})
	require.NoError(t, err)
	status, err := q.Partitions(t.Context())
	require.NoError(t, err)
	require.Len(t, status, 4)
}

// A node goes on accepting while the engine is away, until its buffer is full, and stores all of it afterwards.
func TestANodeWhoseEngineIsAway(t *testing.T) {
	url := startServer(t)
	w := newWire(t, url)
	nc, err := nats.Connect(w.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1), nats.PingInterval(500*time.Millisecond), nats.MaxPingsOutstanding(1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	q, err := queue.Open(t.Context(), nc, queue.Config{MaxBytes: 256 << 20, MaxDeadBytes: 64 << 20})
	require.NoError(t, err)
	e, err := q.NewEmitter(queue.EmitterConfig{MaxBufferedBytes: 512 << 10})
	require.NoError(t, err)
	t.Cleanup(func() { _ = within(5*time.Second, e.Close) })
	require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 0)))

	w.cut.Store(true)
	accepted := 1
	for ; ; accepted++ {
		if err := e.Emit("app", webhook.SubscriptionCount("c", accepted)); err != nil {
			require.ErrorIs(t, err, webhook.ErrQueueFull)
			break
		}
	}
	require.Greater(t, accepted, 1000)
	require.EqualValues(t, 1, e.Stats().Refused)
	require.ErrorIs(t, within(10*time.Millisecond, e.Flush), context.DeadlineExceeded)
	w.cut.Store(false)
	require.NoError(t, within(20*time.Second, e.Flush))
	require.EqualValues(t, accepted, e.Stats().Durable)

	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/")))
	newWorker(t, openQueue(t, url), workerConfig())
	require.True(t, settles(func() bool { return r.numbers() >= accepted }))
	different, duplicates, late := counts(r.events("/"))
	require.Len(t, different["c"], accepted)
	require.Zero(t, duplicates+late)
}

// An app that floods its partition's buffer leaves room for others, whose events are stored and delivered meanwhile.
func TestAFloodingAppBesideOthers(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	for _, id := range []string{"flood", "other"} {
		require.NoError(t, q.SetApp(t.Context(), app(id, r.URL+"/"+id)))
	}
	newWorker(t, q, workerConfig())
	e, err := q.NewEmitter(queue.EmitterConfig{MaxBufferedBytes: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { _ = within(5*time.Second, e.Close) })
	stop, flooded := make(chan struct{}), make(chan int)
	data := []byte(`"` + strings.Repeat("x", 2000) + `"`)
	go func() {
		accepted := 0
		for {
			select {
			case <-stop:
				flooded <- accepted
				return
			default:
			}
			if e.Emit("flood", webhook.ClientEvent("private-c", "client-x", data, "1.2", "")) == nil {
				accepted++
				continue
			}
			time.Sleep(100 * time.Microsecond) // there is no core to spare
		}
	}()
	const n = 50
	for i := range n {
		require.NoError(t, e.EmitDurable(t.Context(), "other", webhook.SubscriptionCount("c", i)))
	}
	require.True(t, settles(func() bool { return len(r.events("/other")) == n }))
	close(stop)
	accepted := <-flooded
	require.NoError(t, within(20*time.Second, e.Flush))
	given := func() (up int) { // what its endpoint had no room for
		for _, letter := range letters(t, q, queue.DeadFilter{App: "flood"}) {
			up += len(letter.Events)
		}
		return up
	}
	require.True(t, settles(func() bool { return len(r.events("/flood"))+given() >= accepted }))
	require.Equal(t, accepted, len(r.events("/flood"))+given())
}
