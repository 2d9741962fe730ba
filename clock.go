package webhook

import (
	"sync/atomic"
	"time"
)

// A clock stands still while the dispatcher is held. Ages and the ends of timing rules go by it: so nothing grows old
// while it cannot be sent, and what is pending need not be touched for that. It is changed under schedule.mu and read
// without.
type clock struct {
	pauses atomic.Pointer[pauses] // nil: there was none
}

// pauses are replaced, not changed.
type pauses struct {
	holds int           // under way
	since time.Time     // the first of them began
	over  time.Duration // of those that are over
}

// stopped reports whether the dispatcher is held.
func (c *clock) stopped() bool {
	p := c.pauses.Load()
	return p != nil && p.holds > 0
}

// stood is how long the clock has stood still so far.
func (c *clock) stood() time.Duration {
	p := c.pauses.Load()
	switch {
	case p == nil:
		return 0
	case p.holds == 0:
		return p.over
	}
	return p.over + time.Since(p.since)
}

// now is what the clock shows.
func (c *clock) now() time.Time { return time.Now().Add(-c.stood()) }

// stop is called when a Hold begins.
func (c *clock) stop() {
	p := pauses{since: time.Now()}
	if before := c.pauses.Load(); before != nil {
		p.over = before.over
		if p.holds = before.holds; p.holds > 0 {
			p.since = before.since
		}
	}
	p.holds++
	c.pauses.Store(&p)
}

// start is called when a Hold is over.
func (c *clock) start() {
	p := *c.pauses.Load()
	if p.holds--; p.holds == 0 {
		p.over += time.Since(p.since)
	}
	c.pauses.Store(&p)
}
