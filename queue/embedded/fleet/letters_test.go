package fleet

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// One tenant with many endpoints that are gone has a quarter of the dead letters' store, also where the engine is so
// far away that nobody can look at each letter.
func TestLettersPushOutNobodyElsesOnAFarEngine(t *testing.T) {
	server := startServer(t)
	w := newWire(t, server)
	q, err := queue.Open(t.Context(), connect(t, w.url), queue.Config{MaxBytes: 64 << 20, MaxDeadBytes: 1 << 20})
	require.NoError(t, err)
	urls := make([]string, 50)
	for i := range urls {
		urls[i] = fmt.Sprint("http://127.0.0.1:1/", i)
	}
	require.NoError(t, q.SetApp(t.Context(), app("hog", urls...)))
	require.NoError(t, q.SetApp(t.Context(), app("victim", "http://127.0.0.1:1/")))
	cfg := workerConfig()
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return webhook.ErrFinal })
	worker := newWorker(t, q, cfg)
	e := newEmitter(t, q)
	require.NoError(t, e.EmitDurable(t.Context(), "victim", webhook.ChannelOccupied("c")))
	require.True(t, settles(func() bool { return worker.Stats().Dead == 1 }))

	w.delay.Store(int64(40 * time.Millisecond))
	data := []byte(`"` + strings.Repeat("x", 8000) + `"`)
	require.NoError(t, e.EmitDurable(t.Context(), "hog", webhook.ClientEvent("private-c", "client-x", data, "1.2", "")))
	require.True(t, settles(func() bool { return worker.Stats().Dead == uint64(1+len(urls)) }), "%+v", worker.Stats())
	w.delay.Store(0)
	bytes := 0
	for _, letter := range letters(t, q, queue.DeadFilter{App: "hog"}) {
		bytes += len(data) * len(letter.Events)
	}
	require.Positive(t, bytes)
	require.Less(t, bytes, 1<<20/4+1<<20/16)
	require.Len(t, letters(t, q, queue.DeadFilter{App: "victim"}), 1)
}
