package webhook

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// What goes to Config.Logger. An endpoint or a tenant can cause any number of failures, so lines are bounded in length,
// and in number by endpoint or by app.

// A guardedHandler is the user's slog.Handler. A panic of it loses a line and nothing else: the library logs on
// goroutines of its own, where a panic would end the process.
type guardedHandler struct{ slog.Handler }

func (h guardedHandler) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h guardedHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("webhook: panic in the Logger's handler")
		}
	}()
	return h.Handler.Handle(ctx, r)
}

// A lineLimit allows one line a second, and none while one is being written.
type lineLimit struct {
	next    atomic.Int64 // when, since the schedule began
	leftOut atomic.Uint64
	writing atomic.Bool
}

// logRejected writes a line about an event that Emit refuses: one a second for all apps that share a counter. It is
// called by Emit, which does no I/O, so another goroutine writes.
func (d *Dispatcher) logRejected(count *counters, appID string, err error) {
	if !d.cfg.Logger.Enabled(d.ctx, slog.LevelError) {
		return
	}
	limit, now := &count.rejections, int64(time.Since(d.schedule.began))
	next := limit.next.Load()
	if now < next || !limit.writing.CompareAndSwap(false, true) {
		limit.leftOut.Add(1)
		return
	}
	limit.next.Store(now + int64(time.Second))
	app, text, leftOut := bounded(strings.Clone(appID)), errorText(err), limit.leftOut.Swap(0)
	go func() {
		defer limit.writing.Store(false)
		d.cfg.Logger.Error("webhook event rejected", "app", app, "error", text, "left_out", leftOut)
	}()
}

// logUndelivered writes one line a second about an endpoint's losses.
func (e *endpoint) logUndelivered(l loss) {
	if leftOut, ok := e.mayLog(); ok {
		e.shared.cfg.Logger.Error("webhook undelivered", "delivery", l.batch.delivery.LogValue(), "endpoint", e.id(),
			"error", errorText(l.err), "left_out", leftOut)
	}
}

// mayLog allows one line a second, and says how many were left out before it.
func (e *endpoint) mayLog() (leftOut int, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &e.troubled().report
	if now := time.Now(); now.Sub(r.logged) >= time.Second {
		leftOut, r.leftOut, r.logged = r.leftOut, 0, now
		return leftOut, true
	}
	r.leftOut++
	return 0, false
}

func (e *endpoint) logState(s EndpointStatus) {
	if s.State == EndpointOK {
		e.shared.cfg.Logger.Info("webhook endpoint has recovered", "app", s.AppID, "endpoint", s.ID, "url", s.URL)
		return
	}
	e.shared.cfg.Logger.Warn("webhook endpoint is "+s.State.String(), "app", s.AppID, "endpoint", s.ID, "url", s.URL,
		"error", s.LastError, "pending", s.Pending, "next_attempt", s.NextAttempt)
}

// maxErrorText bounds what an error adds to a log line or a status.
const maxErrorText = 300

// errorText is an error's text, bounded, and without line breaks or other control characters: some of it may come
// from an endpoint.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return bounded(err.Error())
}

// bounded is a text from outside as it may be logged.
func bounded(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	quoted := strconv.Quote(text)
	if len(quoted) == len(text)+2 {
		return text
	}
	return quoted
}
