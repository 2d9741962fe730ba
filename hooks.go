package webhook

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Hooks tell the server what became of its events. Any may be nil. They are called concurrently: Rejected on
// the goroutine that emits, the others on the library's own, and on the one that calls Close or Purge for what it
// hands back. What follows on the same lane waits for a hook to return (with MaxInFlight 1 that is all the endpoint
// gets), and so does Close, until its time is up. A hook of Endpoint, or of what a concurrent Purge gives up, may run
// on for a moment when Close has returned. A hook must not block for long; it may call the Dispatcher, but not wait in
// Flush or Close. A hook that panics is logged and changes nothing.
type Hooks struct {
	// Delivered is called after an endpoint accepted d. took is the time of the attempt that it accepted; what came
	// before is in d.CreatedAt. d is lent: see Delivery.
	Delivered func(d *Delivery, took time.Duration)

	// Undelivered is called after d was given up, and for everything that Close hands back. d is complete, it may be
	// kept, stored and passed to Redeliver.
	Undelivered func(d *Delivery, err error)

	// GivenUp is called after Undelivered, for what Close does not hand back: for who has to keep d before its events
	// have ended. They have ended when settle is called, once or more, by any goroutine: until then Flush and Close
	// wait, within their time, and so do the events' tickets. A hook that panics has settled. d is not changed any more,
	// and may be kept; where Undelivered is set as well, they share it.
	GivenUp func(d *Delivery, err error, settle func())

	// Attempt is called after every call of the Sender, but for those that Hold or Drop has ended. d is lent: see Delivery.
	Attempt func(d *Delivery, a Attempt)

	// Endpoint is called when an endpoint's State has changed: one call at a time for an endpoint, at most one in
	// RetryWaitMin until Close begins, and always with the latest.
	Endpoint func(s EndpointStatus)

	// Rejected is called by Emit, on its goroutine, with the error that it is about to return. The server may
	// hold locks there, and the queue may be full: count, and leave I/O to another goroutine. An appID that
	// comes with ErrUnknownApp or ErrClosed is whatever the caller gave.
	Rejected func(appID string, e Event, err error)
}

// An Attempt is one call of the Sender and what came of it.
type Attempt struct {
	N       int           // counts the Sends of this delivery, from 1
	Status  int           // of the answer; 0 if there was none, or the Sender is not an HTTPSender and does not tell
	Err     error         // nil if the endpoint accepted the delivery
	Took    time.Duration // until the Sender returned
	RetryIn time.Duration // until this delivery is tried again; 0 if it was accepted, given up or divided
}

func (s *shared) hookDelivered(d *Delivery, took time.Duration) {
	if hook := s.cfg.Hooks.Delivered; hook != nil {
		defer recoverHook(s.cfg.Logger, "Hooks.Delivered")
		hook(d, took)
	}
}

func (s *shared) hookUndelivered(d *Delivery, err error) {
	if hook := s.cfg.Hooks.Undelivered; hook != nil {
		defer recoverHook(s.cfg.Logger, "Hooks.Undelivered")
		hook(d, err)
	}
}

// hookGivenUp reports whether the hook will call settle.
func (s *shared) hookGivenUp(d *Delivery, err error, settle func()) (will bool) {
	hook := s.cfg.Hooks.GivenUp
	if hook == nil {
		return false
	}
	defer recoverHook(s.cfg.Logger, "Hooks.GivenUp")
	hook(d, err, settle)
	return true
}

// observed reports whether anybody looks at attempts.
func (s *shared) observed() bool {
	return s.cfg.Hooks.Attempt != nil || s.cfg.Logger.Enabled(s.ctx, slog.LevelDebug)
}

func (e *endpoint) hookAttempt(d *Delivery, a Attempt) {
	s := e.shared
	if s.cfg.Logger.Enabled(s.ctx, slog.LevelDebug) {
		s.cfg.Logger.Debug("webhook attempt", "delivery", d.LogValue(), "endpoint", e.id(), "attempt", a.N, "status", a.Status,
			"took", a.Took, "error", errorText(a.Err), "retry_in", a.RetryIn)
	}
	if hook := s.cfg.Hooks.Attempt; hook != nil {
		defer recoverHook(s.cfg.Logger, "Hooks.Attempt")
		hook(d, a)
	}
}

func (s *shared) hookEndpoint(status EndpointStatus) {
	if hook := s.cfg.Hooks.Endpoint; hook != nil {
		defer recoverHook(s.cfg.Logger, "Hooks.Endpoint")
		hook(status)
	}
}

// reject counts an event that Emit refuses and tells the hook. a is nil for an unknown app.
func (d *Dispatcher) reject(a *account, appID string, e *Event, err error) {
	count := &d.counters[0]
	if a != nil {
		count = a.count
	}
	count.rejected.Add(1)
	d.logRejected(count, appID, err)
	if hook := d.cfg.Hooks.Rejected; hook != nil {
		defer recoverHook(d.cfg.Logger, "Hooks.Rejected")
		hook(appID, *e, err)
	}
}

// settle accounts for losses, which then are complete and the caller's. Close waits for it, so no user code runs here,
// and no lock is held.
func (e *endpoint) settle(gone []loss) {
	if len(gone) == 0 {
		return
	}
	var s signer
	for i := range gone {
		l := &gone[i]
		if l.err == errDropped {
			e.forget(l.batch)
			continue
		}
		if e.stale(l.batch) {
			e.prepare(l.batch, &s)
		}
		e.shared.undelivered.Add(uint64(l.batch.events))
		l.kept = e.shared.closing.keep(l.batch.delivery, l.err)
		e.shared.settling.done()
	}
}

// report tells of losses that are settled. It goes on with the next where a hook ends the goroutine.
func (e *endpoint) report(gone []loss) {
	i := 0
	defer func() {
		if i < len(gone) {
			e.report(gone[i+1:])
		}
	}()
	for ; i < len(gone); i++ {
		e.reportOne(gone[i])
	}
}

func (e *endpoint) reportOne(l loss) {
	if l.err == errDropped {
		return
	}
	settle, will := sync.OnceFunc(func() { e.endLoss(l) }), false
	defer func() { // also if the hook ends the goroutine
		if !will {
			settle()
		}
	}()
	e.logUndelivered(l)
	e.shared.hookUndelivered(l.batch.delivery, l.err)
	if !l.kept {
		will = e.shared.hookGivenUp(l.batch.delivery, l.err, settle)
	}
}

// endLoss is for a loss that everybody knows of, and that is kept by who wanted to. No lock is held.
func (e *endpoint) endLoss(l loss) {
	e.mu.Lock()
	f := e.told(l.batch)
	e.mu.Unlock()
	if !l.kept { // else whoever has the event emits it again
		e.endTickets(l.batch.tickets())
	}
	f.ended()
	if e.shared.cfg.Hooks.GivenUp != nil {
		e.shared.settled()
	}
	e.shared.retire(e)
}

// A report is what was told about an endpoint.
type report struct {
	state   EndpointState // the last that was told
	at      time.Time     // when
	telling bool          // somebody does, or later will
	later   *time.Timer
	logged  time.Time // the last line about a loss
	leftOut int       // lines since
}

// pending reports whether there is something left to tell.
func (r *report) pending() bool { return r.telling || r.state != EndpointOK || r.leftOut > 0 }

// tell tells the log and the hook of the endpoint's state if it is not the one that was told last. No lock is held.
func (e *endpoint) tell() {
	for e.tellOnce() {
	}
}

func (e *endpoint) tellOnce() (again bool) {
	e.mu.Lock()
	t := e.trouble
	if t == nil || t.report.telling || t.report.state == e.state() {
		e.mu.Unlock()
		return false
	}
	t.report.telling = true
	if wait := e.shared.cfg.RetryWaitMin - time.Since(t.report.at); !t.report.at.IsZero() && wait > 0 && !e.closed {
		t.report.later = time.AfterFunc(wait, func() { e.stateTold(t.report.state); e.tell() })
		e.mu.Unlock()
		return false
	}
	status := e.status()
	t.report.at = time.Now()
	e.mu.Unlock()
	defer e.stateTold(status.State)
	e.logState(status)
	e.shared.hookEndpoint(status)
	return true
}

// tellNow has the state told at once, if a timer would do it later. e.mu is held.
func (e *endpoint) tellNow() {
	if t := e.trouble; t != nil && t.report.later != nil && t.report.later.Stop() {
		t.report.later.Reset(0)
	}
}

// stateTold notes that a state was told, or that the time for it has come.
func (e *endpoint) stateTold(state EndpointState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.trouble != nil {
		e.trouble.report.state, e.trouble.report.telling = state, false
	}
}

// recoverHook is deferred around a hook.
func recoverHook(logger *slog.Logger, name string) {
	if v := recover(); v != nil {
		_ = panicked(logger, name, v)
	}
}

// A panicError is a panic of the user's code. It is about the body that was sent, as far as anyone can know.
type panicError struct {
	where string
	value any
}

func (e *panicError) Error() string        { return fmt.Sprintf("webhook: panic in %s: %v", e.where, e.value) }
func (e *panicError) Is(target error) bool { return target == ErrRefused }

// panicked logs a panic of the user's code and returns it as an error.
func panicked(logger *slog.Logger, where string, v any) error {
	err := &panicError{where, v}
	logger.Error("webhook: panic in "+where, "panic", errorText(err), "stack", string(debug.Stack()))
	return err
}
