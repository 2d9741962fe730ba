package queue

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pusherhooks/webhook"
)

// refusals paces what is logged about events that Emit refuses: a line a second.
type refusals struct {
	next    atomic.Int64 // when there may be one, since Emitter.began
	leftOut atomic.Uint64
	writing atomic.Bool
}

// refuse accounts for an event that is refused and returns the error to return.
func (e *Emitter) refuse(app string, ev *webhook.Event, err error) error {
	e.refused.Add(1)
	e.logRefused(app, err)
	if e.cfg.Rejected != nil {
		e.tell(app, ev, err)
	}
	return err
}

// tell calls the hook. If that panics it is logged and changes nothing.
func (e *Emitter) tell(app string, ev *webhook.Event, err error) {
	defer func() {
		if v := recover(); v != nil {
			e.cfg.Logger.Error("webhook queue: panic in Rejected", "panic", bounded(fmt.Sprint(v)), "stack", string(debug.Stack()))
		}
	}()
	e.cfg.Rejected(app, *ev, err)
}

// logRefused has another goroutine write the line, as Emit does no I/O.
func (e *Emitter) logRefused(app string, err error) {
	if !e.cfg.Logger.Enabled(context.Background(), slog.LevelError) {
		return
	}
	limit, now := &e.refusals, int64(time.Since(e.began))
	next := limit.next.Load()
	if now < next || !limit.writing.CompareAndSwap(false, true) {
		limit.leftOut.Add(1)
		return
	}
	limit.next.Store(now + int64(time.Second))
	app, text, leftOut := bounded(strings.Clone(app)), bounded(err.Error()), limit.leftOut.Swap(0)
	go func() {
		defer limit.writing.Store(false)
		e.cfg.Logger.Error("webhook queue: event refused", "app", app, "error", text, "left_out", leftOut)
	}()
}
