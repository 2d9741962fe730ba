package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pusherhooks/webhook"
)

// A ledger is the test's own account of what became of every event, beside the dispatcher's Stats.
type ledger struct {
	bound int
	ids   atomic.Int64 // given out so far

	emitted     *idSet // Emit returned nil
	owed        *idSet // and no timing rule may leave it out
	delivered   *idSet // Hooks.Delivered told so
	undelivered *idSet // Hooks.Undelivered told so, at least once
	again       *idSet // emitted again, by a member who returned: it may come behind younger ones

	deliveredEvents, undeliveredEvents atomic.Uint64
	redelivered                        atomic.Uint64 // events
	closing                            atomic.Bool   // Close has been called
	closedEvents                       atomic.Uint64 // undelivered since then

	lost chan *webhook.Delivery // some that are undelivered, to be redelivered

	mu     sync.Mutex
	faults []error
}

func newLedger(bound int) *ledger {
	return &ledger{
		bound: bound, emitted: newIDSet(bound), owed: newIDSet(bound), delivered: newIDSet(bound),
		undelivered: newIDSet(bound), again: newIDSet(bound), lost: make(chan *webhook.Delivery, 64),
	}
}

// newIDs gives out the next ids, and returns the first.
func (l *ledger) newIDs(n int) (first int, ok bool) {
	next := 1 + int(l.ids.Add(int64(n))) // 0 is none
	return next - n, next <= l.bound
}

func (l *ledger) hooks() webhook.Hooks {
	return webhook.Hooks{
		Delivered: func(d *webhook.Delivery, _ time.Duration) {
			l.note(l.delivered, &l.deliveredEvents, d)
		},
		Undelivered: func(d *webhook.Delivery, _ error) {
			closing := l.closing.Load()
			l.note(l.undelivered, &l.undeliveredEvents, d)
			if closing {
				l.closedEvents.Add(uint64(d.Events))
			} else if len(d.Body) <= smallBody { // so that those kept here are no heap to speak of
				select {
				case l.lost <- d:
				default:
				}
			}
		},
	}
}

func (l *ledger) note(set *idSet, total *atomic.Uint64, d *webhook.Delivery) {
	total.Add(uint64(d.Events))
	events, err := decode(d.Body)
	if err != nil || len(events) != d.Events {
		l.fault(fmt.Errorf("%v has %d events in its body: %w", d, len(events), err))
		return
	}
	for i := range events {
		if id, err := events[i].id(); err != nil || !set.holds(id) {
			l.fault(fmt.Errorf("%v: %w", d, err))
		} else {
			set.add(id)
		}
	}
}

func (l *ledger) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) < maxFaults {
		l.faults = append(l.faults, err)
	}
}

// check compares the ledger, the dispatcher's accounts and what the endpoints have seen, once all is over.
func (l *ledger) check(s webhook.Stats, seen *seen) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	faults := l.faults
	for _, fault := range seen.Faults {
		faults = append(faults, errors.New("an endpoint: "+fault))
	}
	equal := func(what string, got, want uint64) {
		if got != want {
			faults = append(faults, fmt.Errorf("%s: %d and %d", what, got, want))
		}
	}
	equal("Queued is not Delivered + Undelivered", s.Queued, s.Delivered+s.Undelivered)
	equal("emitted and redelivered events are not Queued + Suppressed", s.Emitted+l.redelivered.Load(), s.Queued+s.Suppressed)
	equal("Hooks.Delivered was not told of all that Stats counts", l.deliveredEvents.Load(), s.Delivered)
	equal("Hooks.Undelivered was not told of all that Stats counts", l.undeliveredEvents.Load(), s.Undelivered)
	return errors.Join(append(faults,
		l.owed.without("were accepted and neither delivered nor reported", l.delivered, l.undelivered),
		l.delivered.without("were reported delivered that no endpoint has taken", seen.Accepted),
		seen.Accepted.without("were taken by an endpoint and are in no account", l.delivered, l.undelivered),
		seen.Accepted.without("were taken that Emit has not accepted", l.emitted),
		seen.Late.without("came behind younger ones of their channel", seen.Refused, l.undelivered, l.again))...)
}

// handedBack is what Close has returned.
type handedBack struct {
	deliveries, events int
	bytes              float64 // of memory, at the least
}

// takeBack checks what Close has returned, against what the hooks were told.
func (l *ledger) takeBack(err error) (back handedBack, _ error) {
	left, ok := errors.AsType[*webhook.UndeliveredError](err)
	if err != nil && !ok {
		return back, err
	}
	if err == nil {
		left = &webhook.UndeliveredError{}
	}
	for _, d := range left.Deliveries {
		back.deliveries++
		back.events += d.Events
		back.bytes += float64(cap(d.Body) + deliveryBytes)
		key := d.Header.Get("X-Pusher-Key")
		if !signedFor(d.AppID, key, d.Header.Get("X-Pusher-Signature"), d.Body) {
			return back, fmt.Errorf("handed back by Close: %v is not signed with a key of its app", d)
		}
	}
	// What was given up just before Close may be reported just after.
	if told := l.closedEvents.Load(); uint64(back.events) > told || err == nil && told > 0 {
		return back, fmt.Errorf("handed back by Close: %d events, and Hooks.Undelivered was told of %d meanwhile", back.events, told)
	}
	return back, nil
}

// deliveryBytes is what a delivery that is handed back takes beside its body: itself, its header and its strings.
const deliveryBytes = 1 << 10
