package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// A reader has the Dispatcher take the events of one partition, and notes how far they have got.
type reader struct {
	w         *Worker
	partition int
	leaving   atomic.Bool   // it is not this worker's for long
	lost      atomic.Bool   // it is another's
	gone      chan struct{} // closed when it has left
	confirmed int           // the last lapse of the lease since which it was found to be this worker's

	track     *tracking
	before    string // the owner before
	rewound   string // why the record says nothing about the stream; empty: it does
	epoch     uint64
	revision  uint64                     // of the record
	floor     atomic.Uint64              // before which nothing is needed, by the record
	purged    atomic.Uint64              // before which there is nothing any more
	noted     time.Time                  // when the record was written, by this clock
	last      map[string]time.Time       // by node: no event happened before its predecessor
	verdicts  map[string]verdict         // by app; of the message that is read
	endpoints map[string]map[string]bool // by app; likewise
	skew      time.Duration              // how far this clock is ahead of the engine's, if that is a second or more
	standing  standing

	ctx      context.Context
	cancel   context.CancelFunc
	reading  sync.WaitGroup
	noting   sync.WaitGroup
	writing  sync.Mutex // held while the record is written
	finished bool       // nobody has the partition by it
}

// A verdict says what becomes of the events of an app that the Dispatcher does not know.
type verdict struct{ endpoint, reason string }

// A standing is that nobody was there for longer than RetryFor. Then every event would be too old to be tried twice, so
// they count as if the first of them had happened when somebody came.
type standing struct {
	ended time.Time     // zero if there was none
	last  uint64        // the last sequence that it concerns
	shift time.Duration // known once the first was read
}

func newReader(w *Worker, partition int) *reader {
	return &reader{w: w, partition: partition, gone: make(chan struct{}), last: make(map[string]time.Time)}
}

// has reports whether an app is in the partition.
func (r *reader) has(app string) bool { return partitionOf(app, r.w.q.partitions) == r.partition }

// A replayed event is for one endpoint only.
type replayed struct {
	*tracking
	only  string
	found bool // that endpoint
}

func (f *replayed) Queue(t *webhook.Ticket, endpoint string) bool {
	if endpoint != f.only {
		return false
	}
	f.found = true
	return f.tracking.Queue(t, endpoint)
}

// locate finds where to begin. A record of another stream, or of one that has lost its end, says nothing about what is
// in this one, nor does one that cannot be read: then everything is read.
func (r *reader) locate(ctx context.Context) error {
	stream, err := r.w.q.js.Stream(ctx, eventStream)
	if err != nil {
		return fmt.Errorf("queue: stream %s: %w", eventStream, err)
	}
	info := stream.CachedInfo()
	nonce, first, last := info.Config.Metadata[nonceKey], info.State.FirstSeq, info.State.LastSeq
	rec := record{Stream: nonce, Next: positionOf(max(1, first), 0)}
	entry, err := r.w.q.leases.Get(ctx, recordKey(r.partition))
	switch {
	case isNotFound(err):
		r.revision = 0
	case err != nil:
		return fmt.Errorf("queue: record %d: %w", r.partition, err)
	default:
		old, err := decodeRecord(entry.Value())
		if errors.Is(err, errNewer) {
			return fmt.Errorf("queue: record %d: %w", r.partition, err)
		}
		r.revision, r.before, r.epoch = entry.Revision(), old.Owner, old.Epoch
		switch {
		case err == nil && old.Stream == nonce && old.Next.seq() <= last+1:
			rec = old
		case err != nil:
			r.rewound = "it cannot be read"
		case old.Stream != nonce:
			r.rewound = "the stream was recreated"
		default:
			r.rewound = "the stream has lost its end"
		}
		r.noted = entry.Created()
		if info.State.LastTime.After(r.noted) {
			r.noted = info.State.LastTime
		}
		r.standing.last = last
	}
	r.epoch++
	r.purged.Store(max(1, first))
	r.track = newTracking(rec)
	r.track.overflow = &r.w.overflow
	return nil
}

// own writes that the partition is this worker's, if nobody has written the record since it was located.
func (r *reader) own(ctx context.Context) error {
	rec := r.track.from
	rec.Owner, rec.Epoch = r.w.id, r.epoch
	if err := r.set(ctx, &rec); err != nil {
		return err
	}
	if r.rewound != "" {
		r.w.rewound.Add(1)
		r.w.log.Warn("webhook queue: the record is not of this stream; all of it is read again", "partition", r.partition, "why", r.rewound)
	}
	entry, err := r.w.q.leases.Get(ctx, recordKey(r.partition))
	if err != nil {
		return err
	}
	if skew := time.Since(entry.Created()); skew.Abs() >= time.Second {
		r.skew = skew
	}
	if !r.noted.IsZero() && entry.Created().Sub(r.noted) > cmp.Or(r.w.cfg.RetryFor, 5*time.Minute) {
		r.standing.ended = entry.Created()
	}
	return nil
}

func (r *reader) start() {
	r.w.letters.forget()
	r.ctx, r.cancel = context.WithCancel(r.w.ctx)
	r.noting.Go(r.note)
	r.reading.Go(r.run) // which may have itself stopped
}

// stop ends the reading.
func (r *reader) stop() {
	r.cancel()
	r.w.letters.wake()
	r.reading.Wait()
	r.noting.Wait()
}

func (r *reader) run() {
	again(r.ctx, r.w.log, "webhook queue: not read, tried again", func() (bool, error) {
		err := r.read()
		if (errors.Is(err, errNewer) || errors.Is(err, errReplaced)) && r.ctx.Err() == nil {
			r.w.owner.fail(r, err)
			return false, err
		}
		return true, err
	})
}

// read reads until something fails.
func (r *reader) read() error {
	stream, err := r.stream(r.ctx)
	if err != nil {
		return err
	}
	from := jetstream.ConsumerConfig{FilterSubject: eventSubject(r.partition), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(1, r.track.at.seq())}
	return r.w.q.follow(r.ctx, stream, from, func() {}, func(msg jetstream.Msg, about *jetstream.MsgMetadata) error {
		return r.handle(msg.Data(), about.Sequence.Stream, about.Timestamp)
	})
}

// errReplaced says that the events' stream is not the one that a partition was read of, or that it has lost its end.
var errReplaced = errors.New("queue: the stream was replaced by another one, or an older copy")

// stream returns the events' stream, if it still is the one that was read so far: else its sequences mean nothing to
// this reader.
func (r *reader) stream(ctx context.Context) (jetstream.Stream, error) {
	r.track.mu.Lock()
	next := r.track.at.seq() // before the stream is asked how far it goes
	r.track.mu.Unlock()
	stream, err := r.w.q.js.Stream(ctx, eventStream)
	if err != nil {
		return nil, err
	}
	if info := stream.CachedInfo(); info.Config.Metadata[nonceKey] != r.track.stream || next > info.State.LastSeq+1 {
		return nil, errReplaced
	}
	return stream, nil
}

// handle has the Dispatcher take a message's events.
func (r *reader) handle(data []byte, seq uint64, stored time.Time) error {
	g := groups.Get().(*group)
	defer g.free()
	err := g.decode(data)
	if errors.Is(err, errNewer) {
		return err
	}
	if err != nil {
		r.poison(data, seq, err)
		return nil
	}
	if err := r.knows(g.apps); err != nil {
		return err
	}
	stored = r.when(stored, seq, g.age)
	began, last := stored.Add(-g.age), r.last[g.node]
	r.verdicts, r.endpoints = nil, nil
	for i := range g.items {
		p := positionOf(seq, i)
		one := &g.items[i]
		one.event.At = began.Add(one.after)
		one.event.Node = cmp.Or(one.event.Node, g.node)
		if one.event.At.Before(last) && g.endpoint == "" {
			one.event.At = last
		}
		last = one.event.At
		if p < r.track.at {
			continue
		}
		if r.w.letters.room(r.ctx); r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		err := r.emit(p, one, g.endpoint)
		if errors.Is(err, webhook.ErrUnknownApp) {
			err = r.unknown(p, one, g.endpoint)
		}
		if err != nil {
			return err
		}
	}
	if len(r.last) > 1000 { // nodes come and go
		clear(r.last)
	}
	r.last[g.node] = last
	r.track.reading.Lock()
	r.track.read(positionOf(seq+1, 0))
	r.track.reading.Unlock()
	r.w.next[r.partition].Store(seq + 1)
	return nil
}

// knows waits until the worker knows the apps that a node knew, unless the engine itself does not: it has an older copy
// of them.
func (r *reader) knows(revision uint64) error {
	if r.w.apps == nil || r.w.apps.revision() >= revision {
		return nil
	}
	for {
		stream, err := r.w.q.js.Stream(r.ctx, "KV_"+secretBucket)
		if err != nil {
			return err
		}
		if stream.CachedInfo().State.LastSeq < revision {
			return nil
		}
		ctx, cancel := context.WithTimeout(r.ctx, publishTimeout)
		err = r.w.apps.reached(ctx, revision)
		cancel()
		if err == nil || r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
}

// when is when a message was stored, by this clock. An event whose time is the engine's may not be older than it is.
func (r *reader) when(stored time.Time, seq uint64, age time.Duration) time.Time {
	if s := &r.standing; !s.ended.IsZero() && seq <= s.last {
		if s.shift == 0 {
			s.shift = s.ended.Sub(stored.Add(-age))
		}
		stored = stored.Add(s.shift)
	}
	return stored.Add(r.skew)
}

// emit has the Dispatcher take one event.
func (r *reader) emit(p position, one *item, only string) error {
	t := r.track
	t.reading.Lock()
	defer t.reading.Unlock()
	again, needed := t.again(p)
	if !needed {
		t.read(p + 1)
		return nil
	}
	t.app = one.app
	// If it is untimed it has passed the rules before.
	ticket := &webhook.Ticket{Follower: t, Position: uint64(p), Untimed: only != "" || again && !t.timed(p)}
	var f *replayed
	if only != "" {
		f = &replayed{tracking: t, only: only}
		ticket.Follower = f
	}
	t.emits(p)
	err := r.w.d.EmitTicket(one.app, one.event, ticket)
	spilled := t.emitted()
	switch {
	case errors.Is(err, webhook.ErrClosed), errors.Is(err, webhook.ErrUnknownApp):
		return err
	case err != nil:
		r.dead(p, one, invalidEvent, err.Error())
	case f != nil && !f.found && t.wants(only, p): // else it was one before
		r.dead(p, one, only, "the app has no such endpoint any more, or it does not want the event")
	case again && only == "":
		for _, endpoint := range t.unfinished(one.app, p) {
			if !r.isThere(one.app, endpoint) {
				r.dead(p, one, endpoint, "the app has no such endpoint any more")
			}
		}
	}
	for _, n := range spilled {
		r.w.letters.add(n, []webhook.Event{one.event}, func() { t.end(n.Endpoint, p) })
	}
	r.w.read.Add(1)
	t.read(p + 1)
	return nil
}

// isThere reports whether an app has an endpoint. It is asked once for a message.
func (r *reader) isThere(app, endpoint string) bool {
	all, known := r.endpoints[app]
	if !known {
		all = make(map[string]bool)
		for _, e := range r.w.d.Endpoints(app) {
			all[e.ID] = true
		}
		if r.endpoints == nil {
			r.endpoints = make(map[string]map[string]bool)
		}
		r.endpoints[app] = all
	}
	return all[endpoint]
}

// unknown is for an event of an app that the Dispatcher does not know. The engine's leader is asked before it becomes a
// dead letter, once for a message: all of that was emitted before.
func (r *reader) unknown(p position, one *item, only string) error {
	if gone, known := r.verdicts[one.app]; known {
		return r.lay(p, one, gone.endpoint, gone.reason)
	}
	entry, removed, err := r.w.q.appNow(r.ctx, one.app)
	gone := verdict{unknownApp, "no app has this id"}
	switch {
	case errors.Is(err, errPoison):
		gone = verdict{invalidEvent, "what is stored of the app cannot be read"}
	case err != nil:
		return err
	case removed:
		gone = verdict{removedApp, "the app was removed"}
	case entry != nil && r.w.apps != nil: // it is new, and the Dispatcher is to hear of it from nobody but the watch, which knows what is newer
		if err := r.knows(entry.Revision()); err != nil {
			return err
		}
		if err := r.emit(p, one, only); !errors.Is(err, webhook.ErrUnknownApp) {
			return err
		}
		gone = verdict{invalidEvent, "the worker does not take what is stored of the app"}
	}
	if r.verdicts == nil {
		r.verdicts = make(map[string]verdict)
	}
	r.verdicts[one.app] = gone
	return r.lay(p, one, gone.endpoint, gone.reason)
}

// lay makes a dead letter of an event and goes on.
func (r *reader) lay(p position, one *item, endpoint, reason string) error {
	t := r.track
	t.reading.Lock()
	defer t.reading.Unlock()
	r.dead(p, one, endpoint, reason)
	r.w.read.Add(1)
	t.read(p + 1)
	return nil
}

// dead makes a dead letter of an event that reaches no endpoint. Of an app that is gone nobody knows which endpoints
// had the event, if any: it may be a letter although they had.
func (r *reader) dead(p position, one *item, endpoint, reason string) {
	t := r.track
	t.app = one.app
	t.queue(endpoint, p)
	r.w.letters.add(note{App: one.app, Endpoint: endpoint, Reason: reason}, []webhook.Event{one.event}, func() { t.end(endpoint, p) })
}

// poison makes a dead letter of a message that cannot be read.
func (r *reader) poison(data []byte, seq uint64, err error) {
	t, p := r.track, positionOf(seq, 0)
	t.reading.Lock()
	defer t.reading.Unlock()
	if p >= t.at && t.wants(poison, p) {
		r.w.poison.Add(1)
		r.w.log.Error("webhook queue: a message cannot be read, and becomes a dead letter", "sequence", seq, "bytes", len(data), "error", err)
		t.app = ""
		t.queue(poison, p)
		r.w.letters.addRaw(err.Error(), append([]byte(nil), data...), func() { t.end(poison, p) })
	}
	t.read(positionOf(seq+1, 0))
	r.w.next[r.partition].Store(seq + 1)
}

// shownEvery is how often a record is written that has not changed, to show that its owner gets on: within anybody's
// lease, as there is none shorter.
const shownEvery = time.Second

// note writes the record while the reader runs: if it has changed, or to show that it gets on.
func (r *reader) note() {
	for written := time.Now(); sleep(r.ctx, r.w.cfg.RecordInterval); {
		show := !r.w.cfg.Alone && time.Since(written) >= shownEvery && r.track.busy()
		switch err := r.write(r.ctx, show); {
		case err == nil && show:
			written = time.Now()
		case err == nil || r.ctx.Err() != nil:
		case errors.Is(err, errTaken):
			r.w.owner.fail(r, err)
			r.cancel()
		default:
			r.w.log.limited("webhook queue: record not written, tried again", err)
		}
	}
}

// finish writes the last record, and nothing is written after it.
func (r *reader) finish(ctx context.Context, owner string) error {
	for {
		err := r.record(ctx, owner, true)
		if r.lost.Load() || errors.Is(err, errTaken) { // then it is another's
			return nil
		}
		if err == nil {
			_ = r.purge(ctx) // else the next owner does it
			return nil
		}
		if r.w.q.nc.IsClosed() || !sleep(ctx, 10*time.Millisecond) {
			return fmt.Errorf("queue: record %d: %w", r.partition, err)
		}
	}
}

// write writes the record if it has changed, and has the engine forget what nobody needs any more.
func (r *reader) write(ctx context.Context, anyway bool) error {
	if err := r.record(ctx, r.w.id, anyway); err != nil {
		return err
	}
	return r.purge(ctx)
}

// purge has the engine forget what is before the floor, if it has not yet.
func (r *reader) purge(ctx context.Context) error {
	floor := r.floor.Load()
	if floor <= 1 || floor <= r.purged.Load() { // a purge up to nothing was one of everything, in old engines
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stream, err := r.stream(ctx)
	if err != nil {
		return err
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(eventSubject(r.partition)), jetstream.WithPurgeSequence(floor)); err != nil {
		return err
	}
	r.purged.Store(floor)
	return nil
}

// record writes the record.
func (r *reader) record(ctx context.Context, owner string, anyway bool) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	t := r.track
	if r.finished {
		return nil
	}
	rec, ok := t.snapshot(owner, anyway)
	if !ok {
		return nil
	}
	rec.Epoch = r.epoch
	if err := r.set(ctx, &rec); err != nil {
		t.mu.Lock()
		t.changed = true
		t.mu.Unlock()
		return err
	}
	r.finished = owner == ""
	return nil
}

// set writes the record if nobody else has since this reader did.
func (r *reader) set(ctx context.Context, rec *record) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	data, err := rec.encode()
	if err != nil {
		return err
	}
	key := recordKey(r.partition)
	revision, err := r.w.q.leases.Update(ctx, key, data, r.revision)
	if isConflict(err) { // perhaps with a write of ours that we have not heard of
		now, failed := r.found(ctx)
		if failed != nil {
			return failed
		}
		revision, err = r.w.q.leases.Update(ctx, key, data, now)
	}
	if isConflict(err) {
		return errTaken
	}
	if err == nil {
		r.revision = revision
		r.floor.Store(rec.floor().seq())
	}
	return err
}

// found returns the revision of the record if it is this reader's, or 0 if there is none any more: the bucket was made
// anew.
func (r *reader) found(ctx context.Context) (revision uint64, err error) {
	entry, err := r.w.q.leases.Get(ctx, recordKey(r.partition))
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if old, err := decodeRecord(entry.Value()); err != nil || old.Owner != r.w.id || old.Epoch != r.epoch {
		return 0, errTaken
	}
	return entry.Revision(), nil
}

func schemeAndHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
