package webhook_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
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

// Whatever is lost of an endpoint is a line a second, which says how many there would have been.
func TestLossesAreOneLineASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log diary
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, BatchWindow: time.Hour, RetryFor: -1, Logger: log.logger()},
			func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, cfg)
		for i := range 100 {
			emit(t, d, "app", webhook.ChannelOccupied(strings.Repeat("x", i+1)))
		}
		d.Purge("app")
		synctest.Wait()
		require.Len(t, log.with("webhook undelivered"), 1)
		time.Sleep(2 * time.Minute)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		atTime(2 * time.Minute)
		require.EqualValues(t, 101, d.Stats().Undelivered)
		require.Len(t, log.with("webhook undelivered"), 2)
		require.Len(t, log.with("left_out=99"), 1)
	})
}

// A certificate is the endpoint's: what it says does not fill the log and begins no line of its own.
func TestCertificateOfManyNames(t *testing.T) {
	names := []string{"forged\nlevel=ERROR"}
	for len(names) < 99 {
		names = append(names, strings.Repeat("x", 240))
	}
	pool := x509.NewCertPool()
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, names[0], time.Now().Add(time.Hour), pool, names[1:]...)}}
	server.StartTLS()
	defer server.Close()

	var lines diary
	url := strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", url)}, RetryWaitMin: time.Hour, RetryWaitMax: time.Hour,
		Logger: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Sender: newSender(t, func(c *webhook.HTTPConfig) { c.TLS = &tls.Config{RootCAs: pool} })})
	emit(t, d, "app", webhook.ChannelOccupied("room"))
	require.True(t, settles(func() bool { return len(lines.with("is failing")) == 1 }))
	status := d.Endpoints("app")[0]
	require.Contains(t, status.LastError, "valid for forged")
	require.Less(t, len(status.LastError), 1000)
	require.NotContains(t, status.LastError, "\n")
	d.Purge("app")
	for _, line := range lines.with("") {
		require.Less(t, len(line), 1000)
	}
}

// A handler that blocks holds one goroutine, however long it does and however much is rejected meanwhile.
type blockedHandler struct {
	slog.Handler
	open chan struct{}
	now  *atomic.Int64
}

func (blockedHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h blockedHandler) Handle(context.Context, slog.Record) error {
	h.now.Add(1)
	<-h.open
	return nil
}

func TestLoggerThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := blockedHandler{slog.DiscardHandler, make(chan struct{}), new(atomic.Int64)}
		cfg, _ := oneEndpoint(webhook.Config{Logger: slog.New(h)}, nil)
		d := newDispatcher(t, cfg)
		for range 60 {
			require.Error(t, d.Emit("app", webhook.ChannelOccupied("")))
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 1, h.now.Load())
		close(h.open)
	})
}
