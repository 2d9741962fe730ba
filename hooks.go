package webhook

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Hooks tell the server what became of its events. Any may be nil. They are called concurrently: Rejected on
// the goroutine that emits, the others on the library's own, and on the one that calls Close for what it hands
// back. The endpoint's next delivery and Close wait for a hook to return, so a hook must not block for long; it
// may call the Dispatcher, but not wait in Flush or Close. A hook that panics is logged and changes nothing.
type Hooks struct {
	// Delivered is called after an endpoint accepted d, took after the Sender was called: retries included. d may
	// be kept; for that reason batch buffers are filled again only without this hook and HTTPConfig.OnAttempt.
	Delivered func(d *Delivery, took time.Duration)

	// Undelivered is called after the Sender gave d up, and for everything that Close hands back. d is
	// complete and may be kept, stored and passed to Redeliver.
	Undelivered func(d *Delivery, err error)

	// Rejected is called by Emit, on its goroutine, with the error that it is about to return. The server may
	// hold locks there, and the queue may be full: count, and leave I/O to another goroutine. An appID that
	// comes with ErrUnknownApp or ErrClosed is whatever the caller gave.
	Rejected func(appID string, e Event, err error)
}

// Stats counts what happened since New. One event for two endpoints counts twice, except in Emitted and
// Rejected. When nothing is being emitted or delivered, Queued is exactly Delivered + Undelivered + Pending.
type Stats struct {
	Emitted  uint64 // calls of Emit that returned nil, wanted or not
	Rejected uint64 // calls of Emit that returned an error

	Held       uint64 // accepted events that a timing rule holds back, not queued yet
	Suppressed uint64 // accepted events that a timing rule has left out

	Queued      uint64 // events taken for an endpoint, by Emit or Redeliver
	Delivered   uint64 // events accepted by their endpoint
	Undelivered uint64 // events given up: reported to Hooks.Undelivered, and by Close what it handed back

	Requests        uint64 // deliveries accepted by endpoints
	Pending         uint64 // events that wait or are in flight
	PendingBytes    int64  // memory they and the timing rules hold, at most MaxQueuedBytes
	ActiveEndpoints int    // endpoints with pending events
}

// counters are those that Emit changes. Apps are spread over several of them, a cache line apart, so that
// cores that emit for different apps do not wait for each other's line.
type counters struct {
	emitted, rejected, queued, suppressed atomic.Uint64
	held                                  atomic.Int64

	// emittedQueued is to be added to emitted and to queued. One locked instruction less for the event that one
	// endpoint wants, out of the four that it takes.
	emittedQueued atomic.Uint64

	_ [80]byte
}

// Stats returns the counts of this moment. Each is exact; while events flow, they are not of the same instant.
func (d *Dispatcher) Stats() Stats {
	s := Stats{
		// Before Queued, which only grows: so Pending is never negative.
		Delivered:       d.delivered.Load(),
		Undelivered:     d.undelivered.Load(),
		Requests:        d.requests.Load(),
		PendingBytes:    d.bytes.Load(),
		ActiveEndpoints: int(d.active.Load()),
	}
	held := int64(0)
	for i := range d.counters {
		c := &d.counters[i]
		both := c.emittedQueued.Load()
		s.Emitted += c.emitted.Load() + both
		s.Rejected += c.rejected.Load()
		s.Queued += c.queued.Load() + both
		s.Suppressed += c.suppressed.Load()
		held += c.held.Load()
	}
	s.Held = uint64(max(0, held)) // a held event of a moment ago may be counted out before it is counted in
	s.Pending = s.Queued - s.Delivered - s.Undelivered
	return s
}

// rejected counts an event that Emit refuses and tells the hook. routes is nil for an unknown app.
func (d *Dispatcher) rejected(routes *appRoutes, appID string, e Event, err error) {
	count := &d.counters[0]
	if routes != nil {
		count = routes.count
	}
	count.rejected.Add(1)
	if hook := d.cfg.Hooks.Rejected; hook != nil {
		defer recoverHook(d.cfg.Logger, "Hooks.Rejected")
		hook(appID, e, err)
	}
}

func (h *Hooks) delivered(d *Dispatcher, delivery *Delivery, took time.Duration) {
	if h.Delivered != nil {
		defer recoverHook(d.cfg.Logger, "Hooks.Delivered")
		h.Delivered(delivery, took)
	}
}

func (h *Hooks) undelivered(d *Dispatcher, delivery *Delivery, err error) {
	d.cfg.Logger.Error("webhook undelivered", "delivery", delivery, "error", err)
	if h.Undelivered != nil {
		defer recoverHook(d.cfg.Logger, "Hooks.Undelivered")
		h.Undelivered(delivery, err)
	}
}

// recoverHook is deferred around a hook.
func recoverHook(logger *slog.Logger, name string) {
	if v := recover(); v != nil {
		_ = panicked(logger, name, v)
	}
}

// panicked logs a panic of the user's code and returns it as an error.
func panicked(logger *slog.Logger, where string, v any) error {
	logger.Error("webhook: panic in "+where, "panic", v, "stack", string(debug.Stack()))
	return fmt.Errorf("webhook: panic in %s: %v", where, v)
}
