package webhook

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An endpointKey is what makes two webhooks the same endpoint. A struct, never a joined string, so that no app
// can name its way into another's batches.
type endpointKey struct {
	app    string
	url    string
	header string // see canonicalHeader
}

// An endpoint is one URL of one app with one set of headers, and what waits to be sent there.
//
// There is one endpoint per key: the dispatcher's table holds it while a webhook leads to it or something is
// pending. Once it is out of the table it is retired and takes no more events.
type endpoint struct {
	shared  *shared
	account *account
	key     endpointKey
	header  http.Header            // the app's own headers; never written to
	known   atomic.Pointer[string] // see keptID

	prev, next *endpoint // of the app's in the table, guarded by account.mu

	mu          sync.Mutex
	configured  bool   // a webhook leads here
	retired     bool   // out of the dispatcher's table
	closed      bool   // the dispatcher is closing
	answers     class  // how it answered last
	epoch       uint32 // counts the back-offs that began or ended
	headerBytes int32  // of the app's own
	maxBody     int32  // less than MaxBatchBytes after a 413, else 0
	deliveries  int32  // accepted since maxBody was changed
	working     int32  // lanes that are in an app's line or sending
	active      int32  // lanes that exist
	pending     int    // events
	bytes       int64  // memory of all lanes, in flight included
	lastSuccess time.Time
	lanes       []*lane         // by index, nil where nothing is pending; nil while none is
	telling     map[*batch]bool // have ended, and somebody is being told
	ready       []*lane         // that have something to send and wait for their turn, or for the endpoint
	trouble     *trouble        // nil while everything is accepted
}

// What endpoints share.
type shared struct {
	cfg      Config // with its defaults
	schedule schedule
	retire   func(*endpoint)

	ctx    context.Context // of every Send
	cancel context.CancelFunc

	bytes  atomic.Int64 // memory of all that is pending
	active atomic.Int64 // endpoints with something pending

	delivered, undelivered, dropped, requests atomic.Uint64

	unsettled atomic.Int64 // losses that Hooks.GivenUp has not settled; 0 without that hook

	settling count   // batches between a queue and the wire, or between a queue and Close's result
	closing  closing // see close.go
}

// A lane sends one request at a time, so the events of its channels arrive in the order they were emitted. It exists
// while something is pending on it. All of its fields are guarded by endpoint.mu, but for those that the goroutine
// which sends has to itself.
type lane struct {
	endpoint *endpoint
	index    int32
	state    laneState
	epoch    uint32      // the endpoint's, when the request left
	open     *batch      // the newest, still filling
	queue    []*batch    // closed, in order
	current  *batch      // on the wire: one of the queue, or a part of one
	timer    *time.Timer // ends the open batch's window or, while a request is on the wire, looks whether it hangs
	probes   int         // so far, while the endpoint refuses everything
	hint     int         // room for the next batch, by the size of the last
	memory   int64       // what the lane itself was charged
	spares   []*batch    // delivered, to be filled again
	place    place       // on the wire; guarded by schedule.mu

	signer signer
	base   context.Context // with noted; made at the first request
	ctx    context.Context // of the request on the wire
	cancel context.CancelFunc
	noted  noted // of its answer, if the Sender tells

	recalled bool          // Hold or Drop has cancelled the request on the wire
	ended    chan struct{} // see over; nil: nobody waits
}

type laneState int8

const (
	filling laneState = iota // nothing to send before the timer fires, or nothing at all
	ready                    // something to send: in endpoint.ready
	inLine                   // waits for a place on the wire, in the line of its app
	sending                  // a goroutine in run owns it
)

// A batch is the body of one request in the making. Nothing writes to its events once it is closed.
type batch struct {
	buf      []byte // see body.go
	events   int
	opened   time.Time // when its first event was accepted
	last     time.Time // when its last event happened, or was accepted, or a little later, by the clock of the schedule
	memory   int64     // what it was charged
	delivery *Delivery // once it has left, or from the start if it was stored
	flush    *flush    // that waits for it
	origin   *origin   // what its events have brought along; nil: nothing
	parent   *batch    // of a part
	division *division // of a batch that is sent in parts
	aside    *aside    // of an event that was refused

	sends     int32 // so far
	arrived   bool  // accepted
	lost      bool  // given up: it is the caller's
	abandoned bool  // Close has handed it back meanwhile
	doomed    error // why it is given up unless it arrives: Purge or Drop was called
}

// An origin is what events of a batch have brought along, for those that did.
type origin struct {
	tickets []*Ticket // one for each event or none at all; some may be nil
	created time.Time // when the first event happened, if it says
	undated bool      // not all say
}

// An entry is an event on its way into a batch.
type entry struct {
	json   []byte
	at     time.Time     // when it happened; zero: now
	stood  time.Duration // how long the clock had stood when it was emitted; only where at is set
	ticket *Ticket       // may be nil
}

const (
	minBuffer   = 512 // a batch's first buffer, where batching is on
	batchBytes  = 176 // what a batch takes beside its body and the app's headers
	laneBytes   = 512 // what a lane takes, with its timer
	keepBytes   = batchBytes + laneBytes
	storedBytes = 512 // what a stored delivery takes beside its header
	maxSpares   = 8   // of a lane: a Sender that falls behind for a moment costs no new buffers
)

// errRetired is append's answer on an endpoint that has left the table: the caller has to look up the key.
var errRetired = errors.New("webhook: endpoint retired")

// encryptedPrefix is what the names of encrypted channels start with. Several of Pusher's libraries refuse a whole
// webhook for one of them, so they have a lane of their own.
const encryptedPrefix = "private-encrypted-"

// laneOf returns the index of the lane that an event belongs to.
func (s *shared) laneOf(channel string, event []byte) int {
	switch n := s.cfg.MaxInFlight; {
	case s.cfg.MaxBatchEvents > 1 && strings.HasPrefix(channel, encryptedPrefix):
		return n
	case n == 1:
		return 0
	default:
		return int(hashChannel(rawChannel(event)) % uint64(n))
	}
}

// asideLane is the index of the lane of events that were set aside. It is the last.
func (s *shared) asideLane() int { return s.cfg.MaxInFlight + 1 }

// append puts an event at the end of a lane. Whether it is accepted or refused as closed is decided under the lock
// that Close takes as well, so nothing is accepted that Close does not see. With force it is accepted even above the
// limits.
func (e *endpoint) append(event *entry, lane int, force bool) error {
	e.mu.Lock()
	l, err := e.enter(lane)
	if err == nil {
		if err = l.append(event, force); err != nil {
			e.drop(l)
		} else {
			e.pending++
			e.account.count.queued.Add(1) // under the lock: an event is never delivered before it is queued
		}
	}
	e.mu.Unlock()
	return err
}

// redeliver queues a stored batch behind everything that waits on a lane. It takes no more memory than b.memory.
func (e *endpoint) redeliver(b *batch, lane int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, err := e.enter(lane)
	if err != nil {
		return err
	}
	need := b.memory + laneBytes - l.memory
	if _, err := e.charge(need, need); err != nil {
		e.drop(l)
		return err
	}
	l.memory = laneBytes
	l.close()
	l.queue = append(l.queue, b)
	e.pending += b.events
	e.account.count.queued.Add(uint64(b.events))
	l.due()
	return nil
}

// enter returns a lane for the caller to put something on, or to drop.
func (e *endpoint) enter(lane int) (*lane, error) {
	switch {
	case e.retired:
		return nil, errRetired
	case e.closed:
		return nil, ErrClosed
	}
	return e.lane(lane), nil
}

func (e *endpoint) lane(i int) *lane {
	if e.lanes == nil {
		e.lanes = make([]*lane, e.shared.asideLane()+1)
		e.shared.active.Add(1)
	}
	if e.lanes[i] == nil {
		e.lanes[i] = &lane{endpoint: e, index: int32(i)}
		e.active++
	}
	return e.lanes[i]
}

// drop frees a lane on which nothing is pending, and with the last one what the endpoint holds.
func (e *endpoint) drop(l *lane) {
	if l.state != filling || l.open != nil || len(l.queue) > 0 || e.lanes == nil || e.lanes[l.index] != l {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	l.free()
	e.lanes[l.index] = nil
	if e.active--; e.active == 0 {
		e.lanes, e.ready = nil, nil
		if len(e.telling) == 0 {
			e.telling = nil
		}
		if e.closed {
			e.rest()
		}
		if e.trouble != nil && e.trouble.over(&e.shared.cfg) {
			e.trouble = nil
		}
		e.shared.ended()
	}
}

// free releases what a lane holds for itself.
func (l *lane) free() {
	for _, b := range l.spares {
		l.endpoint.release(b.memory)
	}
	l.endpoint.release(l.memory)
	l.spares, l.memory = nil, 0
}

// charge takes memory out of the endpoint's share and of the app's: as much as there is, up to want. If that is
// less than need it takes nothing and fails.
func (e *endpoint) charge(need, want int64) (granted int64, err error) {
	own := e.shared.cfg.MaxEndpointQueuedBytes - e.bytes
	if own < need {
		return 0, errEndpointFull
	}
	if granted = e.shared.charge(e.account, need, min(want, own)); granted == 0 {
		return 0, errDispatcherFull
	}
	e.bytes += granted
	return granted, nil
}

// batchBytes is what a batch takes beside its body: each delivery has a header of its own.
func (e *endpoint) batchBytes() int { return batchBytes + int(e.headerBytes) }

// chargeAnyway is charge for what was accepted already.
func (e *endpoint) chargeAnyway(memory int64) {
	e.bytes += memory
	e.shared.chargeAnyway(e.account, memory)
}

func (e *endpoint) release(memory int64) { e.chargeAnyway(-memory) }

// maxBytes is how large a body of the endpoint may be.
func (e *endpoint) maxBytes() int {
	if e.maxBody > 0 {
		return int(e.maxBody)
	}
	return e.shared.cfg.MaxBatchBytes
}

// append puts an event into the open batch and closes the batch when that makes it full.
func (l *lane) append(event *entry, force bool) error {
	if l.open != nil && len(l.open.buf)+1+len(event.json)+len(bodyEnd) > l.endpoint.maxBytes() {
		l.close()
		l.due()
	}
	b := l.open
	if b == nil {
		b = l.fresh()
	}
	if err := l.reserve(b, event, force); err != nil {
		if l.open == nil && b.memory > 0 {
			l.spares = append(l.spares, b)
		}
		return err
	}
	if l.open == nil {
		l.begin(b)
	}
	b.add(event)
	if b.events == l.endpoint.shared.cfg.MaxBatchEvents {
		l.close()
		l.due()
	}
	return nil
}

// add writes an event for which there is room.
func (b *batch) add(event *entry) {
	if b.origin != nil || event.ticket != nil || !event.at.IsZero() {
		b.note(event)
	}
	if b.events > 0 {
		b.buf = append(b.buf, ',')
	}
	b.buf = append(b.buf, event.json...)
	b.events++
}

// note notes what an event that is about to be added brings along.
func (b *batch) note(event *entry) {
	if b.origin == nil {
		b.origin = &origin{undated: b.events > 0}
	}
	b.addTicket(event.ticket)
	at := event.at.Add(-event.stood)
	switch {
	case event.at.IsZero():
		b.origin.undated = true
	case b.events == 0 || at.After(b.last):
		b.last = at
	}
	if b.events == 0 {
		b.origin.created = event.at
	}
}

// createdAt is when the batch's first event happened.
func (b *batch) createdAt() time.Time {
	if b.origin == nil || b.origin.created.IsZero() {
		return b.opened
	}
	return b.origin.created
}

// dated reports whether all events of the batch say when they happened. Then b.last is the latest of these.
func (b *batch) dated() bool { return b.origin != nil && !b.origin.undated }

// fresh returns an empty batch, if there is one with a buffer.
func (l *lane) fresh() *batch {
	last := len(l.spares) - 1
	if last < 0 {
		return &batch{}
	}
	b := l.spares[last]
	l.spares[last] = nil
	l.spares = l.spares[:last]
	return b
}

// begin makes b the open batch and starts its window, unless the lane looks at the time by itself when its request
// is done.
func (l *lane) begin(b *batch) {
	l.open = b
	b.opened = time.Now() // once a batch: the clock costs as much as an event
	b.last = b.opened.Add(-l.endpoint.shared.schedule.clock.stood())
	if cfg := &l.endpoint.shared.cfg; cfg.MaxBatchEvents > 1 && l.state == filling {
		l.arm(cfg.BatchWindow)
	}
}

// reserve makes room in b for an event and all that surrounds it. Memory is charged as it is
// allocated, a few times a batch, so that the limits bound the heap itself. Near a limit a batch grows by all
// that is left, not event by event.
func (l *lane) reserve(b *batch, event *entry, force bool) error {
	size, overhead := cap(b.buf), 0
	if event.ticket != nil {
		overhead = ticketBytes
	}
	need := max(len(b.buf), headBytes) + 1 + len(event.json) + len(bodyEnd)
	if need <= size && overhead == 0 {
		b.buf = b.buf[:max(len(b.buf), headBytes)]
		return nil
	}
	if size == 0 {
		overhead += l.endpoint.batchBytes()
	}
	need = max(need, size)
	lane := laneBytes - l.memory
	want := need
	if cfg := &l.endpoint.shared.cfg; cfg.MaxBatchEvents > 1 && need > size {
		want = max(need, min(max(2*size, l.hint, minBuffer), cfg.MaxBatchBytes))
	}
	granted, err := l.endpoint.charge(int64(need-size+overhead)+lane, int64(want-size+overhead)+lane)
	if err != nil && !force {
		return err
	} else if err != nil {
		granted = int64(need-size+overhead) + lane
		l.endpoint.chargeAnyway(granted)
	}
	l.memory += lane
	granted -= lane
	b.memory += granted
	if need == size { // the ticket alone takes some
		b.buf = b.buf[:max(len(b.buf), headBytes)]
		return nil
	}
	grown := make([]byte, max(len(b.buf), headBytes), size+int(granted)-overhead)
	copy(grown, b.buf)
	b.buf = grown
	return nil
}

// close completes the open batch, if there is one, and puts it at the end of the queue.
func (l *lane) close() {
	b := l.open
	if b == nil {
		return
	}
	l.open = nil
	b.buf = append(b.buf, bodyEnd...)
	if b.events > 1 && !b.dated() {
		b.last = l.endpoint.shared.schedule.clock.now() // of one event at least: the clock is too slow to ask it for each
	}
	l.hint = len(b.buf) + len(b.buf)/8
	l.queue = append(l.queue, b)
	if n := len(l.spares) - 1; n >= 0 && !l.fits(l.spares[n]) { // traffic has become smaller
		l.endpoint.release(l.spares[n].memory)
		l.spares = l.spares[:n]
	}
}

// fits reports whether a batch's buffer is worth keeping for the next one.
func (l *lane) fits(b *batch) bool { return cap(b.buf) <= max(minBuffer, 2*l.hint) }

// remove takes a batch out of the queue.
func (l *lane) remove(b *batch) {
	if len(l.queue) > 0 && l.queue[0] == b {
		l.queue[0] = nil
		l.queue = l.queue[1:]
		return
	}
	if i := slices.Index(l.queue, b); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
}

// due makes the lane ready to send, if it is not already.
func (l *lane) due() {
	if l.state != filling {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	l.state = ready
	l.endpoint.ready = append(l.endpoint.ready, l)
	l.endpoint.dispatch(nil)
}

// rest is called when a lane may have nothing more to do at the moment: it becomes due, waits or goes.
func (l *lane) rest() {
	l.state = filling
	wait, something := l.wait()
	switch {
	case !something:
		l.endpoint.drop(l)
	case wait <= 0:
		l.state = ready
		l.endpoint.ready = append(l.endpoint.ready, l)
	default:
		l.arm(wait)
	}
}

// wait returns how long it takes until the lane has something to send, if it will have anything.
func (l *lane) wait() (time.Duration, bool) {
	switch {
	case len(l.queue) > 0 && int(l.index) == l.endpoint.shared.asideLane():
		return time.Until(l.queue[0].aside.due), true
	case len(l.queue) > 0 || l.open != nil && l.endpoint.closed:
		return 0, true
	case l.open != nil:
		return l.endpoint.shared.cfg.BatchWindow - time.Since(l.open.opened), true
	}
	return 0, false
}

func (l *lane) arm(wait time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.wake)
	} else {
		l.timer.Reset(wait)
	}
}

// wake is the timer's function. A timer that is stopped or reset a moment too late runs it for nothing: it only
// looks at how things are.
func (l *lane) wake() {
	e := l.endpoint
	e.mu.Lock()
	var gone []loss
	switch l.state {
	case filling:
		l.rest()
		e.dispatch(nil)
	case sending:
		gone = l.overdue()
	}
	e.mu.Unlock()
	e.settle(gone)
	e.report(gone)
	e.tell()
	e.shared.retire(e)
}

// finish is called when an attempt has been made and everybody was told of it; b is nil if there was none to make.
// It reports whether the caller has a place on the wire for the next one. returned says that there is a goroutine
// to go on.
func (l *lane) finish(b *batch, returned bool) (again bool) {
	e := l.endpoint
	e.mu.Lock()
	if l.ended != nil {
		defer close(l.ended)
		l.ended = nil
	}
	if b != nil && b.arrived {
		defer l.done(b)()
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	if t := e.trouble; t != nil {
		l.timer, l.signer = nil, signer{} // it may wait for long
		if t.probe == l {
			t.probe = nil
		}
	}
	l.ctx, l.cancel = nil, nil
	e.working--
	l.rest()
	if !returned {
		e.dispatch(nil)
	} else {
		again = e.dispatch(l)
	}
	e.mu.Unlock()
	if !again {
		e.shared.retire(e)
	}
	return again
}

// done is for a batch that has arrived, when everybody was told. Nobody can read it any more (see Delivery), so its
// memory serves the next one. It never leaves its lane: not even a mistake could show one tenant's events to another.
// What it returns tells the flushes, when endpoint.mu is not held any more.
func (l *lane) done(b *batch) (tell func()) {
	e := l.endpoint
	ended, tickets := [2]*flush{e.told(b)}, b.tickets()
	if parent := b.parent; parent != nil && parent.events == 0 {
		ended[1] = e.told(parent)
		e.release(parent.memory)
	}
	l.keep(b)
	return func() {
		e.endTickets(tickets)
		ended[0].ended()
		ended[1].ended()
	}
}

// keep keeps a batch's memory for the next one of the lane, if that is worth it.
func (l *lane) keep(b *batch) {
	e := l.endpoint
	if b.parent != nil || b.delivery.by == nil || len(l.spares) == maxSpares || !l.fits(b) {
		e.release(b.memory)
		return
	}
	if raceEnabled { // whoever reads it all the same finds out
		overwrite(b.buf[:cap(b.buf)])
	}
	d := b.delivery
	d.ID, d.Body, d.by = "", nil, nil
	tickets := int64(ticketBytes * len(b.tickets()))
	e.release(tickets)
	*b = batch{buf: b.buf[:0], memory: b.memory - tickets, delivery: d}
	l.spares = append(l.spares, b)
}

// tells is for a batch that has ended, until everybody knows.
func (e *endpoint) tells(b *batch) {
	if e.telling == nil {
		e.telling = make(map[*batch]bool)
	}
	e.telling[b] = true
}

// told is for a batch that has ended, when everybody knows. It returns the flush that waits for it.
func (e *endpoint) told(b *batch) *flush {
	delete(e.telling, b)
	return b.flush
}

func overwrite(buf []byte) {
	for i := range buf {
		buf[i] = '!'
	}
}

// A flush waits until a number of batches have ended.
type flush struct {
	left atomic.Int64 // batches, and one for whoever is still adding them
	done chan struct{}
}

func newFlush() *flush {
	f := &flush{done: make(chan struct{})}
	f.left.Store(1)
	return f
}

func (f *flush) over() bool { return f.left.Load() == 0 }

// add has f wait for a batch, unless an earlier flush does already.
func (f *flush) add(b *batch) {
	if b.flush == nil {
		b.flush = f
		f.left.Add(1)
	}
}

// ended tells f, which may be nil, that one of its batches has ended.
func (f *flush) ended() {
	if f != nil && f.left.Add(-1) == 0 {
		close(f.done)
	}
}

// flush closes the open batches and has f wait for everything that is pending.
func (e *endpoint) flush(f *flush) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for b := range e.telling {
		f.add(b)
	}
	for l := range e.existing() {
		if l.open != nil {
			l.close()
			l.due()
		}
		for _, b := range l.queue {
			f.add(b)
		}
	}
}

// existing yields the endpoint's lanes. The loop may end some of them.
func (e *endpoint) existing() iter.Seq[*lane] {
	return func(yield func(*lane) bool) {
		for _, l := range e.lanes {
			if l != nil && !yield(l) {
				return
			}
		}
	}
}
