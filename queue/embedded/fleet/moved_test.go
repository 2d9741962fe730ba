package fleet

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// An app's webhook gets another URL while events wait for the old one. Then a worker hands over: each event is
// delivered, or is a letter.
func TestAnAppThatMovesWhileEventsWait(t *testing.T) {
	q := openQueue(t, startServer(t))
	r := newReceiver(t)
	r.dead["/old"] = true
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/old")))
	a := newWorker(t, q, workerConfig())
	e := newEmitter(t, q)
	for i := range 10 {
		require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", i)))
	}
	require.True(t, settles(func() bool { return a.Stats().Read == 10 }))
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/new")))
	require.NoError(t, within(2e9, a.Close))
	newWorker(t, q, workerConfig())
	drainedQueue(t, q)
	n := len(r.events("/new")) + len(r.events("/old"))
	for _, l := range letters(t, q, queue.DeadFilter{}) {
		n += len(l.Events)
	}
	require.Equal(t, 10, n)
}
