package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// A sink is endpoints: that of the app "flood" is slow, others take at once what they get.
type sink struct {
	mu    sync.Mutex
	count map[string]int
	worst time.Duration // from Emit to Send, of the others
}

func (s *sink) Send(ctx context.Context, d *webhook.Delivery) error {
	if d.AppID == "flood" && !sleep(ctx, 20*time.Millisecond) {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[d.AppID] += d.Events
	if d.AppID != "flood" {
		s.worst = max(s.worst, time.Since(d.CreatedAt))
	}
	return nil
}

// An app emits as fast as it can what its endpoint does not take. Others beside it find room, and get their events
// soon; of what was accepted each event has arrived or is a letter.
func TestAFloodBesideOthers(t *testing.T) {
	t.Parallel()
	const others, each = 20, 40
	apps := []webhook.App{app("flood", "http://127.0.0.1:1")}
	for i := range others {
		apps = append(apps, app(fmt.Sprint("other", i), "http://127.0.0.1:1"))
	}
	cfg, to := fast(apps...), &sink{count: map[string]int{}}
	cfg.MaxEndpointQueuedBytes, cfg.Sender = 1<<20, to
	cfg.Engine = EngineConfig{MaxBytes: 256 << 20, MaxDeadBytes: 512 << 20, MaxBufferedBytes: 4 << 20}
	l := open(t, t.TempDir(), cfg)

	var accepted, refused atomic.Int64
	stop := make(chan struct{})
	var flood, rest sync.WaitGroup
	data := []byte(`"` + strings.Repeat("x", 50) + `"`)
	for range 2 {
		flood.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				switch err := l.Emit("flood", webhook.ClientEvent("private-c", "client-e", data, "1.2", "")); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, webhook.ErrQueueFull):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	for i := range others {
		rest.Go(func() {
			for n := range each {
				if err := l.Emit(fmt.Sprint("other", i), webhook.SubscriptionCount("c", n)); err != nil {
					t.Error(err)
				}
				sleep(t.Context(), 50*time.Millisecond)
			}
		})
	}
	behind := uint64(0) // how many events were accepted and not read
	for began := time.Now(); time.Since(began) < 2*time.Second; sleep(t.Context(), time.Millisecond) {
		read := l.Stats().Worker.Read
		behind = max(behind, l.Stats().Emitter.Accepted-read)
	}
	rest.Wait()
	close(stop)
	flood.Wait()
	drained(t, l)
	to.mu.Lock()
	defer to.mu.Unlock()
	for i := range others {
		require.Equal(t, each, to.count[fmt.Sprint("other", i)])
	}
	inLetters := 0
	for _, letter := range letters(t, l, queue.DeadFilter{App: "flood"}) {
		inLetters += len(letter.Events)
	}
	require.EqualValues(t, accepted.Load(), to.count["flood"]+inLetters, "%+v", l.Stats())
	require.EqualValues(t, refused.Load(), l.Stats().Emitter.Refused)
	t.Logf("flood: %d accepted, %d of them letters, %d refused, at most %d not read; others: worst %v",
		accepted.Load(), inLetters, refused.Load(), behind, to.worst)
	require.Less(t, behind, uint64(4<<20/100), "an event counts for some more than a hundred bytes")
}
