package queue

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// A reader has the Dispatcher take the events of one partition, and notes how far they have got.
type reader struct {
	w       *Worker
	subject string
	key     string // of the record

	track    *tracking
	revision uint64               // of the record
	floor    uint64               // before which everything was purged
	last     map[string]time.Time // by node: no event happened before its predecessor
	opened   time.Time            // zero unless nobody was there for long, see away
	shifted  uint64               // up to this sequence
	shift    time.Duration        // by so much, once the first was read

	ctx     context.Context
	cancel  context.CancelFunc
	reading sync.WaitGroup
	noting  sync.WaitGroup
}

// A tracked event is in the Dispatcher.
type tracked struct {
	ticket webhook.Ticket
	track  *tracking
	only   string // the endpoint that it is for, if not empty
	found  bool   // that endpoint
}

func (e *tracked) Queue(t *webhook.Ticket, endpoint string) bool {
	p := position(t.Position)
	if e.only != "" && e.only != endpoint {
		return false
	}
	e.found = true
	if !e.track.wants(endpoint, p) {
		return false
	}
	e.track.queue(endpoint, p)
	return true
}

func (e *tracked) Held(t *webhook.Ticket) { e.track.hold(position(t.Position)) }
func (e *tracked) Ended(t *webhook.Ticket, endpoint string) {
	e.track.end(endpoint, position(t.Position))
}
func (e *tracked) Done(t *webhook.Ticket) { e.track.done(position(t.Position)) }

// locate finds where to begin. A record of another stream, or of one that has lost its end, says nothing about what is
// in this one: then everything is read.
func (r *reader) locate(ctx context.Context) error {
	stream, err := r.w.q.js.Stream(ctx, eventStream)
	if err != nil {
		return fmt.Errorf("queue: stream %s: %w", eventStream, err)
	}
	info := stream.CachedInfo()
	nonce, first, last := info.Config.Metadata[nonceKey], info.State.FirstSeq, info.State.LastSeq
	rec := record{Stream: nonce, Next: positionOf(max(1, first), 0)}
	entry, err := r.w.q.records.Get(ctx, r.key)
	switch {
	case isNotFound(err):
		r.revision = 0
	case err != nil:
		return fmt.Errorf("queue: record %s: %w", r.key, err)
	default:
		r.revision = entry.Revision()
		old, err := decodeRecord(entry.Value())
		if err != nil {
			return fmt.Errorf("queue: record %s: %w", r.key, err)
		}
		if old.Stream == nonce && old.Next.seq() <= last+1 {
			rec = old
		} else {
			r.w.rewound.Add(1)
			r.w.log.Warn("webhook queue: the stream is not the one that was read last; all of it is read again",
				"messages", info.State.Msgs, "recreated", old.Stream != nonce)
		}
		r.away(entry.Created(), info.State.LastTime, last)
	}
	r.floor = max(1, first)
	r.track = newTracking(rec)
	r.track.changed = true // who has the partition now, and of which stream
	return nil
}

// away notes whether nobody was there for longer than RetryFor. Then every event would be too old to be tried twice, so
// they count as if the first of them had happened now.
func (r *reader) away(noted, stored time.Time, last uint64) {
	if stored.After(noted) {
		noted = stored
	}
	retryFor := r.w.cfg.RetryFor
	if retryFor == 0 {
		retryFor = 5 * time.Minute
	}
	if time.Since(noted) > retryFor {
		r.opened, r.shifted = time.Now(), last
	}
}

func (r *reader) start() {
	r.ctx, r.cancel = context.WithCancel(r.w.ctx)
	r.reading.Go(r.run)
	r.noting.Go(r.note)
}

// stop ends the reading.
func (r *reader) stop() {
	r.cancel()
	r.w.letters.wake()
	r.reading.Wait()
	r.noting.Wait()
}

func (r *reader) run() {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		began := time.Now()
		err := r.read()
		if r.ctx.Err() != nil {
			return
		}
		if stoppable(err) {
			r.w.stop(err)
			return
		}
		r.w.log.limited("webhook queue: not read, tried again", err)
		if time.Since(began) > time.Minute {
			wait = 10 * time.Millisecond
		}
		if !sleep(r.ctx, wait) {
			return
		}
	}
}

// prefetched bounds the messages that were asked for and not handled.
const prefetched = 4 << 20

// read reads until something fails. Nothing is acknowledged: how far the reader is, it says itself.
func (r *reader) read() error {
	consumer, err := r.w.q.js.OrderedConsumer(r.ctx, eventStream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{r.subject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(1, r.track.at.seq()),
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(1000, prefetched))
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(r.ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		about, err := msg.Metadata()
		if err != nil {
			return err
		}
		if err := r.handle(msg.Data(), about.Sequence.Stream, about.Timestamp); err != nil {
			return err
		}
	}
}

// handle has the Dispatcher take a message's events.
func (r *reader) handle(data []byte, seq uint64, stored time.Time) error {
	g, err := decodeGroup(data)
	if errors.Is(err, errNewer) {
		return err
	}
	if err != nil {
		r.poison(data, seq, err)
		return nil
	}
	if seq <= r.shifted {
		if r.shift == 0 {
			r.shift = r.opened.Sub(stored.Add(-g.age))
		}
		stored = stored.Add(r.shift)
	}
	began, last := stored.Add(-g.age), r.last[g.node]
	for i := range g.items {
		p := positionOf(seq, i)
		one := &g.items[i]
		one.event.At = began.Add(one.after)
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
		if err := r.emit(p, one, g.endpoint); err != nil {
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
	return nil
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
	e := &tracked{track: t, only: only}
	e.ticket.Follower, e.ticket.Position = e, uint64(p)
	e.ticket.Untimed = only != "" || again && !t.wasHeld[p] // it has passed the rules before
	err := r.w.d.EmitTicket(one.app, one.event, &e.ticket)
	switch {
	case errors.Is(err, webhook.ErrClosed):
		return err
	case errors.Is(err, webhook.ErrUnknownApp):
		r.dead(p, one, unknownApp, "no app has this id")
	case err != nil:
		r.dead(p, one, invalidEvent, err.Error())
	case only != "" && !e.found && t.wants(only, p): // else it was one before
		r.dead(p, one, only, "the app has no such endpoint any more, or it does not want the event")
	}
	r.w.read.Add(1)
	t.read(p + 1)
	return nil
}

// dead makes a dead letter of an event that reaches no endpoint. Of an app that is gone nobody knows which endpoints had
// the event, if any: it may be a letter although they had.
func (r *reader) dead(p position, one *item, endpoint, reason string) {
	t := r.track
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
		t.queue(poison, p)
		r.w.letters.addRaw(err.Error(), append([]byte(nil), data...), func() { t.end(poison, p) })
	}
	t.read(positionOf(seq+1, 0))
}

// note writes the record while the reader runs.
func (r *reader) note() {
	for sleep(r.ctx, r.w.cfg.RecordInterval) {
		switch err := r.write(r.ctx); {
		case err == nil || r.ctx.Err() != nil:
		case stoppable(err):
			r.w.stop(err)
			r.cancel()
		default:
			r.w.log.limited("webhook queue: record not written, tried again", err)
		}
	}
}

// finish writes the last record.
func (r *reader) finish(ctx context.Context) error {
	if r.w.failure.Load() != nil {
		return nil // it was said, and the partition may be another's
	}
	if err := r.write(ctx); err != nil {
		return fmt.Errorf("queue: record %s: %w", r.key, err)
	}
	return nil
}

// write writes the record by compare-and-set, and has the engine forget what nobody needs any more.
func (r *reader) write(ctx context.Context) error {
	t := r.track
	rec, changed := t.snapshot(r.w.id)
	if !changed {
		return nil
	}
	if err := r.set(ctx, &rec); err != nil {
		t.mu.Lock()
		t.changed = true
		t.mu.Unlock()
		return err
	}
	floor := rec.floor().seq()
	if floor <= r.floor || floor <= 1 { // a purge up to nothing was one of everything, in old engines
		return nil
	}
	stream, err := r.w.q.js.Stream(ctx, eventStream)
	if err != nil {
		return err
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(r.subject), jetstream.WithPurgeSequence(floor)); err != nil {
		return err
	}
	r.floor = floor
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
	revision, err := r.w.q.records.Update(ctx, r.key, data, r.revision)
	if isConflict(err) { // perhaps with a write of ours that we have not heard of
		entry, failed := r.w.q.records.Get(ctx, r.key)
		if failed != nil {
			return failed
		}
		if old, failed := decodeRecord(entry.Value()); failed != nil || old.Owner != r.w.id {
			return errTaken
		}
		revision, err = r.w.q.records.Update(ctx, r.key, data, entry.Revision())
	}
	if err == nil {
		r.revision = revision
	}
	return err
}

func schemeAndHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
