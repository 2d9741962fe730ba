package queue

import (
	"context"
	"sync"
	"time"
)

// A lease is a worker's right to send: nobody takes its partitions before the lease is over. It holds the Dispatcher well before, so that
// nothing is on the wire when somebody may.
type lease struct {
	length time.Duration
	hold   func(context.Context) (resume func())

	mu      sync.Mutex
	renewed time.Time     // when the last sign of life that was acknowledged was sent; zero: never
	timer   *time.Timer   // suspends
	resume  func()        // not nil while suspended
	resumed chan struct{} // closed when that ends
}

// Of a lease's tenths, after so many nothing starts, and what is on the wire is cancelled.
const (
	holdAfter   = 7
	cancelAfter = 8
)

// newLease returns a lease that begins with the first sign of life: one who has given none is nobody whose partitions others would leave to him.
func newLease(length time.Duration, hold func(context.Context) func()) *lease {
	l := &lease{length: length, hold: hold}
	l.timer = time.AfterFunc(0, l.suspend)
	return l
}

func (l *lease) tenths(n time.Duration) time.Duration { return l.length * n / 10 }

// age is the larger of what the two clocks say: while a machine is suspended one of them may stand still. mu is held.
func (l *lease) age() time.Duration {
	now := time.Now()
	return max(now.Sub(l.renewed), now.Round(0).Sub(l.renewed.Round(0)))
}

// suspend holds the Dispatcher if the lease was not renewed in time.
func (l *lease) suspend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.suspendLocked()
}

func (l *lease) suspendLocked() {
	age := l.age()
	if l.resume != nil || age < l.tenths(holdAfter) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.tenths(cancelAfter)-age)
	resume := l.hold(ctx)
	l.resume = func() { resume(); cancel() }
	l.resumed = make(chan struct{})
}

// suspended reports whether the worker has to make sure that its partitions are its own before it goes on.
func (l *lease) suspended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.suspendLocked() // the timer may not have fired yet, if the process was stopped
	return l.resume != nil
}

// renew is for a sign of life, sent then, that was acknowledged, and after which partitions were found to be the worker's own.
func (l *lease) renew(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = sent
	l.timer.Reset(l.tenths(holdAfter) - l.age())
	if l.resume != nil && l.age() < l.tenths(holdAfter) {
		l.resume()
		close(l.resumed)
		l.resume = nil
	}
}

// allow waits until the lease is valid, and reports whether it was before ctx ended.
func (l *lease) allow(ctx context.Context) bool {
	for {
		l.mu.Lock()
		l.suspendLocked()
		resumed := l.resumed
		held := l.resume != nil
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
