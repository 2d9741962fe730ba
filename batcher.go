package webhook

import (
	"crypto/rand"
	"errors"
	"maps"
	"net/http"
	"strconv"
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
	d      *Dispatcher
	key    endpointKey
	header http.Header // the app's own headers; never written to
	health health      // how the last attempt went

	mu         sync.Mutex
	app        credentials // what batches are signed with when they leave; SetApp changes it
	configured bool        // a webhook leads here
	retired    bool        // out of the dispatcher's table
	closed     bool        // the dispatcher is closing
	lanes      []*lane     // by hash of the channel; nil where nothing is pending
	active     int         // lanes that are not nil
	bytes      int64       // memory held by all lanes, in flight included
}

type credentials struct {
	key    string
	secret Secret
}

// A lane sends one request at a time, so the events of its channels arrive in the order they were emitted. All
// of its fields are guarded by endpoint.mu.
//
// A lane exists while something is pending on it, and is in one of two states:
//
//   - sending: a goroutine in run owns it and takes batch after batch. Events go on filling the open batch.
//   - waiting: no goroutine. The queue is empty, the open batch is not, and the timer ends its window.
type lane struct {
	endpoint *endpoint
	index    int // in endpoint.lanes
	sending  bool
	inFlight *batch      // taken by run, not ended yet
	queue    []*batch    // closed, in order
	open     *batch      // the newest, still filling
	timer    *time.Timer // ends the open batch's window; nil until first needed
	hint     int         // room for the next batch, by the size of the last
	spare    buffer      // of a batch that was delivered, for the next one
}

// A buffer holds the events of a batch, and has been charged for.
type buffer struct {
	bytes  []byte
	memory int64 // what it was charged, see endpoint.charge
}

// A batch is the body of one request in the making. Nothing writes to its body once the batch is closed. When
// it has been delivered the lane may fill the same buffer again, but only if the Sender is known to have let go
// of it (see Dispatcher.send). Buffers never leave their lane, so not even a mistake could show one tenant's
// events to another.
type batch struct {
	body     []byte
	events   int
	opened   time.Time // when its first event came
	memory   int64     // what it was charged
	delivery *Delivery // once it is sent, or from the start if it was redelivered
	ahead    *signing  // if it is signed before its turn, see lane.signAhead
	flushes  []*flush  // waiting for this batch to end

	ending    bool // the Sender has returned, its result is being told
	abandoned bool // Close has handed it back meanwhile
}

// A batch's envelope. Its time, in milliseconds, has at most 20 digits.
const (
	batchStart    = `{"time_ms":`
	batchEvents   = `,"events":[`
	batchEnd      = `]}`
	envelopeBytes = len(batchStart) + 20 + len(batchEvents) + len(batchEnd)
)

const (
	minBuffer     = 512 // a batch's first buffer, where batching is on
	batchOverhead = 160 // a batch beside its body: the struct and its place in the queue
)

// errRetired is append's answer on an endpoint that has left the table: the caller has to look up the key.
var errRetired = errors.New("webhook: endpoint retired")

func newEndpoint(d *Dispatcher, key endpointKey, header http.Header) *endpoint {
	return &endpoint{d: d, key: key, header: header, lanes: make([]*lane, d.cfg.MaxInFlight)}
}

// append puts an event at the end of its channel's lane. Whether it is accepted or refused as closed is decided
// under the lock that Close takes as well, so nothing is accepted that Close does not see.
func (e *endpoint) append(event *Event, p payload, queued *atomic.Uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.retired:
		return errRetired
	case e.closed:
		return ErrClosed
	}
	l := e.lane(event.Channel)
	if err := l.append(event, p); err != nil {
		e.drop(l)
		return err
	}
	queued.Add(1) // before the lock is released: an event is never delivered before it is queued
	return nil
}

// redeliver queues a batch that is signed already, behind everything that waits on its first channel's lane.
func (e *endpoint) redeliver(d *Delivery, queued *atomic.Uint64) error {
	channel := ""
	if len(e.lanes) > 1 {
		channel = firstChannel(d.Body)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.retired:
		return errRetired
	case e.closed:
		return ErrClosed
	}
	memory := int64(len(d.Body) + batchOverhead)
	if _, err := e.charge(memory, memory); err != nil {
		return err
	}
	l := e.lane(channel)
	if l.open != nil {
		l.close()
	}
	l.queue = append(l.queue, &batch{events: d.Events, memory: memory, delivery: d})
	l.start()
	queued.Add(uint64(d.Events))
	return nil
}

// lane returns the channel's lane, which may be new and empty: the caller fills it or drops it.
func (e *endpoint) lane(channel string) *lane {
	i := 0
	if n := uint64(len(e.lanes)); n > 1 {
		i = int(hashChannel(channel) % n)
	}
	if e.lanes[i] == nil {
		e.lanes[i] = &lane{endpoint: e, index: i}
		if e.active++; e.active == 1 {
			e.d.active.Add(1)
		}
	}
	return e.lanes[i]
}

// hashChannel is FNV-1a: the same in every process, so that batches which another process has stored go to the
// lane that they came from. An app that makes its channels collide slows down nobody else.
func hashChannel(channel string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(channel) {
		h = (h ^ uint64(channel[i])) * 1099511628211
	}
	return h
}

// drop frees a lane on which nothing is pending.
func (e *endpoint) drop(l *lane) {
	if l.sending || l.open != nil || len(l.queue) > 0 || e.lanes[l.index] != l {
		return
	}
	e.lanes[l.index] = nil
	e.release(l.spare.memory)
	l.spare = buffer{}
	if e.active--; e.active == 0 {
		e.d.active.Add(-1)
	}
}

// charge takes memory out of the endpoint's share and of the dispatcher's: as much as there is, up to want. If
// that is less than need it takes nothing and fails.
func (e *endpoint) charge(need, want int64) (granted int64, err error) {
	d := e.d
	own := d.cfg.MaxEndpointQueuedBytes - e.bytes
	if own < need {
		return 0, errEndpointFull
	}
	if granted = d.charge(need, min(want, own)); granted == 0 {
		return 0, errDispatcherFull
	}
	e.bytes += granted
	return granted, nil
}

// charge takes memory out of the whole: as much as there is, from need to want, or nothing.
func (d *Dispatcher) charge(need, want int64) (granted int64) {
	for {
		held := d.bytes.Load()
		granted = min(want, d.cfg.MaxQueuedBytes-held)
		if granted < need {
			return 0
		}
		if d.bytes.CompareAndSwap(held, held+granted) {
			return granted
		}
	}
}

func (e *endpoint) release(memory int64) {
	e.bytes -= memory
	e.d.bytes.Add(-memory)
}

// flush closes the open batches and has f wait for everything that is pending.
func (e *endpoint) flush(f *flush) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lanes {
		if l == nil {
			continue
		}
		if l.open != nil {
			l.close()
		}
		last := l.inFlight
		if n := len(l.queue); n > 0 {
			last = l.queue[n-1] // a lane's batches end in order: the last one stands for all
		}
		if last != nil && !last.abandoned {
			last.flushes = append(last.flushes, f)
			f.left.Add(1)
		}
	}
}

// close refuses events from now on and sends what is pending without waiting for its window.
func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for _, l := range e.lanes {
		if l != nil && l.open != nil {
			l.close()
		}
	}
}

// abandon takes every pending batch away from the lanes, in order, in flight included. A Send that still runs
// finds its batch taken and counts for nothing.
func (e *endpoint) abandon() []*batch {
	e.mu.Lock()
	defer e.mu.Unlock()
	var left []*batch
	for _, l := range e.lanes {
		if l == nil {
			continue
		}
		if l.inFlight != nil && !l.inFlight.ending {
			l.inFlight.abandoned = true
			left = append(left, l.inFlight)
		}
		left = append(left, l.queue...)
		l.queue = nil
		e.drop(l)
	}
	for _, b := range left {
		e.release(b.memory)
	}
	return left
}

// append puts an event into the open batch and closes the batch when that makes it full.
func (l *lane) append(event *Event, p payload) error {
	cfg := &l.endpoint.d.cfg
	if l.open != nil && len(l.open.body)+1+p.size+len(batchEnd) > cfg.MaxBatchBytes {
		l.close()
	}
	b := l.open
	if b == nil {
		b = &batch{body: l.spare.bytes, memory: l.spare.memory}
		l.spare = buffer{}
	}
	if err := l.reserve(b, p.size); err != nil {
		if l.open == nil {
			l.spare = buffer{b.body, b.memory}
		}
		return err
	}
	if l.open == nil {
		l.begin(b)
	}
	b.append(event, p)
	if b.events++; b.events == cfg.MaxBatchEvents {
		l.close()
	}
	return nil
}

// begin makes b the open batch and starts its window. While the lane is sending no timer runs: next looks at
// the time when the request is done.
func (l *lane) begin(b *batch) {
	b.begin()
	l.open = b
	if cfg := &l.endpoint.d.cfg; !l.sending && cfg.MaxBatchEvents > 1 {
		l.arm(cfg.BatchWindow)
	}
}

// begin writes what comes before the first event.
func (b *batch) begin() {
	b.opened = time.Now() // once a batch: the clock costs as much as an event
	b.body = append(b.body, batchStart...)
	b.body = strconv.AppendInt(b.body, b.opened.UnixMilli(), 10)
	b.body = append(b.body, batchEvents...)
}

// append writes an event. There is room for it, so the body stays where it is, and only its length is set: a
// pointer that is stored costs a write barrier while the garbage collector runs.
func (b *batch) append(event *Event, p payload) {
	body := b.body
	if b.events > 0 {
		body = append(body, ',')
	}
	body = p.append(body, event)
	b.body = b.body[:len(body)]
}

// single makes a delivery of one event, outside of any lane.
func (e *endpoint) single(event *Event, p payload) *Delivery {
	e.mu.Lock()
	app := e.app
	e.mu.Unlock()
	b := &batch{events: 1}
	b.begin()
	b.body = append(p.append(b.body, event), batchEnd...)
	var s endpointSigner
	return s.delivery(e, app, b)
}

// reserve makes room in b for an event of n bytes and all that surrounds it. Memory is charged as it is
// allocated, a few times a batch, so that the limits bound the heap itself. Near a limit a batch grows by all
// that is left, not event by event.
func (l *lane) reserve(b *batch, n int) error {
	size := cap(b.body)
	need, overhead := len(b.body)+1+n+len(batchEnd), 0
	if len(b.body) == 0 {
		need = envelopeBytes + n
	}
	if size == 0 {
		overhead = batchOverhead
	}
	if need <= size {
		return nil
	}
	want := need
	if cfg := &l.endpoint.d.cfg; cfg.MaxBatchEvents > 1 {
		want = max(need, min(max(2*size, l.hint, minBuffer), cfg.MaxBatchBytes))
	}
	granted, err := l.endpoint.charge(int64(need-size+overhead), int64(want-size+overhead))
	if err != nil {
		return err
	}
	b.memory += granted
	b.body = append(make([]byte, 0, size+int(granted)-overhead), b.body...)
	return nil
}

// close completes the open batch and puts it at the end of the queue.
func (l *lane) close() {
	b := l.open
	l.open = nil
	b.body = append(b.body, batchEnd...)
	l.hint = len(b.body) + len(b.body)/8
	l.queue = append(l.queue, b)
	l.start()
	l.signAhead()
}

// start has a goroutine send the queue, if none does.
func (l *lane) start() {
	if !l.sending {
		l.own()
		go l.run()
	}
}

// own marks the lane as sending. The caller calls run.
func (l *lane) own() {
	l.sending = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.endpoint.d.running.Add(1) // before closed is set or by Close itself, so never during running.Wait
}

func (l *lane) arm(wait time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.windowEnded)
	} else {
		l.timer.Reset(wait)
	}
}

// windowEnded is the timer's function. A timer that is stopped or reset a moment too late runs it for a batch
// that is gone: then the lane is sending or empty, or a younger batch leaves before its window has ended.
func (l *lane) windowEnded() {
	e := l.endpoint
	e.mu.Lock()
	if l.sending || l.open == nil {
		e.mu.Unlock()
		return
	}
	l.own()
	e.mu.Unlock()
	l.run()
}

func (l *lane) windowLeft() time.Duration {
	return l.endpoint.d.cfg.BatchWindow - time.Since(l.open.opened)
}

// run owns the lane and sends batch after batch until nothing is due.
func (l *lane) run() {
	e := l.endpoint
	defer e.d.running.Done()
	var s endpointSigner
	for b, app := l.next(); b != nil; b, app = l.next() {
		delivery := s.delivery(e, app, b)
		if l.sent(b, delivery) {
			started := time.Now()
			reusable, err := e.d.send(delivery)
			l.end(b, time.Since(started), reusable, err)
		}
	}
	e.d.retire(e)
}

// next takes the batch to send now, and what to sign it with. When there is none it gives up the lane and
// returns nil.
func (l *lane) next() (*batch, credentials) {
	e := l.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(l.queue) == 0 && l.open != nil {
		if wait := l.windowLeft(); wait > 0 {
			l.sending = false
			l.arm(wait)
			return nil, credentials{}
		}
		l.close()
	}
	// Once the context has ended, Close's time is up and what is left is Close's to hand back.
	if len(l.queue) == 0 || e.d.ctx.Err() != nil {
		l.sending = false
		e.drop(l)
		return nil, credentials{}
	}
	b := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.inFlight = b
	l.signAhead()
	return b, e.app
}

// sent notes the delivery that is about to be sent, so that Close can hand back just that one. It returns
// false if Close took b away before.
func (l *lane) sent(b *batch, delivery *Delivery) bool {
	l.endpoint.mu.Lock()
	defer l.endpoint.mu.Unlock()
	if b.abandoned {
		return false
	}
	b.delivery = delivery
	return true
}

// end takes the result of sending b into the accounts and tells who waits for it. A batch that Close has
// handed back meanwhile has ended already.
func (l *lane) end(b *batch, took time.Duration, reusable bool, err error) {
	e := l.endpoint
	e.mu.Lock()
	b.ending = true
	abandoned := b.abandoned
	if err != nil && !abandoned {
		e.d.keep(b.delivery, err) // before Close, which from now on leaves b to us, looks at what was kept
	}
	e.mu.Unlock()
	if abandoned {
		return
	}
	e.d.ended(b.delivery, took, err)
	e.mu.Lock()
	l.inFlight = nil
	if reusable && b.body != nil && l.spare.bytes == nil && cap(b.body) <= max(minBuffer, 2*l.hint) {
		l.spare = buffer{b.body[:0], b.memory}
	} else {
		e.release(b.memory)
	}
	e.mu.Unlock()
	for _, f := range b.flushes { // no longer in flight, so it gets no more of them
		f.one()
	}
}

// minSignAhead is the size from which on a batch is signed ahead. It saves batches of 1000 events, of 90 KB, some
// tenth of their time, and those of 100 events nothing (BenchmarkDeliver).
const minSignAhead = 16 << 10

// A signing is a batch being signed while the one before it is in flight, by a goroutine of its own, which ends
// with that and counts as running.
type signing struct {
	app      credentials
	done     chan struct{} // closed when delivery is set
	delivery *Delivery
}

// signAhead has the batch signed that leaves after the one in flight.
func (l *lane) signAhead() {
	if l.inFlight == nil || len(l.queue) == 0 {
		return
	}
	b := l.queue[0]
	if b.ahead != nil || len(b.body) < minSignAhead {
		return
	}
	e := l.endpoint
	ahead := &signing{app: e.app, done: make(chan struct{})}
	b.ahead = ahead
	e.d.running.Add(1) // beside that of the batch in flight, so never during running.Wait
	go func() {
		defer e.d.running.Done()
		defer close(ahead.done)
		var s endpointSigner
		ahead.delivery = s.sign(e, ahead.app, b)
	}()
}

// An endpointSigner turns the batches of one endpoint into deliveries. It keeps its HMAC state while the
// app's secret stays the same.
type endpointSigner struct {
	secret Secret
	signer *signer
}

// delivery returns b's delivery, signed now unless it was before. What was signed ahead is of no use if the
// app has got another key or secret since.
func (s *endpointSigner) delivery(e *endpoint, app credentials, b *batch) *Delivery {
	if b.delivery != nil {
		return b.delivery
	}
	if b.ahead != nil {
		<-b.ahead.done
		if b.ahead.app == app {
			return b.ahead.delivery
		}
	}
	return s.sign(e, app, b)
}

// sign makes a delivery of b. It does not change b.
func (s *endpointSigner) sign(e *endpoint, app credentials, b *batch) *Delivery {
	if s.signer == nil || s.secret != app.secret {
		s.secret, s.signer = app.secret, newSigner(app.secret)
	}
	id := rand.Text()
	values := []string{"application/json", app.key, s.signer.sign(b.body), id}
	header := make(http.Header, len(e.header)+len(values))
	maps.Copy(header, e.header)
	for i, name := range ownHeaders {
		header[name] = values[i : i+1 : i+1]
	}
	return &Delivery{
		ID:        id,
		AppID:     e.key.app,
		URL:       e.key.url,
		Header:    header,
		Body:      b.body,
		Events:    b.events,
		CreatedAt: b.opened.UTC(),
		health:    &e.health,
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

// one tells f that one of its batches has ended.
func (f *flush) one() {
	if f.left.Add(-1) == 0 {
		close(f.done)
	}
}
