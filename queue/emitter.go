package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// EmitterConfig configures an Emitter. The zero value of every field means its default.
type EmitterConfig struct {
	// MaxBufferedBytes bounds what is accepted and not stored yet, or with Worker not read yet. One app may hold as
	// much as is still free; one that is alone may hold seven eighths, and one that holds less than 64 KiB all that is
	// free. Default 64 MiB.
	MaxBufferedBytes int64

	// Worker is one that is Alone, if it is in this process. Then an app that emits more than can be read is refused
	// before others have to wait for long behind it.
	Worker *Worker

	// MaxEventBytes is the largest event, its app's id included; at most 256 KiB, which is the default.
	MaxEventBytes int

	// Known reports whether there is an app of this id; if not that is webhook.ErrUnknownApp. Nil: there is, unless
	// Queue.RemoveApp has removed it.
	Known func(app string) bool

	// Wants reports whether anybody asks for an event; what nobody asks for is not stored. Nil: what the app's webhooks
	// ask for that Queue.SetApp has stored, or everything if it has not.
	Wants func(app string, t webhook.EventType, channel string) bool

	// Rejected is called by Emit and EmitDurable, on their goroutine, with the error that they are about to return; see
	// webhook.Hooks.Rejected.
	Rejected func(app string, e webhook.Event, err error)

	// Logger gets an Error when the engine does not store, every ten seconds at most, and when an event is refused,
	// every second at most. Default: discards.
	Logger *slog.Logger
}

// EmitterStats counts what happened since NewEmitter.
type EmitterStats struct {
	Accepted      uint64 // events for which Emit or EmitDurable were, or are going to be, nil
	Durable       uint64 // of these, stored
	Unsynced      uint64 // of these, not stored yet
	UnsyncedBytes int64  // memory that these hold, at most MaxBufferedBytes
	Refused       uint64 // events for which they returned an error
	Retries       uint64 // attempts to store that failed
}

// An Emitter takes events and has the engine store them, in order. Its methods may be called by any number of
// goroutines. It has a goroutine only while something is not stored yet, and one that follows the queue's apps if it
// has to know them.
type Emitter struct {
	q     *Queue
	cfg   EmitterConfig
	node  string
	began time.Time
	parts []*part
	known *routes // nil if nobody asks

	ctx      context.Context // ends when Close does
	cancel   context.CancelFunc
	watching sync.WaitGroup

	held, unsynced                      atomic.Int64 // bytes: of all shares, and of what is not stored
	accepted, durable, refused, retries atomic.Uint64
	refusals                            refusals
}

// A part is what waits for one partition. Groups are stored one after the other, so that a retry changes no order; the
// next one fills meanwhile, as in a database's group commit.
type part struct {
	e       *Emitter
	n       int // its number
	subject string
	hurry   chan struct{} // has one if the next group shall not linger

	mu      sync.Mutex
	closed  bool
	running bool          // a goroutine stores
	due     time.Duration // since Emitter.began, when the next group has lingered
	storing *filling
	waiting []*filling // the last one takes events
	unread  []unread
	shares  map[string]*share
	spares  []*share
	done    sync.WaitGroup
}

// A filling is a group in the making.
type filling struct {
	buf    []byte
	events int
	began  time.Duration // since Emitter.began, of its first event
	parts  []appBytes
	stored chan struct{} // closed when it is, if somebody waits for that
}

// fillings are used again, as their buffers grow with what comes.
var fillings = sync.Pool{New: func() any { return new(filling) }}

type appBytes struct {
	share *share
	bytes int64
}

// A share is what one app has of the buffer.
type share struct {
	app  string
	own  int64
	last *filling // the one it is in last, at that index
	at   int
}

// NewEmitter returns an emitter for the queue.
func (q *Queue) NewEmitter(cfg EmitterConfig) (*Emitter, error) {
	const largest = maxGroupBytes / 2
	if cfg.MaxBufferedBytes == 0 {
		cfg.MaxBufferedBytes = 64 << 20
	}
	if cfg.MaxEventBytes == 0 {
		cfg.MaxEventBytes = largest
	}
	switch {
	case cfg.MaxEventBytes < 1 || cfg.MaxEventBytes > largest:
		return nil, fmt.Errorf("queue: MaxEventBytes: must be from 1 to %d, is %d", largest, cfg.MaxEventBytes)
	case cfg.MaxBufferedBytes < 2*int64(cfg.MaxEventBytes):
		return nil, fmt.Errorf("queue: MaxBufferedBytes: must be at least twice MaxEventBytes, %d, is %d", cfg.MaxEventBytes, cfg.MaxBufferedBytes)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Emitter{q: q, cfg: cfg, node: rand.Text(), began: time.Now()}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	for i := range q.partitions {
		e.parts = append(e.parts, &part{e: e, n: i, subject: eventSubject(i), hurry: make(chan struct{}, 1), shares: make(map[string]*share)})
	}
	if cfg.Known == nil || cfg.Wants == nil {
		e.follow()
	}
	return e, nil
}

// follow has the emitter know the queue's apps.
func (e *Emitter) follow() {
	log := &limitedLog{Logger: e.cfg.Logger}
	e.known = &routes{ids: make(map[string]string), log: log}
	if e.cfg.Known == nil {
		e.cfg.Known = e.known.known
	}
	if e.cfg.Wants == nil {
		e.cfg.Wants = e.known.wants
	}
	apps := e.q.watch(routeBucket, "*", log, e.known.learn)
	e.watching.Go(func() { apps.run(e.ctx) })
}

// Wants reports whether an event is worth being made.
func (e *Emitter) Wants(app string, t webhook.EventType, channel string) bool {
	return e.cfg.Wants(app, t, channel)
}

// Emit takes an event into memory, from where it is stored within milliseconds. It never blocks and does no I/O. Nil
// means accepted, not stored: what is not stored yet is lost if the process is killed. Its errors match, under
// errors.Is, webhook.ErrUnknownApp, webhook.ErrInvalidEvent, webhook.ErrClosed, and webhook.ErrQueueFull while the
// engine does not keep up or is full: that an endpoint is full is no error, but makes a dead letter.
func (e *Emitter) Emit(app string, ev webhook.Event) error {
	_, err := e.emit(app, &ev, false)
	return err
}

// EmitDurable is Emit, and returns when the event is stored, or with ctx's error: then it may still be.
func (e *Emitter) EmitDurable(ctx context.Context, app string, ev webhook.Event) error {
	stored, err := e.emit(app, &ev, true)
	if err != nil || stored == nil {
		return err
	}
	return e.wait(ctx, stored)
}

// wait waits until a group is stored.
func (e *Emitter) wait(ctx context.Context, stored <-chan struct{}) error {
	select {
	case <-stored:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
	}
	select {
	case <-stored: // both were ready
		return nil
	default:
		return webhook.ErrClosed
	}
}

// emit returns the channel that is closed when the event is stored, if follow is set and anybody wants the event.
func (e *Emitter) emit(app string, ev *webhook.Event, follow bool) (stored <-chan struct{}, err error) {
	if err = e.check(app, ev); err == nil {
		if !e.Wants(app, ev.Type, ev.Channel) {
			if e.ctx.Err() != nil {
				return nil, e.refuse(app, ev, webhook.ErrClosed)
			}
			return nil, nil
		}
		stored, err = e.part(app).take(app, ev, follow)
	}
	if err != nil {
		return nil, e.refuse(app, ev, err)
	}
	return stored, nil
}

func (e *Emitter) check(app string, ev *webhook.Event) error {
	if app == "" || !e.cfg.Known(app) {
		return fmt.Errorf("%w %q", webhook.ErrUnknownApp, app)
	}
	if err := ev.Validate(); err != nil {
		return err
	}
	if n := eventBytes(app, ev); n > e.cfg.MaxEventBytes {
		return fmt.Errorf("%w: the event has %d bytes, MaxEventBytes is %d", webhook.ErrInvalidEvent, n, e.cfg.MaxEventBytes)
	}
	return nil
}

func (e *Emitter) part(app string) *part { return e.parts[partitionOf(app, len(e.parts))] }

// errFull is made once: a server under pressure may see it at every Emit.
var errFull = fmt.Errorf("%w: the engine does not store as fast as events come", webhook.ErrQueueFull)

// take puts an event into the last group. Whether it is accepted or refused as closed is decided under the lock that
// Close takes, so that Close sees all that was accepted.
func (p *part) take(app string, ev *webhook.Event, follow bool) (<-chan struct{}, error) {
	n := eventBytes(app, ev)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, webhook.ErrClosed
	}
	s, own := p.own(app)
	if !p.fits(n, own) && p.giveBack() {
		s, own = p.own(app)
	}
	if !p.fits(n, own) {
		return nil, errFull
	}
	now := time.Since(p.e.began)
	g := p.filling(n, now)
	if s == nil {
		s = p.share(app)
	}
	if s.last != g {
		s.last, s.at = g, len(g.parts)
		g.parts = append(g.parts, appBytes{share: s})
	}
	after := now - g.began
	if !ev.At.IsZero() {
		after = min(after, ev.At.Sub(p.e.began)-g.began)
	}
	g.buf = appendEvent(g.buf, app, ev, after)
	g.events++
	g.parts[s.at].bytes += int64(n)
	s.own += int64(n)
	p.e.held.Add(int64(n))
	p.e.unsynced.Add(int64(n))
	p.e.accepted.Add(1)
	if !p.running {
		p.running = true
		p.done.Add(1)
		go p.run()
	}
	if !follow {
		return nil, nil
	}
	return p.follow(g), nil
}

func (p *part) own(app string) (s *share, bytes int64) {
	if s = p.shares[app]; s != nil {
		bytes = s.own
	}
	return s, bytes
}

func (p *part) fits(n int, own int64) bool {
	return int64(n) <= room(p.e.cfg.MaxBufferedBytes, p.e.held.Load(), own)
}

// room is how much an app that holds own may still take where held of limit bytes are taken. It is the rule of
// webhook.Config.MaxQueuedBytes.
func room(limit, held, own int64) int64 {
	const small = 64 << 10
	switch free := limit - held; {
	case own < small:
		return free
	case own == held:
		return min(free, limit/8*7-own)
	default:
		return (free - own) / 2
	}
}

// filling returns the group that takes n bytes more.
func (p *part) filling(n int, now time.Duration) *filling {
	if last := len(p.waiting) - 1; last >= 0 {
		if g := p.waiting[last]; g.events < maxGroupEvents && len(g.buf)+n <= maxGroupBytes {
			return g
		}
	}
	g := fillings.Get().(*filling)
	g.began = now
	g.buf = appendHead(g.buf[:0], p.e.node, "")
	if p.waiting = append(p.waiting, g); len(p.waiting) > 1 { // the one before is full
		p.hasten()
	}
	return g
}

func (p *part) share(app string) *share {
	s := &share{}
	if n := len(p.spares) - 1; n >= 0 {
		s = p.spares[n]
		p.spares = p.spares[:n]
	}
	s.app = app
	p.shares[app] = s
	return s
}

// follow returns what is closed when a group is stored. p.mu is held, as in hasten.
func (p *part) follow(g *filling) <-chan struct{} {
	if g.stored == nil {
		g.stored = make(chan struct{})
	}
	p.hasten()
	return g.stored
}

// hasten ends a linger.
func (p *part) hasten() {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
}

// run stores one group after the other until there is none.
func (p *part) run() {
	defer p.done.Done()
	for {
		p.linger()
		g := p.next()
		if g == nil {
			return
		}
		seq, err := p.store(g)
		if err != nil { // Close has ended
			return
		}
		p.ended(g, seq)
	}
}

// lingerTime is at least between two groups, unless somebody waits for the second or it is full. What a group costs
// hardly depends on its size, see docs/queue.md.
const lingerTime = 5 * time.Millisecond

// linger waits until the next group is due.
func (p *part) linger() {
	p.mu.Lock()
	select {
	case <-p.hurry: // of a group that has gone
	default:
	}
	wait := p.due - time.Since(p.e.began)
	if len(p.waiting) != 1 || p.waiting[0].stored != nil {
		wait = 0
	}
	p.mu.Unlock()
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.hurry:
	case <-p.e.ctx.Done():
	}
}

func (p *part) next() *filling {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.running = false
		return nil
	}
	p.due = time.Since(p.e.began) + lingerTime
	p.storing = p.waiting[0]
	p.waiting[0] = nil
	if p.waiting = p.waiting[1:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
	return p.storing
}

// store has the engine store a group, however often that has to be tried, and returns its sequence. The message's id is
// the same each time, so an engine that has stored it without our hearing of it does not store it twice.
func (p *part) store(g *filling) (seq uint64, err error) {
	msg := &nats.Msg{Subject: p.subject, Data: g.buf}
	id, logged := rand.Text(), time.Time{}
	if p.e.known != nil {
		setApps(g.buf, p.e.known.revision.Load())
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		setAge(g.buf, time.Since(p.e.began)-g.began)
		seq, err := p.e.q.publish(p.e.ctx, msg, id)
		if err == nil {
			return seq, nil
		}
		if p.e.ctx.Err() != nil {
			return 0, p.e.ctx.Err()
		}
		p.e.retries.Add(1)
		if time.Since(logged) > 10*time.Second {
			logged = time.Now()
			p.e.cfg.Logger.Error("webhook queue: not stored, tried again", "events", g.events, "buffered_bytes", p.e.unsynced.Load(), "error", err)
		}
		if !sleep(p.e.ctx, wait) {
			return 0, p.e.ctx.Err()
		}
	}
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ended accounts for a group that is stored.
func (p *part) ended(g *filling, seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.storing = nil
	p.unread = append(p.unread, unread{seq, g.parts})
	for _, a := range g.parts {
		a.share.last = nil
		p.e.unsynced.Add(-a.bytes)
	}
	p.giveBack()
	p.e.durable.Add(uint64(g.events))
	if g.stored != nil {
		close(g.stored)
	}
	*g = filling{buf: g.buf}
	fillings.Put(g)
}

// last returns what is closed when all that was accepted so far is stored; nil if it is.
func (p *part) last() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch n := len(p.waiting); {
	case n > 0:
		return p.follow(p.waiting[n-1])
	case p.storing != nil:
		return p.follow(p.storing)
	}
	return nil
}

// Flush returns when all that was accepted before is stored, or with ctx's error.
func (e *Emitter) Flush(ctx context.Context) error {
	for _, p := range e.parts {
		if last := p.last(); last != nil {
			if err := e.wait(ctx, last); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close refuses events and returns when all that was accepted is stored. When ctx ends before, it gives up, and its
// error says how many events that is.
func (e *Emitter) Close(ctx context.Context) error {
	for _, p := range e.parts {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
	}
	err := e.Flush(ctx)
	e.cancel()
	for _, p := range e.parts {
		p.done.Wait()
	}
	e.watching.Wait()
	if s := e.Stats(); s.Unsynced > 0 && err != nil {
		return fmt.Errorf("queue: closed before %s events were stored: %w", strconv.FormatUint(s.Unsynced, 10), err)
	}
	return nil
}

// Stats returns the counts of this moment.
func (e *Emitter) Stats() EmitterStats {
	s := EmitterStats{Durable: e.durable.Load(), UnsyncedBytes: e.unsynced.Load(), Refused: e.refused.Load(), Retries: e.retries.Load()}
	s.Accepted = e.accepted.Load()
	s.Unsynced = s.Accepted - s.Durable
	return s
}

// publish has the engine store a message, and returns its sequence.
func (q *Queue) publish(ctx context.Context, msg *nats.Msg, id string) (seq uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ack, err := q.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// publishTimeout is how long an answer may take. Where the leader of three servers has gone nobody answers what it had
// been asked, and the next one is asked soon.
const publishTimeout = 2 * time.Second

// isNotFound reports whether an engine has no such thing.
func isNotFound(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound) ||
		errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrMsgNotFound)
}
