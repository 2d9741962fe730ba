package queue

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// A watch follows a bucket: it tells of the latest value of each key, and of later ones as they come, for as long as
// its context lives. What it told once it may tell again.
type watch struct {
	q      *Queue
	bucket string
	filter string // of keys
	tell   func(entry watched)
	log    *limitedLog

	mu     sync.Mutex
	more   *sync.Cond // seen or caught has changed
	seen   uint64     // everything up to this revision was told
	caught bool       // what was there at the beginning was told
}

// A watched is a value of a key.
type watched struct {
	key      string
	value    []byte
	revision uint64
}

func (q *Queue) watch(bucket, filter string, log *limitedLog, tell func(watched)) *watch {
	w := &watch{q: q, bucket: bucket, filter: filter, tell: tell, log: log}
	w.more = sync.NewCond(&w.mu)
	return w
}

// run follows the bucket until ctx ends.
func (w *watch) run(ctx context.Context) {
	again(ctx, w.log, "webhook queue: bucket "+w.bucket+" not read, tried again", func() (bool, error) { return true, w.follow(ctx) })
}

// follow goes on where it was, or from the beginning if that is not in the bucket any more: it was replaced by an older
// copy.
func (w *watch) follow(ctx context.Context) error {
	stream, err := w.q.js.Stream(ctx, "KV_"+w.bucket)
	if err != nil {
		return err
	}
	prefix, last := "$KV."+w.bucket+".", stream.CachedInfo().State.LastSeq
	from := jetstream.ConsumerConfig{FilterSubject: prefix + w.filter, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy}
	if seen := w.revision(); seen > 0 && seen <= last {
		from.DeliverPolicy, from.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seen+1
	}
	return w.q.follow(ctx, stream, from, func() { w.told(last, true) }, func(msg jetstream.Msg, about *jetstream.MsgMetadata) error {
		w.tell(watched{msg.Subject()[len(prefix):], msg.Data(), about.Sequence.Stream})
		w.told(about.Sequence.Stream, about.NumPending == 0)
		return nil
	})
}

func (w *watch) told(revision uint64, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = revision
	w.caught = w.caught || all
	w.more.Broadcast()
}

func (w *watch) revision() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// begun waits until everything was told that was there at the beginning.
func (w *watch) begun(ctx context.Context) error {
	return w.until(ctx, func() bool { return w.caught })
}

// reached waits until everything up to a revision was told.
func (w *watch) reached(ctx context.Context, revision uint64) error {
	return w.until(ctx, func() bool { return w.seen >= revision })
}

func (w *watch) until(ctx context.Context, condition func() bool) error {
	w.mu.Lock()
	met := condition()
	w.mu.Unlock()
	if met {
		return nil
	}
	defer context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.more.Broadcast()
	})()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !condition() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.more.Wait()
	}
	return nil
}
