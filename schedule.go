package webhook

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The schedule says whose turn it is. Its first half shares the wire among apps, its second half decides when an
// endpoint is tried again, what an answer means, and when an event is too old. See docs/design.md.

// A class is how an endpoint answered last.
type class int8

const (
	untried class = iota // not yet
	proven               // within youngFor
	slow                 // later
	failing              // not, the last time
	classes
)

// youngFor is how long a request counts as young at the most. Endpoints that answer need no longer as a rule, so places
// for the young turn over twice a second, whatever others do.
const youngFor = 500 * time.Millisecond

// A schedule has the places on the wire. At most an eighth of them is for young requests; one that grows older
// gives its place among them back and counts as slow. That takes half a second where six eighths of the wire are slow,
// less where fewer are, and no time where only half of it is: what is free is there to be used.
//
// Endpoints of a class start only while fewer than so many eighths of the wire are slow: the rest is for those that
// answer at once.
//
// Who waits for a place waits in the line of its app. The lock is taken after endpoint.mu and never held for long.
type schedule struct {
	mu      sync.Mutex
	most    int // MaxConcurrent
	stopped bool
	clock   clock // stands still while nobody is let on the wire
	young   int
	slow    int
	starts  place // of the young requests, in a ring, the oldest behind it
	lines   [classes]line
	began   time.Time
	empty   chan struct{} // closed when nobody is on the wire any more, after stop
	timer   *time.Timer   // for the next request that grows older; runs only while somebody waits for a place
}

var gates = [classes]int{untried: 7, proven: 8, slow: 6, failing: 5}

// A place is one request's on the wire.
type place struct {
	share      *share // nil: none
	young      bool
	started    time.Time
	prev, next *place // in schedule.starts
}

// A share is what one app has of the wire.
type share struct {
	young, slow int              // requests on the wire
	used        float64          // of the wire lately, see use
	waiting     [classes][]*lane // first come, first served
	turn        [classes]uint64  // in a line
	at          [classes]int     // where it stands in a line
}

// A line is a heap of the apps that wait with endpoints of one class, the next one first. Proven and untried ones
// take turns. Of the others the app goes first that holds the fewest slow places and has used the wire least lately.
type line struct {
	class  class
	apps   []*share
	turns  uint64
	passed int // apps that have lost their turn since anything has changed
}

func (s *schedule) init(most int) {
	s.most, s.began, s.empty = most, time.Now(), make(chan struct{})
	for c := range s.lines {
		s.lines[c].class = class(c)
	}
}

// join puts a lane into its app's line. It reports whether the lane has got a place at once; else a goroutine
// of its own runs it when it gets one.
func (s *schedule) join(l *lane, c class) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	account := l.endpoint.account
	if account.share == nil {
		account.share = &share{used: math.Inf(-1)}
	}
	a := account.share
	s.changed()
	a.waiting[c] = append(a.waiting[c], l)
	if len(a.waiting[c]) == 1 {
		heap.Push(&s.lines[c], a)
	}
	return s.serve(l)
}

// withdraw takes a lane out of its app's line, and reports whether it was there: else it has got a place.
func (s *schedule) withdraw(l *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := l.endpoint.account.share
	for c := range a.waiting {
		i := slices.Index(a.waiting[c], l)
		if i < 0 {
			continue
		}
		if a.waiting[c] = slices.Delete(a.waiting[c], i, i+1); len(a.waiting[c]) == 0 {
			a.waiting[c] = nil
			heap.Remove(&s.lines[c], a.at[c])
			s.changed()
		}
		return true
	}
	return false
}

// leave gives a place back.
func (s *schedule) leave(p *place, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.young {
		s.young--
		p.share.young--
		p.unlink()
	} else {
		s.slow--
		p.share.slow--
	}
	s.changed()
	p.share.use(took, time.Since(s.began))
	s.reorder(p.share)
	p.share = nil
	if s.stopped && s.young+s.slow == 0 {
		close(s.empty)
	}
	s.serve(nil)
}

// stop lets nobody on the wire any more. It may be called again.
func (s *schedule) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.young+s.slow == 0 {
		close(s.empty)
	}
}

// serve gives away the places that are free. It reports whether self has got one.
func (s *schedule) serve(self *lane) (served bool) {
	if s.stopped || s.clock.stopped() {
		return false
	}
	now := time.Now()
	s.ripen(now)
	for _, c := range []class{proven, untried, slow, failing} {
		for l := s.first(c); l != nil; l = s.first(c) {
			s.start(l, c, now)
			if l == self {
				served = true
			} else {
				go l.run()
			}
		}
	}
	s.watch(now)
	return served
}

// mostTried bounds how many apps lose their turn while the lock is held: the timer goes on with those behind them.
const mostTried = 64

// changed has all apps asked again that have lost their turn.
func (s *schedule) changed() {
	for c := range s.lines {
		s.lines[c].passed = 0
	}
}

// first takes the lane out of the lines that gets the next place of a class, if there is one. An app whose share is
// used up loses its turn; where the fewest places come first nobody has a better claim.
func (s *schedule) first(c class) *lane {
	line := &s.lines[c]
	for tried := 0; tried < min(len(line.apps), mostTried) && s.free(c) > 0; tried++ {
		a := line.apps[0]
		if s.admits(a, c) {
			return line.serve(a)
		}
		if c >= slow {
			return nil
		}
		line.again(a)
		line.passed++
	}
	return nil
}

// behind reports whether there is a free place, and an app that was not asked yet.
func (s *schedule) behind() bool {
	for _, c := range []class{proven, untried} {
		if line := &s.lines[c]; line.passed < len(line.apps) && s.free(c) > 0 {
			return true
		}
	}
	return false
}

// serve takes the first lane of an app that is first in line.
func (q *line) serve(a *share) *lane {
	l := a.waiting[q.class][0]
	a.waiting[q.class][0] = nil
	a.waiting[q.class] = a.waiting[q.class][1:]
	if len(a.waiting[q.class]) > 0 {
		q.again(a)
	} else {
		a.waiting[q.class] = nil
		heap.Pop(q)
	}
	return l
}

// again gives the first app in line its next turn.
func (q *line) again(a *share) {
	q.turns++
	a.turn[q.class] = q.turns
	heap.Fix(q, 0)
}

// free is how many places there are for a class.
func (s *schedule) free(c class) int {
	left := s.most - s.young - s.slow
	open := min(left, s.eighths(gates[c])-s.slow)
	if c < slow && open > 0 {
		open = min(left, s.eighths(1)-s.young)
	}
	return open
}

// eighths is so many eighths of all places, one at least.
func (s *schedule) eighths(n int) int { return max(1, s.most*n/8) }

// admits reports whether an app may start a request: while it holds fewer places than are left free, of that kind
// and in all; see room.
func (s *schedule) admits(a *share, c class) bool {
	all, held := a.young+a.slow, a.young
	if c >= slow {
		held = a.slow
	}
	return all == 0 || held < s.free(c) && all < s.most-s.young-s.slow
}

func (s *schedule) start(l *lane, c class, now time.Time) {
	p := &l.place
	p.share, p.started, p.young = l.endpoint.account.share, now, c < slow
	if p.young {
		s.young++
		p.share.young++
		p.link(&s.starts)
	} else {
		s.slow++
		p.share.slow++
	}
	s.reorder(p.share)
}

// ripen makes those of the young slow that are not young any more.
func (s *schedule) ripen(now time.Time) {
	for p := s.starts.next; p != nil && p != &s.starts && now.Sub(p.started) >= s.youngFor(); p = s.starts.next {
		p.unlink()
		p.young = false
		p.share.young--
		p.share.slow++
		s.young--
		s.slow++
		s.reorder(p.share)
	}
}

// youngFor is how long a request counts as young at the moment.
func (s *schedule) youngFor() time.Duration {
	half, quarter := s.most/2, max(1, s.most/4)
	return youngFor * time.Duration(min(max(0, s.slow-half), quarter)) / time.Duration(quarter)
}

// watch sets the timer if somebody waits for a young request to grow older, or for his turn.
func (s *schedule) watch(now time.Time) {
	oldest, wait := s.starts.next, time.Millisecond
	switch {
	case s.behind():
	case len(s.lines[proven].apps)+len(s.lines[untried].apps) == 0 || oldest == nil || oldest == &s.starts:
		return
	default:
		wait = s.youngFor() - now.Sub(oldest.started)
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.tick)
	} else {
		s.timer.Reset(wait)
	}
}

func (s *schedule) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve(nil)
}

// reorder restores the lines of the slow and the failing after an app's share has changed.
func (s *schedule) reorder(a *share) {
	for c := slow; c < classes; c++ {
		if len(a.waiting[c]) > 0 {
			heap.Fix(&s.lines[c], a.at[c])
		}
	}
}

// use adds to what the app has used of the wire, which halves every ten seconds. It is kept as a logarithm plus the
// time: so it need not be touched to decay, and apps keep their order meanwhile.
func (a *share) use(took, now time.Duration) {
	halvings := now.Seconds() / 10
	a.used = math.Log2(math.Exp2(a.used-halvings)+took.Seconds()) + halvings
}

func (p *place) link(ring *place) {
	if ring.next == nil {
		ring.next, ring.prev = ring, ring
	}
	p.prev, p.next = ring.prev, ring
	p.prev.next, ring.prev = p, p
}

func (p *place) unlink() {
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}

// The methods of heap.Interface.

func (q *line) Len() int { return len(q.apps) }

func (q *line) Less(i, j int) bool {
	a, b := q.apps[i], q.apps[j]
	switch {
	case q.class < slow:
		return a.turn[q.class] < b.turn[q.class]
	case a.slow != b.slow:
		return a.slow < b.slow
	}
	return a.used < b.used
}

func (q *line) Swap(i, j int) {
	q.apps[i], q.apps[j] = q.apps[j], q.apps[i]
	q.apps[i].at[q.class], q.apps[j].at[q.class] = i, j
}

func (q *line) Push(x any) {
	a := x.(*share)
	q.turns++
	a.turn[q.class], a.at[q.class] = q.turns, len(q.apps)
	q.apps = append(q.apps, a)
}

func (q *line) Pop() any {
	last := len(q.apps) - 1
	a := q.apps[last]
	q.apps[last] = nil
	q.apps = q.apps[:last]
	return a
}

// ---- an endpoint's own schedule. endpoint.mu is held in all of the following functions, unless they say otherwise.

// A trouble is what there is to know about an endpoint that does not accept everything.
type trouble struct {
	failures  int             // in a row
	refusing  bool            // it refuses everything
	until     time.Time       // it waits
	timer     *time.Timer     // for that moment
	probe     *lane           // the one that tries while the others wait
	row       []*batch        // single events set aside since anything was accepted; nil: given up since
	channels  map[uint64]bool // by hash, some: whether their last event was accepted
	lastTry   bool            // the dispatcher is closing, and the endpoint was failing before
	lastError string
	report    report
}

// over reports whether there is nothing to remember.
func (t *trouble) over(cfg *Config) bool {
	return t.failures == 0 && !t.report.pending() && time.Since(t.report.at) >= cfg.RetryWaitMin
}

// troubled returns the endpoint's trouble, a new one if it has none.
func (e *endpoint) troubled() *trouble {
	if e.trouble == nil {
		e.trouble = &trouble{}
	}
	return e.trouble
}

func (e *endpoint) failing() bool { return e.trouble != nil && e.trouble.failures > 0 }

func (e *endpoint) refusing() bool { return e.trouble != nil && e.trouble.refusing }

func (e *endpoint) class() class {
	if e.failing() {
		return failing
	}
	return e.answers
}

// dispatch has as many lanes join their app's line as may. It reports whether self, whose goroutine calls, has got a
// place; lanes of other goroutines are run.
func (e *endpoint) dispatch(self *lane) (again bool) {
	for l := e.nextLane(); l != nil; l = e.nextLane() {
		l.state = inLine
		e.working++
		switch {
		case !e.shared.schedule.join(l, e.class()):
		case l == self:
			again = true
		default:
			go l.run()
		}
	}
	return again
}

// nextLane takes the lane out of those that are ready whose turn it is, if any may send now.
func (e *endpoint) nextLane() *lane {
	if len(e.ready) == 0 || int(e.working) >= e.shared.cfg.MaxInFlight {
		return nil
	}
	i := 0
	if t := e.trouble; t != nil && (t.failures > 0 || !t.until.IsZero()) {
		if t.probe != nil || time.Now().Before(t.until) {
			return nil
		}
		if t.failures > 0 {
			i = e.probeReady()
			t.probe = e.ready[i]
		}
	}
	l := e.ready[i]
	e.ready = slices.Delete(e.ready, i, i+1)
	return l
}

// probeReady is the index of the ready lane that tries for all: the one whose first event has waited longest or, where
// everything seems to be refused, each in turn, those first whose candidate is the likeliest. Events that were set aside
// go last: they say the least about an endpoint.
func (e *endpoint) probeReady() (probe int) {
	aside := int32(e.shared.asideLane())
	best := unlikely - 1
	for i, l := range e.ready {
		switch {
		case l.index == aside:
		case e.refusing():
			if _, chance := l.firsts(); chance > best {
				probe, best = i, chance
			}
		case e.ready[probe].index == aside || l.since().Before(e.ready[probe].since()):
			probe = i
		}
	}
	return probe
}

// since is when the lane's first event was accepted, or zero.
func (l *lane) since() (first time.Time) {
	if len(l.queue) > 0 {
		return l.queue[0].opened
	}
	if l.open != nil {
		return l.open.opened
	}
	return first
}

// mayTake decides for a lane that has got a place, after what may have happened while it waited for that.
func (e *endpoint) mayTake(l *lane) bool {
	t := e.trouble
	switch {
	case t == nil:
		return true
	case time.Now().Before(t.until):
		return false
	case t.failures > 0 && t.probe == nil:
		t.probe = l
	}
	return t.failures == 0 || t.probe == l
}

// lastAttempt is how long the one attempt may take that an endpoint gets at Close which was failing before.
const lastAttempt = time.Second

// hangs is how long after SendTimeout a Send that has not returned counts as a failure.
const hangs = time.Second

// take returns what the lane sends now that it has got a place, and whether it is ready to leave: stamped and
// signed. If there is nothing any more the place goes back. No lock is held.
func (l *lane) take() (b *batch, stamped bool) {
	e := l.endpoint
	s := e.shared
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.ctx.Err() == nil && !s.schedule.clock.stopped() && e.mayTake(l) {
		b = l.pick()
	}
	if b == nil {
		s.schedule.leave(&l.place, 0)
		return nil, false
	}
	l.state, l.current, l.epoch, l.recalled = sending, b, e.epoch, false
	l.noted.note(0, time.Time{})
	b.sends++
	if l.base == nil {
		l.base = context.WithValue(s.ctx, notedKey{}, &l.noted)
	}
	timeout := s.cfg.SendTimeout
	if e.trouble != nil && e.trouble.lastTry {
		timeout = min(timeout, lastAttempt)
	}
	l.ctx, l.cancel = context.WithTimeout(l.base, timeout)
	l.arm(timeout + hangs)
	stamped = !e.stale(b)
	if !stamped {
		s.settling.add()
	}
	return b, stamped
}

// pick returns the batch, or the part of one, that is next.
func (l *lane) pick() *batch {
	if wait, something := l.wait(); !something || wait > 0 {
		return nil
	}
	if len(l.queue) == 0 {
		l.close()
	}
	if l.endpoint.refusing() && int(l.index) != l.endpoint.shared.asideLane() {
		return l.candidate()
	}
	return l.part(l.queue[0])
}

// settle takes the result of an attempt into account, gives its place back and tells the hooks. No lock is held.
//
// A Send that Close has ended says nothing about its endpoint. Close hands its batch back, whatever came of it.
func (l *lane) settle(b *batch, a *Attempt, took time.Duration) {
	e := l.endpoint
	s := e.shared
	o := outcomeOf(a.Err, s.cfg.Logger)
	a.Err, a.Status = o.err, cmp.Or(o.status, a.Status)
	lent, observed := b.delivery, s.observed()
	if a.Err != nil && observed { // the batch is sent again, cut or given away while a hook still reads it
		lent = lent.Clone()
	}
	var gone []loss
	e.mu.Lock()
	recalled := a.Err != nil && l.recalled
	if cut := a.Err != nil && s.ctx.Err() != nil; !b.abandoned && !cut {
		if recalled {
			gone = l.comesBack(b)
		} else {
			gone = l.judge(b, a, o, took)
		}
		if !b.arrived && !b.lost && !e.closed && b.delivery.by != nil {
			b.delivery.Header = nil // it can be made again, and may be larger than the body
		}
	}
	e.mu.Unlock()
	s.schedule.leave(&l.place, a.Took)
	if b.arrived {
		s.requests.Add(1)
		s.delivered.Add(uint64(b.events))
	}
	e.settle(gone)
	defer e.tell() // whatever a hook does to its goroutine
	defer e.report(gone)
	if observed && !recalled {
		e.hookAttempt(lent, *a)
	}
	if b.arrived {
		s.hookDelivered(lent, a.Took)
	}
}

// judge decides what the result of an attempt means, and returns what is given up for it.
func (l *lane) judge(b *batch, a *Attempt, o outcome, took time.Duration) (gone []loss) {
	e, v := l.endpoint, o.verdict
	l.current = nil
	if v == accepted || v == refused || v == final {
		if e.answers = proven; took >= youngFor {
			e.answers = slow
		}
	}
	if a.Err != nil {
		e.troubled().lastError = o.text
	}
	switch {
	case v == accepted:
		l.accept(b)
	case v == unsent:
		a.RetryIn = e.backOff(o.asks)
		e.pause(a.RetryIn)
		if b.doomed != nil {
			gone = l.lose(b, b.doomed)
		}
	case b.doomed != nil:
		if gone = l.lose(b, b.doomed); v != refused {
			gone = append(gone, e.fails(l, e.backOff(o.asks), a.Err)...)
		}
	case v == final:
		gone = append(l.lose(b, a.Err), e.fails(l, e.shared.cfg.RetryWaitMax, a.Err)...)
	case v == refused && e.shared.cfg.RetryFor > 0:
		gone = l.refuse(b, a, o)
	default:
		wait := e.backOff(o.asks)
		if e.shared.cfg.RetryFor < 0 {
			gone = l.lose(b, a.Err)
		} else {
			a.RetryIn = wait
		}
		gone = append(gone, e.fails(l, wait, a.Err)...)
	}
	return gone
}

// accept is for a batch that has arrived: whatever the endpoint's trouble was, it is over, unless the request left
// before that began.
func (l *lane) accept(b *batch) {
	e := l.endpoint
	e.lastSuccess = time.Now()
	e.pending -= b.events
	b.arrived = true
	e.grow()
	if t := e.trouble; t != nil {
		t.row = nil
		t.learn(b, true)
		if l.epoch == e.epoch {
			e.well()
		}
	}
	if b.parent != nil {
		b.parent.division.size = 2 * b.events
		if l.advance(b) {
			e.tells(b.parent)
		}
	} else {
		l.remove(b)
		e.tells(b)
	}
}

// well ends the endpoint's back-off, if it has one.
func (e *endpoint) well() {
	t := e.trouble
	if t.failures == 0 && !t.refusing {
		return
	}
	t.failures, t.refusing, t.lastTry, t.until, t.probe, t.lastError = 0, false, false, time.Time{}, nil, ""
	e.epoch++
}

// fails makes the endpoint wait after a failure, and returns what is now too old. An answer to a request that left
// before the back-off began, or before it ended, says nothing new.
func (e *endpoint) fails(l *lane, wait time.Duration, err error) (gone []loss) {
	t := e.troubled()
	if l.epoch != e.epoch && !t.lastTry {
		return nil
	}
	t.failures++
	e.epoch++
	t.probe = nil
	e.pause(wait)
	for other := range e.existing() { // so that age means something
		other.close()
		if other.state == filling {
			other.rest()
		}
	}
	switch {
	case t.lastTry:
		err = &goneError{"webhook: closing, and the endpoint was failing", err}
		gone = e.loseIf(err, func(l *lane, _ *batch) bool { return l.current == nil }) // the rest follows what is on the wire
	case t.failures >= 2 && e.shared.cfg.RetryFor > 0:
		gone = e.loseOld(err)
	}
	return gone
}

// pause makes all lanes wait.
func (e *endpoint) pause(wait time.Duration) {
	t := e.troubled()
	t.until = time.Now().Add(wait)
	if t.timer == nil {
		t.timer = time.AfterFunc(wait, e.resume)
	} else {
		t.timer.Reset(wait)
	}
}

// resume is the timer's function: the wait is over. No lock is held.
func (e *endpoint) resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatch(nil)
}

// backOff returns how long to wait after a failure: RetryWaitMin doubled for each before it up to RetryWaitMax, of
// which half is at random, so that endpoints that failed together do not come back together. What the endpoint asks
// for takes its place, spread as well.
func (e *endpoint) backOff(asked time.Duration) time.Duration {
	cfg, failures := &e.shared.cfg, 0
	if e.trouble != nil {
		failures = e.trouble.failures
	}
	longest := cfg.RetryWaitMax
	if asked > 0 {
		asked = max(asked, cfg.RetryWaitMin)
		if spread := asked / 4; asked <= longest-spread {
			return e.aligned(asked, upTo(spread))
		}
		return longest - upTo(longest/4)
	}
	wait := longest
	if doublings := min(failures, 62); cfg.RetryWaitMin <= longest>>doublings {
		wait = cfg.RetryWaitMin << doublings
	}
	return e.aligned(wait/2, upTo(wait/2))
}

// aligned returns a wait of at least so long and some more. Longer waits end at multiples of a tenth of a second, so that
// thousands of them that end one by one do not wake an idle processor for each (bench -only trouble).
func (e *endpoint) aligned(least, more time.Duration) time.Duration {
	const grid = 100 * time.Millisecond
	now := time.Since(e.shared.schedule.began)
	if wait := (now + least + more).Truncate(grid) - now; wait >= least && more > grid {
		return wait
	}
	return least + more
}

// upTo returns a random duration in [0, d].
func upTo(d time.Duration) time.Duration { return rand.N(d + 1) }

var errHangs = errors.New("webhook: the Sender does not return")

// overdue is called when a Send should have returned long ago. It counts as a failure, so that what is behind it
// ages.
func (l *lane) overdue() (gone []loss) {
	if l.current == nil || l.ctx == nil {
		return nil
	}
	if deadline, _ := l.ctx.Deadline(); time.Now().Before(deadline) { // the timer of a window, a moment late
		return nil
	}
	e := l.endpoint
	if l.recalled && e.shared.schedule.clock.stopped() {
		l.arm(hangs) // nothing fails while the dispatcher is held
		return nil
	}
	e.troubled().lastError = errorText(errHangs)
	l.arm(e.shared.cfg.RetryWaitMax)
	l.epoch = e.epoch
	gone = e.fails(l, e.backOff(0), errHangs)
	l.epoch = e.epoch
	return gone
}

// ---- what is given up

// A loss is a batch that is given up, taken from its lane and not reported yet.
type loss struct {
	batch *batch
	err   error
	kept  bool // by Close, which hands it back
}

// A goneError says why something is given up. It asks the Sender's error for its text when it is asked itself: not
// while a lock is held.
type goneError struct {
	why  string
	last error
}

func (e *goneError) Error() string { return e.why + ": " + e.last.Error() }
func (e *goneError) Unwrap() error { return e.last }

// lose takes a batch, or what is left of it, out of the lane. Close waits until the losses are reported.
func (l *lane) lose(b *batch, err error) []loss {
	if parent := b.parent; parent != nil {
		l.inherit(parent, b)
	} else {
		l.remove(b)
	}
	return l.endpoint.lost(err, l.endpoint.pieces(b)...)
}

// loseRest gives up what is left of a batch of which a part is on the wire.
func (l *lane) loseRest(b *batch, err error) []loss {
	if b.division == nil || b.division.part == nil || b.events == b.division.part.events {
		return nil
	}
	part := b.division.part
	left := b.events - part.events
	e := l.endpoint
	at := b.division.at + len(part.buf) - envelopeBytes + 1
	rest := e.cut(b, at, len(b.buf)-len(bodyEnd), part.events, left)
	rest.inherits(b)
	b.origin = b.originOf(0, part.events)
	b.events, b.buf = part.events, append(b.buf[:at-1], bodyEnd...)
	return e.lost(err, rest)
}

// lost accounts for batches that are in no lane any more.
func (e *endpoint) lost(err error, batches ...*batch) (gone []loss) {
	for _, b := range batches {
		e.release(b.memory)
		e.pending -= b.events
		b.lost = true
		if t := e.trouble; t != nil && b.aside != nil {
			if i := slices.Index(t.row, b); i >= 0 {
				t.row[i] = nil
			}
		}
		e.tells(b)
		e.shared.loses()
		gone = append(gone, loss{batch: b, err: err})
	}
	return gone
}

// loses has Close wait for a loss: to be settled, and where somebody stores it first, until that is done.
func (s *shared) loses() {
	s.settling.add()
	if s.cfg.Hooks.GivenUp != nil {
		s.unsettled.Add(1)
	}
}

// loseOld gives up what is older than RetryFor.
func (e *endpoint) loseOld(last error) []loss {
	clock, most := &e.shared.schedule.clock, e.shared.cfg.RetryFor
	if clock.stopped() {
		return nil
	}
	now := clock.now()
	err := &goneError{fmt.Sprintf("webhook: gave up after %v", most), last}
	return e.loseIf(err, func(l *lane, b *batch) bool {
		follows := e.closed && l.current != nil // Close hands back in order
		return !follows && now.Sub(b.last) > most
	})
}

// loseAll gives up everything but what is in use.
func (e *endpoint) loseAll(err error) []loss {
	for l := range e.existing() {
		l.close()
	}
	return e.loseIf(err, func(*lane, *batch) bool { return true })
}

// loseIf gives up what a condition holds for. In a lane it holds for the oldest, if for any.
func (e *endpoint) loseIf(err error, condition func(*lane, *batch) bool) (gone []loss) {
	for l := range e.existing() {
		n := len(l.queue)
		if int(l.index) != e.shared.asideLane() {
			n = 0
			for n < len(l.queue) && (condition(l, l.queue[n]) || l.inUse(l.queue[n])) {
				n++
			}
		}
		var kept []*batch
		for _, b := range l.queue[:n] {
			switch doomed := condition(l, b); {
			case !doomed:
				kept = append(kept, b)
			case l.inUse(b):
				kept = append(kept, b)
				gone = append(gone, l.loseRest(b, err)...)
			default:
				gone = append(gone, e.lost(err, e.pieces(b)...)...)
			}
		}
		if len(kept) < n {
			l.queue = append(kept, l.queue[n:]...)
		}
	}
	e.tidy()
	return gone
}

// inUse reports whether a batch of the queue, or a part of it, is being sent.
func (l *lane) inUse(b *batch) bool {
	return l.current != nil && (l.current == b || l.current.parent == b)
}

// tidy frees the lanes that have lost everything. Where the endpoint then has others that may go, its wait has begun.
func (e *endpoint) tidy() {
	for l := range e.existing() {
		switch empty := l.open == nil && len(l.queue) == 0; {
		case empty && l.state == ready:
			e.ready = slices.DeleteFunc(e.ready, func(other *lane) bool { return other == l })
			l.state = filling
		case empty && l.state == inLine && e.shared.schedule.withdraw(l):
			if e.trouble != nil && e.trouble.probe == l {
				e.trouble.probe = nil
			}
			e.working--
			l.state = filling
		}
		e.drop(l)
	}
}

// ---- refusals

// A division is how far a refused batch has got that is sent in parts.
type division struct {
	at   int    // where in its buffer the next part begins
	size int    // events of the next part at the most
	part *batch // which is next, once it has been copied out
}

// An aside says of a single event what came of it since it was refused.
type aside struct {
	lane  int // where it came from
	times int // refused by itself
	due   time.Time
}

const (
	maxAside     = 64 // events of an endpoint that are set aside
	refusesAll   = 4  // of them in a row mean that the endpoint refuses everything
	asideTries   = 4  // after which an event is reported
	minBatchSize = 1 << 10
)

// part returns b, or the part of it whose turn it is if it is too large for the endpoint.
func (l *lane) part(b *batch) *batch {
	e := l.endpoint
	if b.division == nil {
		if len(b.buf) <= e.maxBytes() || !e.divisible(b) {
			return b
		}
		b.division = &division{at: headBytes, size: b.events}
	}
	d := b.division
	if d.part == nil {
		end, events := cutEvents(b.buf, d.at, min(d.size, b.events), e.maxBytes()-envelopeBytes)
		d.part = e.cut(b, d.at, end, 0, events)
		d.part.parent = b
	}
	return d.part
}

// divisible reports whether a batch can be cut: its parts have to be signed.
func (e *endpoint) divisible(b *batch) bool {
	return b.events > 1 && e.account.credentials.Load() != nil
}

// cut copies events out of a batch, of which the first is the i-th of those that are left in it. They were accepted
// already, so there is memory for them.
func (e *endpoint) cut(b *batch, from, to, i, events int) *batch {
	size := headBytes + to - from + len(bodyEnd)
	part := &batch{buf: make([]byte, headBytes, size), events: events, opened: b.opened, last: b.last, origin: b.originOf(i, events)}
	part.buf = append(append(part.buf, b.buf[from:to]...), bodyEnd...)
	part.memory = int64(size + e.batchBytes())
	e.chargeAnyway(part.memory)
	return part
}

// advance is called when a part has ended one way or the other. It reports whether nothing is left of the batch.
func (l *lane) advance(part *batch) (done bool) {
	parent := part.parent
	d := parent.division
	d.at += len(part.buf) - envelopeBytes + 1
	d.part = nil
	parent.origin = parent.originOf(part.events, parent.events-part.events)
	if parent.events -= part.events; parent.events == 0 {
		l.remove(parent)
	}
	return parent.events == 0
}

// inherit makes a part a batch of its own, which ends later than the batch it was a part of.
func (l *lane) inherit(parent, part *batch) {
	part.inherits(parent)
	if l.advance(part) {
		l.endpoint.complete(parent)
	}
	part.parent = nil
}

// inherits has the flush that waits for a batch wait for what was cut out of it.
func (b *batch) inherits(from *batch) {
	if from.flush != nil {
		from.flush.add(b)
	}
}

// complete is for a batch of which nothing is left.
func (e *endpoint) complete(b *batch) {
	e.release(b.memory)
	b.flush.ended()
}

// pieces returns what is left of a batch that has been taken out of its queue, in order.
func (e *endpoint) pieces(b *batch) (all []*batch) {
	if b.division == nil {
		return []*batch{b}
	}
	at, first, left := b.division.at, 0, b.events
	if part := b.division.part; part != nil {
		at += len(part.buf) - envelopeBytes + 1
		first = part.events
		left -= part.events
		part.parent = nil
		all = append(all, part)
	}
	if left > 0 {
		all = append(all, e.cut(b, at, len(b.buf)-len(bodyEnd), first, left))
	}
	for _, piece := range all {
		piece.inherits(b)
	}
	e.complete(b)
	return all
}

// refuse is for a body that the endpoint does not take: a batch is divided, an event set aside.
func (l *lane) refuse(b *batch, a *Attempt, o outcome) (gone []loss) {
	e := l.endpoint
	if e.divisible(b) {
		if a.Status == http.StatusRequestEntityTooLarge {
			e.shrink(len(b.buf))
		}
		l.divide(b)
		if !e.refusing() && l.epoch == e.epoch {
			e.well() // it answers
		}
		return nil
	}
	if e.refusing() {
		if b.aside == nil {
			b.aside = &aside{lane: int(l.index), times: 1}
		}
		e.trouble.learn(b, false)
		a.RetryIn = e.backOff(0)
		return e.fails(l, a.RetryIn, a.Err)
	}
	if l.epoch == e.epoch {
		e.well()
	}
	return l.setAside(b, a, o)
}

func (l *lane) divide(b *batch) {
	parent := b
	if b.parent != nil {
		parent = b.parent
		l.endpoint.release(b.memory)
	} else {
		parent.division = &division{at: headBytes}
	}
	parent.division.part, parent.division.size = nil, max(1, b.events/2)
}

// shrink makes an endpoint's batches half as large as the one that was too large for it.
func (e *endpoint) shrink(size int) {
	e.maxBody = int32(min(e.maxBytes(), max(minBatchSize, min(e.maxBytes(), size)/2)))
	e.deliveries = 0
}

// grow makes an endpoint's batches larger again, carefully.
func (e *endpoint) grow() {
	if e.maxBody == 0 {
		return
	}
	if e.deliveries++; e.deliveries == 100 {
		e.deliveries = 0
		if e.maxBody += e.maxBody / 8; int(e.maxBody) >= e.shared.cfg.MaxBatchBytes {
			e.maxBody = 0
		}
	}
}

// setAside takes a single event that was refused out of the way of the others, to be tried again by itself, or
// gives it up.
func (l *lane) setAside(b *batch, a *Attempt, o outcome) (gone []loss) {
	e := l.endpoint
	if parent := b.parent; parent != nil {
		parent.division.size = 1
		l.inherit(parent, b)
	} else {
		l.remove(b)
	}
	first := b.aside == nil
	if first {
		b.aside = &aside{lane: int(l.index)}
		e.troubled().learn(b, false)
	}
	b.aside.times++
	wait, again := e.asideWait(b, o.status >= 500)
	if !again || e.closed {
		return l.lose(b, a.Err)
	}
	a.RetryIn = wait
	gone = e.putAside(b, wait, a.Err)
	if t := e.troubled(); first {
		if len(t.row) == refusesAll { // all of an earlier epoch
			t.row = slices.Delete(t.row, 0, 1)
		}
		if t.row = append(t.row, b); len(t.row) >= refusesAll && l.epoch == e.epoch {
			gone = append(gone, e.refuseAll(l, a.Err)...)
			a.RetryIn = time.Until(t.until)
		}
	}
	return gone
}

// learn notes whether a channel's event was accepted, for candidate. Where there are too many channels those go first
// whose events were refused: somebody may make up a new one for each.
func (t *trouble) learn(b *batch, accepted bool) {
	const most = 128
	if len(t.channels) >= most {
		maps.DeleteFunc(t.channels, func(_ uint64, accepted bool) bool { return !accepted })
	}
	if t.channels == nil || len(t.channels) >= most {
		t.channels = make(map[uint64]bool)
	}
	t.channels[hashChannel(rawChannel(b.buf[headBytes:]))] = accepted
}

// asideWait returns when an event that was refused is tried again, if it is: after 1, 2 and 4 seconds, and one that
// the endpoint could not cope with (5xx) for as long as RetryFor.
func (e *endpoint) asideWait(b *batch, fault bool) (time.Duration, bool) {
	wait := min(time.Second<<min(b.aside.times-1, 30), e.shared.cfg.RetryWaitMax)
	if b.aside.times < asideTries {
		return wait, true
	}
	clock := &e.shared.schedule.clock
	return wait, fault && (clock.stopped() || clock.now().Sub(b.last)+wait <= e.shared.cfg.RetryFor)
}

// putAside puts an event into the lane of those that are set aside. If that is full the oldest is given up.
func (e *endpoint) putAside(b *batch, wait time.Duration, err error) (gone []loss) {
	l := e.lane(e.shared.asideLane())
	b.aside.due = time.Now().Add(wait)
	at, _ := slices.BinarySearchFunc(l.queue, b, func(one, other *batch) int {
		return one.aside.due.Compare(other.aside.due)
	})
	l.queue = slices.Insert(l.queue, at, b)
	if len(l.queue) > maxAside {
		free := slices.DeleteFunc(slices.Clone(l.queue), func(one *batch) bool { return one == b || l.inUse(one) })
		gone = l.lose(slices.MinFunc(free, func(one, other *batch) int { return one.last.Compare(other.last) }), err)
	}
	if l.state == filling {
		l.rest()
		e.dispatch(nil)
	}
	return gone
}

// refuseAll is called when so many events were refused by themselves, and nothing was accepted, that the endpoint
// probably refuses everything. They return to their place in order, and the endpoint is tried as if it were down.
func (e *endpoint) refuseAll(l *lane, err error) []loss {
	t := e.trouble
	from := e.lane(e.shared.asideLane())
	for other := range e.existing() {
		other.probes = 0
	}
	for _, b := range slices.Backward(t.row) {
		if !slices.Contains(from.queue, b) || from.inUse(b) { // also if it is nil
			continue
		}
		from.remove(b)
		home := e.lane(b.aside.lane)
		home.queue = slices.Insert(home.queue, 0, b)
		home.probes = 1 // with another channel than that of the row, if there is one
		home.due()
	}
	t.row, t.refusing = nil, true
	gone := e.fails(l, e.backOff(0), err)
	e.tidy()
	return gone
}

// candidate returns a single event to try at an endpoint that seems to refuse everything: the first of a channel, which
// can be accepted without that being out of order. Each attempt takes another channel, the likeliest first, because it may
// be some channels' events that are refused.
func (l *lane) candidate() *batch {
	firsts, _ := l.firsts()
	s := firsts[l.probes%len(firsts)]
	l.probes++
	return l.single(s.batch, s.at, s.before)
}

// A spot is where an event is in a batch, and how many are before it.
type spot struct {
	batch      *batch
	at, before int
}

// A chance is how likely it seems that a channel's event is accepted, by what came of the last one.
type chance int

const (
	unlikely chance = iota // refused
	unknown
	likely // accepted
)

func (t *trouble) chance(channel uint64) chance {
	accepted, known := t.channels[channel]
	switch {
	case !known:
		return unknown
	case accepted:
		return likely
	}
	return unlikely
}

// firsts returns the first event of each of the likeliest channels.
func (l *lane) firsts() (firsts []spot, best chance) {
	const most = 256 << 10 // bytes looked at
	seen, looked := make(map[uint64]bool), 0
	for _, b := range l.queue {
		at := headBytes
		if b.division != nil {
			at = b.division.at
		}
		for i := range b.events {
			end := eventEnd(b.buf, at)
			channel := hashChannel(rawChannel(b.buf[at:end]))
			if c := l.endpoint.trouble.chance(channel); !seen[channel] && c >= best {
				if c > best {
					firsts, best = nil, c
				}
				firsts = append(firsts, spot{b, at, i})
			}
			seen[channel] = true
			if looked += end - at; looked > most {
				return firsts, best
			}
			at = end + 1
		}
	}
	return firsts, best
}

// single takes the event at buf[at], of which n of the batch are before, out of a batch: it and what is before and
// behind it take the batch's place in the queue.
func (l *lane) single(b *batch, at, n int) *batch {
	e := l.endpoint
	if b.events == 1 && b.division == nil || !e.divisible(b) && b.division == nil {
		return b
	}
	start, last := headBytes, len(b.buf)-len(bodyEnd)
	if d := b.division; d != nil {
		start = d.at
		if d.part != nil {
			e.release(d.part.memory)
		}
	}
	end := eventEnd(b.buf, at)
	event := e.cut(b, at, end, n, 1)
	pieces := []*batch{event}
	if n > 0 {
		pieces = slices.Insert(pieces, 0, e.cut(b, start, at-1, 0, n))
	}
	if rest := b.events - n - 1; rest > 0 {
		pieces = append(pieces, e.cut(b, end+1, last, n+1, rest))
	}
	for _, piece := range pieces {
		piece.inherits(b)
	}
	i := slices.Index(l.queue, b)
	l.queue = slices.Replace(l.queue, i, i+1, pieces...)
	e.complete(b)
	return event
}
