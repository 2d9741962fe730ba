package webhook

import (
	"errors"
	"sync/atomic"
)

// A Ticket follows one event from EmitTicket to its end: for who keeps events elsewhere until the dispatcher has done
// with them, such as a log on disk. It is made for one call of EmitTicket, and must not be copied or used again.
type Ticket struct {
	Follower Follower // must not be nil
	Position uint64   // whatever the Follower knows the event by
	Untimed  bool     // no timing rule holds the event or leaves it out: it has passed them before

	left atomic.Int32 // endpoints where the event has not ended, and one for whoever may still add some
}

// A Follower learns what becomes of events with tickets. Its methods are called concurrently, also for one ticket,
// some where a lock keeps a channel in order: they must return at once and must not call the Dispatcher. endpoint is
// EndpointStatus.ID.
//
// An event that nobody wants, or that a timing rule leaves out, is Done without more. What is still on its way when Close
// ends, what Close hands back and what a timing rule holds then, never ends: whoever keeps the event may emit it again.
type Follower interface {
	// Queue is called before the event is queued for an endpoint that wants it. If it returns false the event does
	// not go there.
	Queue(t *Ticket, endpoint string) bool

	// Held is called when a timing rule holds the event back. It will be queued, or left out, by and by.
	Held(t *Ticket)

	// Remembered is called when Config.Lateness has the event remembered, which was queued or left out, so that later ones are
	// compared with it. Who emits events again after a crash emits this one too until it is Done, and has Queue return false.
	Remembered(t *Ticket)

	// Ended is called once for each endpoint that Queue returned true for: it has accepted the event, or the event was
	// given up and is settled; see Hooks.GivenUp.
	Ended(t *Ticket, endpoint string)

	// Done is called once, after the last Ended.
	Done(t *Ticket)
}

// ticketBytes is what an event's ticket takes: itself and its place in a batch.
const ticketBytes = 64

// EmitTicket is Emit for an event that is followed to its end. It is called once for an event, also where endpoints are
// full: that gives the event up there, and Hooks.GivenUp and Undelivered are told on this goroutine. So it never
// returns ErrQueueFull. Of an event for which it returns another error the ticket is not used, unless that is ErrClosed.
func (d *Dispatcher) EmitTicket(appID string, e Event, t *Ticket) error {
	var lost losses
	a := d.accounts.load(appID)
	d.settling.add() // Close waits for what finds no room
	t.left.Store(1)
	err := d.emit(a, &e, t, &lost)
	lost.account()
	d.settling.done()
	defer lost.report()
	if err != nil {
		return d.rejected(a, appID, &e, err)
	}
	t.release()
	a.count.emitted.Add(1)
	return nil
}

// queue asks whether the event shall go to an endpoint, and if so counts it.
func (t *Ticket) queue(e *endpoint) bool {
	if t == nil {
		return true
	}
	if !t.Follower.Queue(t, e.keptID()) {
		return false
	}
	t.left.Add(1)
	return true
}

// hold is for an event that a timing rule holds: EmitTicket's release does not end it.
func (t *Ticket) hold() {
	if t != nil {
		t.left.Add(1)
		t.Follower.Held(t)
	}
}

// remember is for an event that others are compared with: EmitTicket's release does not end it.
func (t *Ticket) remember() {
	if t != nil {
		t.left.Add(1)
		t.Follower.Remembered(t)
	}
}

// release ends what EmitTicket, hold or remember has counted.
func (t *Ticket) release() {
	if t != nil && t.left.Add(-1) == 0 {
		t.Follower.Done(t)
	}
}

// endTickets is for events that have ended at an endpoint. No lock is held.
func (e *endpoint) endTickets(tickets []*Ticket) {
	if len(tickets) == 0 {
		return
	}
	id := e.keptID()
	for _, t := range tickets {
		if t != nil {
			t.Follower.Ended(t, id)
			t.release()
		}
	}
}

// addTicket notes the ticket of the event that follows; t may be nil.
func (b *batch) addTicket(t *Ticket) {
	o := b.origin
	if t == nil && o.tickets == nil {
		return
	}
	for len(o.tickets) < b.events {
		o.tickets = append(o.tickets, nil)
	}
	o.tickets = append(o.tickets, t)
}

func (b *batch) tickets() []*Ticket {
	if b.origin == nil {
		return nil
	}
	return b.origin.tickets
}

// originOf is what n events from the i-th on have brought along.
func (b *batch) originOf(i, n int) *origin {
	if b.origin == nil {
		return nil
	}
	o := *b.origin
	if o.tickets != nil {
		o.tickets = o.tickets[i : i+n : i+n]
	}
	return &o
}

// full reports whether an error of enqueue gives an event with a ticket up, and does not end in EmitTicket's error.
func full(err error) bool { return errors.Is(err, ErrQueueFull) }
