package h2test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/pusherhooks/webhook"
)

// streams is the setting for how many requests a connection takes at a time.
func streams(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

// obedient answers every request.
func obedient(settings ...http2.Setting) func(c *conn) {
	return func(c *conn) {
		_ = c.WriteSettings(settings...)
		for stream := c.request(); stream != 0; stream = c.request() {
			c.answer(stream, "200")
		}
	}
}

// deliversAll emits events of twenty tenants, and each arrives at the first attempt.
func deliversAll(t *testing.T, s *server) {
	t.Helper()
	const rounds = 10
	d := newDispatcher(t, webhook.Config{Apps: apps(tenants, s.url)})
	for range rounds {
		for _, app := range apps(tenants, s.url) {
			require.NoError(t, d.Emit(app.ID, small))
		}
	}
	require.NoError(t, d.Flush(t.Context()))
	require.EqualValues(t, tenants*rounds, d.Stats().Delivered)
	require.EqualValues(t, tenants*rounds, d.Stats().Requests)
}

func TestOneStreamAtATime(t *testing.T) {
	deliversAll(t, newServer(t, obedient(streams(1))))
}

func TestGoAwayAfterEveryAnswer(t *testing.T) {
	s := newServer(t, func(c *conn) {
		_ = c.WriteSettings()
		stream := c.request()
		c.answer(stream, "200")
		_ = c.WriteGoAway(stream, http2.ErrCodeNo, nil)
		c.request() // none comes
	})
	const rounds = 10
	d := newDispatcher(t, webhook.Config{Apps: apps(1, s.url), RetryWaitMin: 10 * time.Millisecond})
	for range rounds {
		require.NoError(t, d.Emit("app0", small))
	}
	require.NoError(t, d.Flush(t.Context()))
	require.EqualValues(t, rounds, d.Stats().Delivered)
}

// An endpoint that takes no stream is one that fails. Others go on.
func TestNoStreams(t *testing.T) {
	s := newServer(t, func(c *conn) {
		_ = c.WriteSettings(streams(0))
		for c.request() != 0 {
			continue
		}
	})
	good := newServer(t, obedient())
	d := newDispatcher(t, webhook.Config{Apps: append(apps(tenants, s.url), testApp("good", good.url)), RetryFor: timeout})
	for _, app := range apps(tenants, s.url) {
		require.NoError(t, d.Emit(app.ID, small))
	}
	for range 100 {
		require.NoError(t, d.Emit("good", small))
	}
	settles(t, "the good endpoint's arrive", func() bool { return d.Stats().Delivered == 100 })
	settles(t, "the others' are given up", func() bool { return d.Stats().Undelivered == tenants })
	require.Zero(t, d.Stats().Pending)
}
