package webhook_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A diary is a Logger's lines, one for each record.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, string(p))
	return len(p), nil
}

func (d *diary) logger() *slog.Logger { return slog.New(slog.NewTextHandler(d, nil)) }

// with returns the lines that hold a text.
func (d *diary) with(text string) (found []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range d.lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// A server without a Rejected hook sees that events are refused, and is not drowned in lines.
func TestRejectionsAreLoggedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log diary
		cfg, _ := oneEndpoint(webhook.Config{Logger: log.logger()}, nil)
		d := newDispatcher(t, cfg)
		for range 1000 {
			require.ErrorIs(t, d.Emit("app", webhook.ChannelOccupied("")), webhook.ErrInvalidEvent)
		}
		synctest.Wait()
		require.Len(t, log.with("webhook event rejected"), 1)
		require.Contains(t, log.with("")[0], `level=ERROR msg="webhook event rejected" app=app error="webhook: invalid event: channel: must not be empty" left_out=0`)
		time.Sleep(time.Second)
		require.Error(t, d.Emit("app", webhook.ChannelOccupied("")))
		synctest.Wait()
		require.Len(t, log.with("left_out=999"), 1)
		require.Error(t, d.Emit(strings.Repeat("a\n", 100_000), webhook.ChannelOccupied("room")))
		synctest.Wait()
		require.Less(t, len(log.with("")[len(log.with(""))-1]), 2000)
	})
}

// The log tells when an endpoint starts to fail and when it has recovered, which of an app's it is, and neither its path
// nor its query.
func TestLogTellsHowAnEndpointDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log diary
		var recovered atomic.Bool
		sent := &recorder{answer: func(_ context.Context, d *webhook.Delivery) error {
			if !recovered.Load() && strings.Contains(d.URL, "one") {
				return errors.New("down\nlevel=ERROR msg=forged " + strings.Repeat("x", 10_000))
			}
			return nil
		}}
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://host/one?token", "http://host/two?token")},
			Sender: sent, Logger: log.logger()})
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(window + time.Millisecond)
		id := d.Endpoints("app")[0].ID
		require.NotEqual(t, id, d.Endpoints("app")[1].ID)
		atTime(10 * time.Second)
		require.Len(t, log.with("level=WARN"), 1)
		require.Contains(t, log.with("")[0], `msg="webhook endpoint is failing" app=app endpoint=`+id+` url=http://host error=`)
		recovered.Store(true)
		atTime(time.Minute)
		require.Len(t, log.with(`level=INFO msg="webhook endpoint has recovered" app=app endpoint=`+id), 1)
		require.Len(t, log.with(""), 2)
		for _, line := range log.with("") {
			require.NotContains(t, line, "token")
			require.NotContains(t, line, "/one")
			require.Less(t, len(line), 1000)
			require.Equal(t, 1, strings.Count(line, "\n"))
		}
	})
}

// A handler that panics loses its lines and nothing else.
type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panickingHandler) Handle(context.Context, slog.Record) error { panic("no disk") }

func TestLoggerThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{RetryFor: -1, Logger: slog.New(panickingHandler{slog.DiscardHandler})},
			func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		require.Error(t, d.Emit("app", webhook.ChannelOccupied("")))
		require.NoError(t, d.Flush(t.Context()))
		require.EqualValues(t, 1, d.Stats().Undelivered)
	})
}
