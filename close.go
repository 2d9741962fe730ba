package webhook

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An UndeliveredError holds deliveries that were not accepted by their endpoints, in order for each endpoint,
// complete and signed: store them and pass them to Redeliver. They are the caller's.
type UndeliveredError struct {
	Deliveries []*Delivery
	Err        error // why; from Close it is ctx's error if that ended first, or says that it is held, otherwise the first delivery's
}

// Error counts what is left and names the cause.
func (e *UndeliveredError) Error() string {
	events := 0
	for _, d := range e.Deliveries {
		if d != nil {
			events += d.Events
		}
	}
	return fmt.Sprintf("webhook: undelivered (deliveries: %d, events: %d): %v", len(e.Deliveries), events, e.Err)
}

// Unwrap returns Err.
func (e *UndeliveredError) Unwrap() error { return e.Err }

// closing is what Close waits for, and what it hands back.
type closing struct {
	begun  atomic.Bool // what is given up from now on is handed back too
	sealed atomic.Bool // no endpoint can come into being any more
	shut   atomic.Bool // none takes an event any more
	once   sync.Once
	idle   chan struct{} // closed when nothing is pending any more, after shut

	mu      sync.Mutex
	left    []*Delivery // undelivered since Close began
	failure error       // of the first of them
}

// ended is called when an endpoint has nothing pending any more.
func (s *shared) ended() {
	if s.active.Add(-1) == 0 {
		s.rests()
	}
}

// settled is called when Hooks.GivenUp has settled a loss.
func (s *shared) settled() {
	if s.unsettled.Add(-1) == 0 {
		s.rests()
	}
}

// rests ends Close's wait if there is nothing to wait for any more. A loss counts as unsettled before its endpoint can
// have nothing pending.
func (s *shared) rests() {
	if s.closing.shut.Load() && s.active.Load() == 0 && s.unsettled.Load() == 0 {
		s.closing.once.Do(func() { close(s.closing.idle) })
	}
}

// keep has Close return a delivery that is given up, if Close was called before.
func (c *closing) keep(d *Delivery, err error) (kept bool) {
	if !c.begun.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = append(c.left, d)
	if c.failure == nil {
		c.failure = err
	}
	return true
}

// A count is a sync.WaitGroup that may be waited for while it is added to.
type count struct {
	mu   sync.Mutex
	n    int
	zero *sync.Cond
}

func (c *count) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

func (c *count) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 && c.zero != nil {
		c.zero.Broadcast()
	}
}

func (c *count) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.zero == nil {
		c.zero = sync.NewCond(&c.mu)
	}
	for c.n > 0 {
		c.zero.Wait()
	}
}

// Close refuses new events and sends everything at once: what is held, what waits for its window, what waits for its
// next attempt. It returns when all of it has ended. Requests on the wire are allowed to finish.
//
// An endpoint that was failing when Close began gets one last attempt, of a second at most. Others that fail later
// are retried as usual for as long as ctx allows: give ctx a deadline. When it ends, or a little earlier where much
// is pending, Close cancels the requests on the wire and returns.
//
// While the dispatcher is held nothing is sent, see Hold: then Close waits for the wire, and hands back what is left without
// waiting for ctx to end.
//
// What was given up since Close was called, and what is left at the end, comes back in a *UndeliveredError, signed and
// complete, in order for each endpoint. Hooks.Undelivered is called for each of them too, for those that are left at the end before
// Close returns. Close keeps its time whatever the Sender does; one that goes on sending regardless may still deliver
// what was handed back.
//
// A second call, or a concurrent one, waits for the first and returns the same result, unless its own ctx
// ends before.
func (d *Dispatcher) Close(ctx context.Context) error {
	if d.shut() {
		defer close(d.done) // also if a hook ends the goroutine
		d.closeErr = d.drain(ctx)
		return d.closeErr
	}
	select {
	case <-d.done:
		return d.closeErr
	case <-ctx.Done():
	}
	select {
	case <-d.done: // both were ready: the result says more
		return d.closeErr
	default:
		return ctx.Err()
	}
}

// shut refuses events from now on and has everything that is held or queued sent. Only the first call does,
// and returns true.
func (d *Dispatcher) shut() (first bool) {
	d.mu.Lock()
	first = !d.closed.Swap(true)
	d.mu.Unlock()
	if !first {
		return false
	}
	d.closing.begun.Store(true)
	if d.timing != nil {
		d.timing.close()
	}
	d.mu.Lock()
	d.closing.sealed.Store(true)
	d.mu.Unlock()
	for e := range d.endpointsOf("") { // there will be no others
		e.close()
	}
	d.closing.shut.Store(true)
	d.rests()
	return true
}

// close refuses events from now on and sends what is pending without waiting for anything. If the endpoint is failing
// it gets one attempt more, which may be the one that is on the wire.
func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.rest()
	e.tellNow()
	if t := e.trouble; t != nil {
		t.until = time.Time{}
		t.lastTry = t.failures > 0
	}
	now := time.Now()
	for l := range e.existing() {
		l.close()
		for _, b := range l.queue {
			if b.aside != nil {
				b.aside.due = now
			}
		}
		if l.state == filling {
			l.rest()
		}
		if l.state == sending && e.failing() {
			time.AfterFunc(lastAttempt, l.cancel)
		}
	}
	e.dispatch(nil)
}

// closeGrace is how long Close waits for Sends to return after it has cancelled them. An HTTPSender needs less
// than a millisecond; a Sender that ignores its context is given up.
const closeGrace = 100 * time.Millisecond

// drain waits until nothing is pending or ctx ends, and returns what Close returns.
func (d *Dispatcher) drain(ctx context.Context) error {
	var left []remainder
	cut := d.await(ctx)
	d.schedule.stop()
	if cut != nil {
		d.cancel()
		grace := time.NewTimer(closeGrace)
		select {
		case <-d.schedule.empty:
		case <-grace.C:
		}
		grace.Stop()
		left = d.handBack(cut)
	}
	if cut == errHeld { // there is time left for hooks, and for what Hooks.GivenUp has to settle
		select {
		case <-d.closing.idle:
		case <-ctx.Done():
			cut = ctx.Err()
		}
	}
	d.settling.wait()
	d.cancel()
	if d.ownSender != nil {
		d.ownSender.CloseIdleConnections()
	}
	c := &d.closing
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.left) == 0 {
		if n := d.unsettled.Load(); cut != nil && n > 0 {
			return fmt.Errorf("webhook: closed before Hooks.GivenUp had settled %d deliveries: %w", n, cut)
		}
		return nil
	}
	if cut == nil {
		return &UndeliveredError{Deliveries: slices.Clip(c.left), Err: c.failure}
	}
	return &UndeliveredError{Deliveries: slices.Clip(c.left), Err: withLastErrors(cut, left, c.failure)}
}

// await waits until nothing is pending any more, or returns why it has ended.
func (d *Dispatcher) await(ctx context.Context) error {
	if d.schedule.clock.stopped() { // Hold looks the other way round
		d.schedule.stop()
	}
	deadline, bounded := ctx.Deadline()
	early := time.NewTimer(time.Hour)
	defer early.Stop()
	for {
		if bounded {
			early.Reset(time.Until(deadline) - d.handBackTime())
		}
		select {
		case <-d.closing.idle:
			return nil
		case <-d.schedule.empty: // held
			select {
			case <-d.closing.idle:
				return nil
			default:
				return errHeld
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-early.C:
			if bounded && time.Until(deadline) <= d.handBackTime() {
				return context.DeadlineExceeded
			}
		}
	}
}

// handBackCost is what it takes to sign a delivery and make it complete, and some.
const handBackCost = 5 * time.Microsecond

// handBackTime is how long it takes to hand back what is pending, or 0 if that is not worth to be early. What follows
// looks at all apps twice more, of which there may be a million.
func (d *Dispatcher) handBackTime() time.Duration {
	batches, start := 0, time.Now()
	for e := range d.pendingEndpoints() {
		batches += e.batches()
	}
	if takes := time.Duration(batches)*handBackCost + 4*time.Since(start); takes > 10*time.Millisecond {
		return takes
	}
	return 0
}

// batches counts what is queued.
func (e *endpoint) batches() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lanes {
		if l != nil {
			n += len(l.queue)
		}
	}
	return n
}

// A remainder is a batch that Close hands back.
type remainder struct {
	endpoint *endpoint
	batch    *batch
}

// handBack ends every batch that is still pending, signed, as undelivered. The hooks are told at the end.
func (d *Dispatcher) handBack(cause error) (left []remainder) {
	left = d.abandon()
	defer func() { // when the hooks know, also if one ends the goroutine: Flush promises that
		for _, r := range left {
			r.batch.flush.ended()
		}
	}()
	deliveries := make([]*Delivery, len(left))
	var signing sync.WaitGroup
	for part, parts := 0, runtime.GOMAXPROCS(0); part < parts; part++ {
		signing.Go(func() {
			var s signer
			for i := len(left) * part / parts; i < len(left)*(part+1)/parts; i++ {
				e, b := left[i].endpoint, left[i].batch
				if !b.abandoned && e.stale(b) { // one that is on the wire is not touched
					e.prepare(b, &s)
				}
				deliveries[i] = b.delivery
				if b.abandoned {
					deliveries[i] = b.delivery.Clone()
				}
			}
		})
	}
	signing.Wait()
	events := 0
	for _, delivery := range deliveries {
		events += delivery.Events
	}
	d.undelivered.Add(uint64(events))
	c := &d.closing
	c.mu.Lock()
	c.left = append(c.left, deliveries...)
	c.mu.Unlock()
	if len(deliveries) == 0 {
		return nil
	}
	err := fmt.Errorf("webhook: closed before it was delivered: %w", cause)
	d.cfg.Logger.Error("webhook: closed before everything was delivered", "deliveries", len(deliveries), "events", events, "error", cause)
	if d.cfg.Hooks.Undelivered != nil {
		for _, delivery := range deliveries {
			d.hookUndelivered(delivery, err)
		}
	}
	return left
}

// abandon takes every pending batch away from the lanes, in order for each endpoint, in flight included. A Send that
// still runs finds its batch taken and counts for nothing.
func (d *Dispatcher) abandon() (left []remainder) {
	for e := range d.pendingEndpoints() {
		e.batches() // takes the lock: whoever had taken a batch before the context ended has said so by now
	}
	d.settling.wait()
	for e := range d.pendingEndpoints() {
		for _, b := range e.abandon() {
			if b.doomed == errDropped {
				d.dropped.Add(uint64(b.events))
				b.flush.ended()
				continue
			}
			left = append(left, remainder{e, b})
		}
	}
	return left
}

func (e *endpoint) abandon() (left []*batch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	lanes := slices.Collect(e.existing())
	if len(lanes) > 1 && int(lanes[len(lanes)-1].index) == e.shared.asideLane() { // the oldest
		lanes = append(lanes[len(lanes)-1:], lanes[:len(lanes)-1]...)
	}
	for _, l := range lanes {
		l.close()
		if b := l.current; b != nil {
			b.abandoned = true
		}
		for _, b := range l.queue {
			left = append(left, e.pieces(b)...)
		}
		l.queue = nil
		l.free()
		if l.state == ready || l.state == inLine { // nobody gets a place any more
			l.state = filling
		}
		e.drop(l)
	}
	for _, b := range left {
		e.release(b.memory)
		e.pending -= b.events
	}
	return left
}

// rest stops the timer that would keep a closed dispatcher in memory. e.mu is held.
func (e *endpoint) rest() {
	if e.trouble != nil && e.trouble.timer != nil {
		e.trouble.timer.Stop()
	}
}

// withLastErrors adds to the cause why some endpoints did not accept what is left, or why something was given up.
func withLastErrors(cause error, left []remainder, failure error) error {
	const most = 5
	var texts []string
	var last *endpoint
	for _, r := range left {
		if e := r.endpoint; e != last && len(texts) < most {
			e.mu.Lock()
			if e.trouble != nil && e.trouble.lastError != "" {
				texts = append(texts, hostOf(e.key.url)+": "+e.trouble.lastError)
			}
			e.mu.Unlock()
			last = e
		}
	}
	if failure != nil && len(texts) < most {
		texts = append(texts, errorText(failure))
	}
	if len(texts) == 0 {
		return cause
	}
	return fmt.Errorf("%w; last errors: %s", cause, strings.Join(texts, "; "))
}
