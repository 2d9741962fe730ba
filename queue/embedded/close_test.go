package embedded

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// Close sends what was just emitted, as it does in memory, and does not wait for its window. What an endpoint does not
// take is delivered after the next Open, so nobody waits for a retry, and nothing is logged as if it were lost.
func TestCloseSendsWhatWasNotSentAndDoesNotWaitForRetries(t *testing.T) {
	t.Parallel()
	r, down := receiver(t, app("app")), receiver(t, app("app"))
	down.Answer(503)
	var log logged
	dir, cfg := t.TempDir(), fast(app("app", r.URL, down.URL))
	cfg.BatchWindow, cfg.RetryWaitMin, cfg.RetryWaitMax = 10*time.Second, time.Hour, time.Hour
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	cfg.Hooks.Undelivered = func(_ *webhook.Delivery, err error) { t.Error("it is not given up:", err) }
	l := open(t, dir, cfg)
	for i := range 1000 {
		require.NoError(t, l.Emit("app", webhook.SubscriptionCount("c", i)))
	}
	began := time.Now()
	closeNow(t, l)
	require.Less(t, time.Since(began), 4*time.Second)
	require.Empty(t, log.String())
	require.Equal(t, 1000, len(r.Events()))
	require.NotEmpty(t, down.Requests(), "it has been tried")
	require.Zero(t, len(down.Events()))

	down.Answer(200)
	l = open(t, dir, cfg)
	closeNow(t, l)
	require.Equal(t, 1000, len(r.Events()))
	require.Equal(t, 1000, len(down.Events()))
}

// An answer that is on its way is waited for.
func TestCloseWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	cfg := fast(app("app", "http://127.0.0.1:1"))
	sent := make(chan struct{})
	cfg.Sender = webhook.SenderFunc(func(ctx context.Context, _ *webhook.Delivery) error {
		close(sent)
		sleep(ctx, 300*time.Millisecond)
		return ctx.Err()
	})
	l := open(t, t.TempDir(), cfg)
	require.NoError(t, l.Emit("app", webhook.ChannelOccupied("c")))
	<-sent
	closeNow(t, l)
	require.EqualValues(t, 1, l.Stats().Worker.Delivered)
	require.Zero(t, l.Stats().Worker.Dropped)
}
