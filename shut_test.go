package webhook

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Close waits for an event that was accepted when it had begun: an Emit that waits for its endpoint's lock meanwhile.
func TestCloseAwaitsAnEmitThatIsUnderWay(t *testing.T) {
	var calls atomic.Int64
	release := make(chan struct{})
	app := func(id string) App {
		return App{ID: id, Key: "k", Secret: "s", Webhooks: []Webhook{{URL: "http://" + id + ".test/", EventTypes: EventTypes()}}}
	}
	d, err := New(Config{MaxBatchEvents: 1, Apps: []App{app("x"), app("y")}, Sender: SenderFunc(func(ctx context.Context, v *Delivery) error {
		calls.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		if v.URL == "http://second/" {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
		return ctx.Err()
	})})
	require.NoError(t, err)
	var order []*endpoint // as shut goes
	for e := range d.endpointsOf("") {
		order = append(order, e)
	}
	first, last := order[0], order[1]
	require.NoError(t, d.Emit(first.key.app, ChannelOccupied("c"))) // on the wire

	last.mu.Lock() // whoever is preempted with it, or a long firsts()
	accepted := make(chan error, 1)
	go func() { accepted <- d.Emit(last.key.app, ChannelOccupied("c")) }()
	time.Sleep(50 * time.Millisecond) // Emit waits for the lock, past d.closed
	closed := make(chan error, 1)
	go func() { closed <- d.Close(context.Background()) }()
	for !d.closing.sealed.Load() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	close(release) // the first's request ends
	time.Sleep(100 * time.Millisecond)
	last.mu.Unlock()
	emitErr, closeErr := <-accepted, <-closed
	time.Sleep(100 * time.Millisecond)
	s := d.Stats()
	if emitErr == nil && closeErr == nil {
		require.Equal(t, s.Queued, s.Delivered, "accepted, and neither delivered nor handed back")
	}
}
