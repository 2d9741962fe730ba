package channels

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pusherhooks/webhook"
)

// A transition is an event that has happened and is not emitted yet, in less space than a webhook.Event.
type transition struct {
	what    webhook.EventType
	channel *channel
	member  *member
	count   int
	note    *note
}

// A note is what only a few transitions have.
type note struct {
	event    string // of a client event, as the next two
	data     json.RawMessage
	socketID string

	flush *flush // of no event: it is told that everything before it was emitted
}

func (t *transition) event(node string) webhook.Event {
	e := webhook.Event{Type: t.what, Channel: t.channel.name(), SubscriptionCount: t.count, Node: node}
	if t.member != nil {
		e.UserID = t.member.node.key
	}
	if t.note != nil {
		e.Event, e.Data, e.SocketID = t.note.event, t.note.data, t.note.socketID
	}
	return e
}

// A line is where the transitions of a shard's channels wait for each other: one that enters while the line is held
// is emitted by whoever holds it, behind what is there. So a channel's events are emitted in the order in which they
// happened, although no lock is held then. The shard's lock guards it.
type line struct {
	held        bool
	first, last *block
	waiting     int // transitions
	data        int // bytes of client events among them
}

// A block has some of what waits: a line that is long is never copied with a lock held.
type block struct {
	transitions [16]transition
	n           int
	next        *block
}

func (l *line) add(t transition) {
	if l.last == nil {
		l.first = new(block)
		l.last = l.first
	} else if l.last.n == len(l.last.transitions) {
		l.last.next = new(block)
		l.last = l.last.next
	}
	l.last.transitions[l.last.n] = t
	l.last.n++
	l.waiting++
	if t.note != nil {
		l.data += len(t.note.data)
	}
}

// The bounds of a line, for an Emitter that takes its time. Beyond them new subscriptions and client events are refused,
// which loses nothing that was accepted; leaving never is.
const (
	maxWaiting = 1 << 17 // of 56 bytes each
	maxData    = 1 << 20
)

// full reports whether there is no room for another transition with so much data.
func (l *line) full(data int) bool {
	return l.waiting >= maxWaiting || data > 0 && l.data > 0 && l.data+data > maxData
}

var errSlow = fmt.Errorf("%w: the Emitter does not keep up with the app", webhook.ErrQueueFull)

// patience is how long a call goes on with what others have entered, behind its own. More than that is left to a
// goroutine, or a slow Emitter could keep one socket busy with the events of all others of its app.
const patience = 100 * time.Millisecond

// An emission is what one call has to emit: its own transitions, as far as the lines that they had to enter were free,
// and then what has entered these lines meanwhile. It lives on the caller's stack, so it must not point into itself.
type emission struct {
	app   *app
	few   [2]transition // the call's own: no change makes more, but Leave's
	fewer int           // how many of few were emitted
	n     int           // how many there are
	own   []transition  // Leave's
	taken *block        // from the line
	at    int           // the next in taken
	line  *shard        // whose line is held; nil if none
	lines []*shard      // the others, if Leave holds several
}

// begin prepares an emission of changes on n channels.
func (e *emission) begin(a *app, n int) {
	e.app = a
	if n > 1 { // nothing is allocated while a lock is held
		e.own, e.lines = make([]transition, 0, 2*n), make([]*shard, 0, min(n, len(a.shards)))
	}
}

// enter puts a transition into its shard's line. The shard's lock is held.
func (e *emission) enter(sh *shard, t transition) {
	l := &sh.line
	switch {
	case !l.held:
		l.held = true
		e.hold(sh)
	case l.waiting > 0 || e.line != sh && !slices.Contains(e.lines, sh):
		l.add(t)
		return
	}
	if e.own != nil {
		e.own = append(e.own, t)
	} else {
		e.few[e.n] = t
		e.n++
	}
}

func (e *emission) hold(sh *shard) {
	if e.line == nil {
		e.line = sh
	} else {
		e.lines = append(e.lines, sh)
	}
}

// run emits, with no lock held. If time is up, or user code ends the goroutine, another one goes on: a line that is held
// is always somebody's.
func (e *emission) run(limit time.Duration) {
	if e.line == nil {
		return
	}
	done := false
	defer func() {
		if !done {
			rest := *e
			go rest.run(0)
		}
	}()
	done = e.emit(limit)
}

// emit reports whether all is done. Without a limit it always is.
func (e *emission) emit(limit time.Duration) bool {
	for e.fewer < e.n {
		e.fewer++ // before, so that no fault of user code has it emitted twice
		e.app.tell(&e.few[e.fewer-1])
	}
	for len(e.own) > 0 {
		t := e.own[0]
		e.own = e.own[1:]
		e.app.tell(&t)
	}
	var began time.Time
	for e.line != nil {
		for e.taken != nil {
			if limit > 0 && time.Since(began) > limit {
				return false
			}
			t := e.next()
			e.app.tell(&t)
		}
		if !e.take() {
			e.letGo()
		} else if limit > 0 && began.IsZero() {
			began = time.Now()
		}
	}
	e.app.retire()
	return true
}

// next takes out the first transition of those that were taken.
func (e *emission) next() transition {
	t := e.taken.transitions[e.at]
	if e.at++; e.at == e.taken.n {
		e.taken, e.at = e.taken.next, 0
	}
	return t
}

// take takes what waits in the line that is held, or frees the line if nothing does.
func (e *emission) take() bool {
	e.line.mu.Lock()
	defer e.line.mu.Unlock()
	l := &e.line.line
	e.taken = l.first
	*l = line{held: e.taken != nil}
	return l.held
}

// letGo goes on to the next line.
func (e *emission) letGo() {
	e.line = nil
	if len(e.lines) > 0 {
		e.line, e.lines = e.lines[0], e.lines[1:]
	}
}

// tell emits one transition, and tells Rejected if the Emitter refuses it.
func (a *app) tell(t *transition) {
	if t.note != nil && t.note.flush != nil {
		t.note.flush.done()
		return
	}
	e := t.event(a.tracker.node)
	if err := a.emit(e); err != nil {
		a.reject(e, err)
	}
}

func (a *app) emit(e webhook.Event) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("channels: panic in the Emitter: %v", v)
		}
	}()
	return a.tracker.out.Emit(a.id, e)
}

// wants asks the Emitter. One that panics gets to see the event.
func (a *app) wants(what webhook.EventType, channel string) (wanted bool) {
	defer func() {
		if recover() != nil {
			wanted = true
		}
	}()
	return a.tracker.out.Wants(a.id, what, channel)
}

func (a *app) reject(e webhook.Event, err error) {
	if a.tracker.rejected != nil {
		defer func() { _ = recover() }()
		a.tracker.rejected(a.id, e, err)
	}
}

// A flush waits until what was in the lines has been emitted.
type flush struct {
	pending atomic.Int64 // and one for whoever marks lines
	over    chan struct{}
}

func newFlush() *flush {
	f := &flush{over: make(chan struct{})}
	f.pending.Store(1)
	return f
}

func (f *flush) done() {
	if f.pending.Add(-1) == 0 {
		close(f.over)
	}
}

// mark puts f at the end of each of an app's lines that is held.
func (f *flush) mark(a *app) {
	for i := range a.shards {
		sh := &a.shards[i]
		sh.mu.Lock()
		if sh.line.held {
			f.pending.Add(1)
			sh.line.add(transition{note: &note{flush: f}})
		}
		sh.mu.Unlock()
	}
}
