package embedded

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A store that is deleted under the process is noticed: nothing counts as stored any more, what was read is delivered
// from memory, and the next Open has a new store.
func TestAStoreThatIsDeleted(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(dir string) error{
		"the directory": os.RemoveAll,
		"a stream":      func(dir string) error { return os.RemoveAll(filepath.Join(dir, "store/jetstream/$G/streams/WH_EV")) },
		"replaced by a copy": func(dir string) error {
			if err := os.Rename(filepath.Join(dir, "store"), filepath.Join(dir, "away")); err != nil {
				return err
			}
			return os.CopyFS(filepath.Join(dir, "store"), os.DirFS(filepath.Join(dir, "away")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receiver(t, app("app"))
			r.Answer(503)
			var log logged
			dir, cfg := t.TempDir(), fast(app("app", r.URL))
			cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			l := open(t, dir, cfg)
			for i := range 10 {
				require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", i)))
			}
			require.True(t, settles(func() bool { return l.Stats().Worker.Read == 10 }))
			require.NoError(t, remove(dir))
			require.True(t, settles(func() bool { return l.Stats().Err != nil }))
			require.ErrorIs(t, l.Stats().Err, ErrDeleted)
			require.Contains(t, log.String(), "nothing is stored any more")

			require.NoError(t, l.Emit("app", webhook.SubscriptionCount("c", 10)), "into memory")
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, l.EmitDurable(ctx, "app", webhook.SubscriptionCount("c", 11)), context.DeadlineExceeded)
			r.Answer(200)
			_, err := r.Wait(10, 10*time.Second)
			require.NoError(t, err)

			err = l.Close(t.Context()) // which has no end
			require.ErrorIs(t, err, ErrDeleted)
			require.ErrorContains(t, err, "closed before 2 events were stored")
			l = open(t, dir, cfg)
			require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 12)))
			drained(t, l)
			events := r.Events()
			require.Equal(t, 12, events[len(events)-1].SubscriptionCount)
		})
	}
}
