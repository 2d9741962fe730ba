package webhook

import (
	"context"
	"errors"
	"sync"
)

// errHeld is why Close hands back what is pending although it has time left.
var errHeld = errors.New("the dispatcher is held")

// Hold has no attempt start until resume is called, once or more: for who has lost, or may have lost, the right to send.
// Emit and Redeliver go on queueing, and it costs them nothing. Several Holds may be under way: the last resume counts.
//
// What is on the wire goes on. If ctx ends before resume is called its Sends are cancelled, and one that then returns
// an error is as if it had not been made: it counts neither as an attempt nor as a failure, Hooks.Attempt does not hear of
// it, and the delivery is sent again at its place, under its Webhook-Id. One that succeeds all the same is accepted, and
// one that fails before ctx ends has failed. Hold itself does not wait; a ctx that has ended cancels at once.
//
// Meanwhile nothing grows older: an event's age and the time of the timing rules stand still, so nothing is given up for
// its age and nothing that a rule holds is let go. An endpoint's wait for its next attempt goes on, and so does SendTimeout.
// Flush waits. Close does not wait for resume: it hands back what is pending once nothing is on the wire, and so it does
// if Hold is called while it runs.
func (d *Dispatcher) Hold(ctx context.Context) (resume func()) {
	d.schedule.hold()
	if d.closed.Load() { // Close looks the other way round
		d.schedule.stop()
	}
	stop := context.AfterFunc(ctx, d.recall)
	return sync.OnceFunc(func() {
		stop()
		d.schedule.resume()
		if d.timing != nil {
			d.timing.resume()
		}
	})
}

// hold lets nobody on the wire until resume.
func (s *schedule) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock.stop()
}

// resume ends a hold.
func (s *schedule) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock.start()
	s.changed()
	s.serve(nil)
}

// recall cancels what is on the wire while the dispatcher is held. Each attempt is seen: one that has started since does
// not exist, because take asks whether it is held under the lock that is taken here.
func (d *Dispatcher) recall() {
	for e := range d.pendingEndpoints() {
		if !d.schedule.clock.stopped() {
			return
		}
		e.recall()
	}
}

// recall cancels the attempts that are being made.
func (e *endpoint) recall() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.existing() {
		if l.cancel != nil && l.current != nil {
			l.recalled = true
			l.cancel()
		}
	}
}

// comesBack takes back a batch whose attempt was recalled: it was not made. e.mu is held.
func (l *lane) comesBack(b *batch) (gone []loss) {
	l.current = nil
	b.sends--
	if b.doomed != nil {
		return l.lose(b, b.doomed)
	}
	return nil
}
