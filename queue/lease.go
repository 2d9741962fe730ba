package queue

import (
	"context"
	"sync"
	"time"
)

// A lease is a worker's right to send: nobody takes its partitions before the lease is over. It holds the Dispatcher
// well before, so that nothing is on the wire when somebody may.
type lease struct {
	length time.Duration
	hold   func(context.Context) (resume func())

	mu      sync.Mutex
	acked   time.Time     // when the last sign of life that was acknowledged was sent; zero: never
	timer   *time.Timer   // suspends
	lapses  int           // how often the lease was about to end
	resume  func()        // not nil while suspended
	resumed chan struct{} // closed when that ends
}

// Of a lease's tenths, after so many nothing starts, and what is on the wire is cancelled.
const (
	holdAfter   = 7
	cancelAfter = 8
)

// newLease returns a lease that begins with the first sign of life: one who has given none is nobody whose partitions
// others would leave to him.
func newLease(length time.Duration, hold func(context.Context) func()) *lease {
	l := &lease{length: length, hold: hold}
	l.timer = time.AfterFunc(0, func() { l.suspended() })
	return l
}

func (l *lease) tenths(n time.Duration) time.Duration { return l.length * n / 10 }

// age is the larger of what the two clocks say: while a machine is suspended one of them may stand still. mu is held.
func (l *lease) age() time.Duration {
	now := time.Now()
	return max(now.Sub(l.acked), now.Round(0).Sub(l.acked.Round(0)))
}

// check holds the Dispatcher if there was no sign of life for too long. mu is held.
func (l *lease) check() {
	age := l.age()
	if age < l.tenths(holdAfter) {
		return
	}
	l.lapses++
	if l.resume != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.tenths(cancelAfter)-age)
	resume := l.hold(ctx)
	l.resume = func() { resume(); cancel() }
	l.resumed = make(chan struct{})
}

// beat is for a sign of life, sent then, that was acknowledged. If the lease was suspended it stays so until confirm.
func (l *lease) beat(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.check() // the timer has not fired yet, if the process was stopped
	l.acked = sent
	l.timer.Reset(l.tenths(holdAfter) - l.age())
}

// suspended reports whether the worker has to make sure that its partitions are its own before it goes on.
func (l *lease) suspended() bool {
	_, suspended := l.lapse()
	return suspended
}

// lapse returns the number of the last lapse, and whether the lease is suspended since.
func (l *lease) lapse() (number int, suspended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.check()
	return l.lapses, l.resume != nil
}

// confirm ends the suspension: since that lapse all partitions were found to be the worker's own. It does nothing if
// there was another lapse.
func (l *lease) confirm(lapse int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.check(); l.lapses == lapse && l.resume != nil {
		l.resume()
		close(l.resumed)
		l.resume = nil
	}
}

// allow waits until the lease is valid, and reports whether it was before ctx ended.
func (l *lease) allow(ctx context.Context) bool {
	for {
		l.mu.Lock()
		l.check()
		resumed, held := l.resumed, l.resume != nil
		l.mu.Unlock()
		if !held {
			return true
		}
		select {
		case <-resumed:
		case <-ctx.Done():
			return false
		}
	}
}

// end gives the lease up, with the Dispatcher as it is.
func (l *lease) end() { l.timer.Stop() }
