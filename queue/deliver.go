package queue

import (
	"context"
	"time"
)

// wireTime is how long Close waits for what the Dispatcher has to deliver.
const wireTime = 5 * time.Second

// deliver has the Dispatcher deliver what is stored, as far as endpoints take it at the first attempt: what remains is
// in the stream.
func (w *Worker) deliver(ctx context.Context, all []*reader) {
	limit := wireTime
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	wire, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w.readAll(wire, all)
	for _, r := range all {
		r.stop()
	}
	w.sendAll(wire)
	_ = w.d.Drop(wire, func(string) bool { return true })
	stored, cancel := context.WithTimeout(ctx, wireTime)
	defer cancel()
	w.letters.wait(stored) // what is not stored is tried again by the next worker
}

// closePoll is how often it is looked whether there is anything to wait for.
const closePoll = 2 * time.Millisecond

// readAll waits until what is stored now was read.
func (w *Worker) readAll(ctx context.Context, all []*reader) {
	stream, err := w.q.js.Stream(ctx, eventStream)
	if err != nil {
		return
	}
	last := stream.CachedInfo().State.LastSeq
	for _, r := range all {
		for r.track.reached() <= last && w.failure.Load() == nil && sleep(ctx, closePoll) {
		}
	}
}

// sendAll sends what waits for its window. It returns when all of it has ended, or nothing is on the wire any more: the
// rest waits for a retry.
func (w *Worker) sendAll(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		_ = w.d.Flush(ctx)
	}()
	for quiet := 0; quiet < 3; {
		began := time.Now()
		if quiet++; w.sending() {
			quiet = 0
		}
		timer := time.NewTimer(max(closePoll, 4*time.Since(began)))
		select {
		case <-flushed:
			quiet = 3
		case <-timer.C:
		}
		timer.Stop()
	}
	cancel()
	<-flushed
}

// sending reports whether anything is on the wire. An endpoint that waits for a place does so because others are.
func (w *Worker) sending() bool {
	for _, e := range w.d.Endpoints("") {
		if e.InFlight > 0 {
			return true
		}
	}
	return false
}
