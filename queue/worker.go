package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// WorkerConfig configures a Worker.
type WorkerConfig struct {
	webhook.Config // of its Dispatcher. Hooks.GivenUp must be nil: what is given up becomes a dead letter. Hooks.Rejected is not called, see EmitterConfig

	// RecordInterval is how often it is noted how far the worker has got: what ended since is delivered again after
	// a crash. From 50ms to 200ms; default 100ms.
	RecordInterval time.Duration
}

// WorkerStats counts what happened since NewWorker.
type WorkerStats struct {
	webhook.Stats        // of the Dispatcher
	Read          uint64 // events
	Dead          uint64 // events stored as dead letters, an endpoint each
	Poison        uint64 // messages that cannot be read, stored as dead letters
	Rewound       uint64 // times the stream was not the one that the record is of, and everything in it was read again
	Err           error  // why the worker has stopped by itself; nil while it works
}

// A Worker reads events and has a Dispatcher deliver them. This version expects to be the only one of its queue.
type Worker struct {
	q       *Queue
	d       *webhook.Dispatcher
	cfg     WorkerConfig
	id      string
	log     *limitedLog
	letters *letters
	readers []*reader

	ctx    context.Context // of everything but the reading
	cancel context.CancelFunc
	done   sync.WaitGroup
	close  sync.Once

	read, poison, rewound atomic.Uint64
	closing               atomic.Bool
	failure               atomic.Pointer[error]
}

// A limitedLog writes a line in ten seconds at most for what is tried again and again.
type limitedLog struct {
	*slog.Logger
	next atomic.Int64
}

func (l *limitedLog) limited(text string, err error) {
	now := time.Now().UnixNano()
	if next := l.next.Load(); now >= next && l.next.CompareAndSwap(next, now+int64(10*time.Second)) {
		l.Error(text, "error", err)
	}
}

// NewWorker returns a worker that has begun to read. ctx bounds how long that may take.
func (q *Queue) NewWorker(ctx context.Context, cfg WorkerConfig) (*Worker, error) {
	if cfg.RecordInterval == 0 {
		cfg.RecordInterval = 100 * time.Millisecond
	}
	switch {
	case cfg.Hooks.GivenUp != nil:
		return nil, errors.New("queue: Hooks.GivenUp: must be nil; what is given up becomes a dead letter")
	case cfg.RecordInterval < 50*time.Millisecond || cfg.RecordInterval > 200*time.Millisecond:
		return nil, fmt.Errorf("queue: RecordInterval: must be from 50ms to 200ms, is %v", cfg.RecordInterval)
	}
	w := &Worker{q: q, cfg: cfg, id: rand.Text()}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	w.log = &limitedLog{Logger: logger}
	w.letters = newLetters(w)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	var err error
	if w.d, err = webhook.New(w.hooked()); err != nil {
		return nil, err
	}
	w.cfg.Apps = nil // they hold secrets
	for i := range q.partitions {
		r := &reader{w: w, subject: eventSubject(i), key: fmt.Sprintf("p.%d", i), last: make(map[string]time.Time)}
		if err := r.locate(ctx); err != nil {
			w.cancel()
			_ = w.d.Close(ctx)
			return nil, err
		}
		w.readers = append(w.readers, r)
	}
	for _, r := range w.readers {
		r.start()
	}
	return w, nil
}

// Format implements fmt.Formatter, for every verb: a Worker holds secrets, and prints none.
func (w *Worker) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "queue.Worker%+v", w.Stats()) }

// hooked returns the Dispatcher's config.
func (w *Worker) hooked() webhook.Config {
	cfg := w.cfg.Config
	cfg.Hooks.GivenUp, cfg.Hooks.Rejected = w.givenUp, nil // what it refuses was accepted, and becomes a dead letter
	if told := cfg.Hooks.Undelivered; told != nil {
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			if !w.closing.Load() { // else it stays in the store, for the next worker
				told(d, err)
			}
		}
	}
	return cfg
}

// givenUp makes a dead letter of a delivery.
func (w *Worker) givenUp(d *webhook.Delivery, reason error, settle func()) {
	events, err := eventsOf(d)
	if err != nil { // the Dispatcher made it
		panic(err)
	}
	w.letters.add(note{App: d.AppID, Endpoint: d.EndpointID(), URL: schemeAndHost(d.URL), Reason: bounded(reason.Error())}, events, settle)
}

// bounded is a text that may come from an endpoint or a Sender, as it is stored.
func bounded(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// stop is for an error that the worker cannot go on with.
func (w *Worker) stop(err error) {
	if w.failure.CompareAndSwap(nil, &err) {
		w.log.Error("webhook queue: the worker has stopped", "error", err)
	}
}

// Dispatcher is the worker's, for its Endpoints, RetryNow, Wants and the like. It is closed by the worker, and events go into
// it through the queue alone.
func (w *Worker) Dispatcher() *webhook.Dispatcher { return w.d }

// Stats returns the counts of this moment.
func (w *Worker) Stats() WorkerStats {
	s := WorkerStats{Stats: w.d.Stats(), Read: w.read.Load(), Poison: w.poison.Load(), Rewound: w.rewound.Load()}
	w.letters.mu.Lock()
	s.Dead = w.letters.stored
	w.letters.mu.Unlock()
	if err := w.failure.Load(); err != nil {
		s.Err = *err
	}
	return s
}

// wireTime is how long Close waits for what the Dispatcher has to deliver.
const wireTime = 5 * time.Second

// Close stops reading, gives the Dispatcher five seconds at most, or half of ctx's time, to deliver what it has, and notes how far it has
// got. What is not delivered stays in the stream, for the next worker. Its error says that the note could not be written:
// some will be delivered again.
func (w *Worker) Close(ctx context.Context) (err error) {
	w.close.Do(func() { err = w.shut(ctx) })
	return err
}

func (w *Worker) shut(ctx context.Context) error {
	for _, r := range w.readers {
		r.stop()
	}
	w.closing.Store(true)
	limit := wireTime
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	wire, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_ = w.d.Close(wire) // what it hands back is in the stream
	w.letters.wait(ctx)
	var errs []error
	for _, r := range w.readers {
		errs = append(errs, r.finish(ctx))
	}
	w.cancel()
	w.letters.wake()
	w.done.Wait()
	w.letters.done.Wait()
	return errors.Join(errs...)
}

// stoppable reports whether an error is not to be tried again.
func stoppable(err error) bool { return errors.Is(err, errNewer) || errors.Is(err, errTaken) }

// errTaken says that somebody else has written the record.
var errTaken = errors.New("queue: another worker has this partition")

// isConflict reports whether a compare-and-set has failed.
func isConflict(err error) bool {
	var api jetstream.JetStreamError
	return errors.Is(err, jetstream.ErrKeyExists) ||
		errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
