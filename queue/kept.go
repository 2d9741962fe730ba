package queue

import (
	"context"
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// The engine bounds a stream's bytes, and a subject's messages, but not what one app's letters take: with those of a
// few endpoints that nobody answers at a tenant would push out everybody's. Each letter says how much was stored before
// it, so two of them tell.

func ofApp(app string) string { return "wh.dead." + token(app) + ".*" }

// forget is called when others may have stored letters.
func (l *letters) forget() { l.stale.Store(true) }

// keptOf returns what an app's letters take.
func (l *letters) keptOf(app string) (*kept, error) {
	if l.stale.Swap(false) || len(l.kept) > 100_000 {
		clear(l.kept)
	}
	if k := l.kept[app]; k != nil {
		return k, nil
	}
	k := &kept{}
	stream, err := l.w.q.js.Stream(l.w.ctx, deadStream)
	if err != nil {
		return nil, err
	}
	last, err := stream.GetLastMsgForSubject(l.w.ctx, ofApp(app))
	switch {
	case isNotFound(err):
	case err != nil:
		return nil, err
	default:
		if n, _, err := decodeLetter(last.Data); err == nil {
			k.total = n.Before + int64(len(last.Data))
		}
		if err := l.first(l.w.ctx, stream, app, k); err != nil {
			return nil, err
		}
	}
	l.kept[app] = k
	return k, nil
}

// first looks at the first letter of an app that is still there: others were replayed, purged, or are too old.
func (l *letters) first(ctx context.Context, stream jetstream.Stream, app string, k *kept) error {
	msg, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(ofApp(app)))
	if isNotFound(err) {
		k.before = k.total
		return nil
	}
	if err != nil {
		return err
	}
	if n, _, err := decodeLetter(msg.Data); err == nil {
		k.before = n.Before
	}
	return nil
}

var errFullOfLetters = errors.New("MaxDeadBytes is too small for them; the older half of them is deleted")

// halve deletes the older half of an app's letters if they take more than that. Those that were replayed or purged
// since do not count.
func (l *letters) halve(app string, k *kept, most int64) error {
	ctx, cancel := context.WithTimeout(l.w.ctx, publishTimeout)
	defer cancel()
	stream, err := l.w.q.js.Stream(ctx, deadStream)
	if err != nil {
		return err
	}
	if err := l.first(ctx, stream, app, k); err != nil || k.total-k.before <= most {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(ofApp(app)))
	if err != nil {
		return err
	}
	letters := uint64(0)
	for _, n := range info.State.Subjects {
		letters += n
	}
	newer := letters / 2 // by number, where they are too many, or the engine is too far away, to look at each
	look, done := context.WithTimeout(ctx, publishTimeout/2)
	defer done()
	if sizes, err := sizesOf(look, stream, app); err == nil {
		total, half := int64(0), 0
		for i, size := range slices.Backward(sizes) {
			if total += size; total > most/2 && half == 0 {
				half = len(sizes) - 1 - i
			}
		}
		if total <= most {
			k.before = k.total - total
			return nil
		}
		newer = uint64(half)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(ofApp(app)), jetstream.WithPurgeKeep(max(1, newer))); err != nil {
		return err
	}
	if err := l.first(ctx, stream, app, k); err != nil {
		return err
	}
	return errFullOfLetters
}

// sizesOf returns the bytes of each of an app's letters, the oldest first.
func sizesOf(ctx context.Context, stream jetstream.Stream, app string) (all []int64, err error) {
	for seq := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(ofApp(app)))
		if isNotFound(err) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all, seq = append(all, int64(len(msg.Data))), msg.Sequence+1
	}
}
