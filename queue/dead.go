package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// A DeadLetter is what was given up: events of one app for one endpoint, in order.
type DeadLetter struct {
	ID       uint64          // in order of time
	App      string          // empty for a message that cannot be read
	Endpoint string          // EndpointStatus.ID; or "_unknown" or "_removed" for an app that is not there, "_invalid" for what the Dispatcher does not take, "_poison" for what cannot be read
	URL      string          // scheme and host of the endpoint
	Reason   string          // why
	Time     time.Time       // when it was stored
	Events   []webhook.Event // with neither At nor Node
	Raw      []byte          // the message that cannot be read
}

// A DeadFilter selects dead letters. Each of its fields that is set must hold.
type DeadFilter struct {
	App      string
	Endpoint string
	Before   time.Time // stored before
	ID       uint64    // this one
}

func (f DeadFilter) subject() string {
	app, endpoint := "*", "*"
	if f.App != "" {
		app = token(f.App)
	}
	if f.Endpoint != "" {
		endpoint = f.Endpoint
	}
	return "wh.dead." + app + "." + endpoint
}

// validate makes sure that a filter cannot select more than it says.
func (f DeadFilter) validate() error {
	for _, c := range f.Endpoint {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '_') {
			return fmt.Errorf("queue: Endpoint: %q is not an endpoint's id", f.Endpoint)
		}
	}
	return nil
}

// Dead returns the dead letters that are stored now, the oldest first.
func (q *Queue) Dead(ctx context.Context, f DeadFilter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		err := f.validate()
		var stream jetstream.Stream
		if err == nil {
			stream, err = q.js.Stream(ctx, deadStream)
		}
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		last := stream.CachedInfo().State.LastSeq
		for seq := max(1, f.ID); seq <= last; {
			msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(f.subject()))
			if isNotFound(err) {
				return
			}
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			if seq = msg.Sequence + 1; msg.Sequence > last || f.ID != 0 && msg.Sequence != f.ID {
				return
			}
			if !f.Before.IsZero() && !msg.Time.Before(f.Before) {
				return // so are those behind it
			}
			letter, err := readLetter(msg)
			if !yield(letter, err) {
				return
			}
		}
	}
}

func readLetter(msg *jetstream.RawStreamMsg) (DeadLetter, error) {
	n, rest, err := decodeLetter(msg.Data)
	if err != nil {
		return DeadLetter{ID: msg.Sequence, Time: msg.Time}, fmt.Errorf("queue: dead letter %d: %w", msg.Sequence, err)
	}
	letter := DeadLetter{ID: msg.Sequence, App: n.App, Endpoint: n.Endpoint, URL: n.URL, Reason: n.Reason, Time: msg.Time}
	if n.Raw {
		letter.Raw = rest
		return letter, nil
	}
	g, err := decodeGroup(rest)
	if err != nil {
		return letter, fmt.Errorf("queue: dead letter %d: %w", msg.Sequence, err)
	}
	for i := range g.items {
		letter.Events = append(letter.Events, g.items[i].event)
	}
	return letter, nil
}

// Replay puts dead letters back into the stream, as new events for the endpoint that they were given up for, and
// returns how many events that is. They come behind what is queued, so out of order, and no timing rule looks at them
// again. Those for "_unknown", "_removed" and "_invalid" go to all that want them. If the endpoint is not there any
// more they become dead letters again.
//
// Of more than a MiB for one endpoint Replay waits until a worker has delivered the first, or they were given up again,
// before it goes on: so all find room, and come in order. An endpoint that still fails holds it up for
// webhook.Config.RetryFor each time, and nothing moves where no worker runs: give ctx a deadline.
//
// A letter is deleted when its events are stored. A crash between the two has them delivered twice, unless Replay is
// called again within two minutes. Letters that cannot be read, and messages that cannot, stay; of the former it
// returns an error in the end. Events that are too large for the stream's MaxBytes are an error.
func (q *Queue) Replay(ctx context.Context, f DeadFilter) (events int, err error) {
	stream, err := q.js.Stream(ctx, deadStream)
	if err != nil {
		return 0, err
	}
	var unreadable error
	under := make(map[string]*replaying)
	for letter, err := range q.Dead(ctx, f) {
		switch {
		case letter.ID == 0:
			return events, err
		case err != nil:
			unreadable = cmp.Or(unreadable, err)
			continue
		case letter.Raw != nil:
			continue
		}
		if err := q.replay(ctx, &letter, under); err != nil {
			return events, fmt.Errorf("queue: dead letter %d: %w", letter.ID, err)
		}
		events += len(letter.Events)
		if err := stream.DeleteMsg(ctx, letter.ID); err != nil && !isNotFound(err) {
			return events, err
		}
	}
	return events, unreadable
}

// A replaying is what was put back for an endpoint and has perhaps not ended.
type replaying struct {
	bytes int    // that it takes at the Dispatcher, more or less
	last  uint64 // its sequence
}

// maxReplaying is how much of an endpoint may be under way. An event takes more at the Dispatcher than in a letter.
const (
	maxReplaying = 1 << 20
	eventTakes   = 150
)

func (q *Queue) replay(ctx context.Context, letter *DeadLetter, under map[string]*replaying) error {
	only, partition := letter.Endpoint, partitionOf(letter.App, q.partitions)
	if only == unknownApp || only == removedApp || only == invalidEvent {
		only = ""
	}
	data := appendHead(nil, rand.Text(), only)
	for i := range letter.Events {
		data = appendEvent(data, letter.App, &letter.Events[i], 0)
	}
	r := under[letter.App+" "+only]
	if r == nil {
		r = &replaying{}
		under[letter.App+" "+only] = r
	}
	takes := len(data) + eventTakes*len(letter.Events)
	if r.bytes += takes; r.bytes > maxReplaying && r.last != 0 {
		if err := q.awaitEnd(ctx, partition, only, r.last); err != nil {
			return err
		}
		r.bytes = takes
	}
	msg := &nats.Msg{Subject: eventSubject(partition), Data: data}
	seq, err := q.publish(ctx, msg, fmt.Sprintf("replay.%d.%d", letter.ID, letter.Time.UnixNano()))
	r.last = seq
	return err
}

// awaitEnd waits until a message was read, and has ended at an endpoint, by what a worker notes.
func (q *Queue) awaitEnd(ctx context.Context, partition int, endpoint string, seq uint64) error {
	for {
		entry, err := q.leases.Get(ctx, recordKey(partition))
		if err != nil && !isNotFound(err) {
			return err
		}
		if err == nil {
			r, err := decodeRecord(entry.Value())
			if err != nil {
				return err
			}
			if first, pending := r.Pend[endpoint]; r.Next.seq() > seq && (!pending || first.seq() > seq) {
				return nil
			}
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// PurgeDead deletes dead letters, also those that cannot be read, and returns how many. A filter that selects all is an
// error, as it may be that somebody forgot to set it: all are those before now.
func (q *Queue) PurgeDead(ctx context.Context, f DeadFilter) (letters int, err error) {
	if f == (DeadFilter{}) {
		return 0, errors.New("queue: the filter is empty; set Before to time.Now() to purge all dead letters")
	}
	stream, err := q.js.Stream(ctx, deadStream)
	if err != nil {
		return 0, err
	}
	last := uint64(0)
	for letter, err := range q.Dead(ctx, f) {
		if letter.ID == 0 {
			return 0, err
		}
		last = letter.ID
		letters++
	}
	switch {
	case letters == 0:
		return 0, nil
	case f.ID != 0:
		err = stream.DeleteMsg(ctx, f.ID)
	default:
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(f.subject()), jetstream.WithPurgeSequence(last+1))
	}
	if err != nil && !isNotFound(err) {
		return 0, fmt.Errorf("queue: dead letters not purged: %w", err)
	}
	return letters, nil
}
