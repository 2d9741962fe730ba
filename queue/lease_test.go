package queue

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A process that was stopped goes on before any timer has fired. Each request looks whether the lease is valid and the
// partition this worker's, and waits, or is not sent.
func TestNothingIsSentWithoutALease(t *testing.T) {
	holds, sent := 0, 0
	w := &Worker{q: &Queue{partitions: 1}}
	w.sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { sent++; return nil })
	w.owner = newOwner(w)
	l := &lease{length: time.Minute, timer: time.NewTimer(time.Hour), hold: func(context.Context) func() {
		holds++
		return func() { holds-- }
	}}
	w.owner.lease = l
	send := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		before := sent
		err := w.send(ctx, &webhook.Delivery{AppID: "app"})
		require.Equal(t, sent > before, err == nil)
		return sent > before
	}
	confirm := func() {
		lapse, _ := l.lapse()
		l.confirm(lapse)
	}
	r := newReader(w, 0)
	w.owner.readers[0].Store(r)

	require.False(t, send(), "nobody knows of it yet")
	confirm()
	require.False(t, send(), "nor does it help to be sure of the partitions")
	l.beat(time.Now())
	require.False(t, send(), "it is not sure of them")
	confirm()
	require.True(t, send())
	require.Zero(t, holds)

	l.acked = time.Now().Add(-50 * time.Second) // and the timer does not fire
	require.False(t, send(), "it was stopped")
	require.Equal(t, 1, holds)
	before, _ := l.lapse()
	l.beat(time.Now().Add(-45 * time.Second)) // late again
	l.beat(time.Now())
	l.confirm(before)
	require.False(t, send(), "it was sure of them before the second lapse")
	confirm()
	require.True(t, send())
	require.Zero(t, holds)

	r.lost.Store(true)
	require.False(t, send(), "it is another's")
	w.owner.readers[0].Store(nil)
	require.False(t, send(), "it is nobody's")
}
