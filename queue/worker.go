package queue

import (
	"cmp"
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

// WorkerConfig configures a Worker. The zero value of every field means its default.
type WorkerConfig struct {
	// Config is of its Dispatcher. With Apps these are the apps. Without, they are those of Queue.SetApp, also later.
	// Hooks.GivenUp must be nil: what is given up becomes a dead letter. Hooks.Rejected is not called, see
	// EmitterConfig. Hooks.Undelivered must return at once: a partition may wait for it. It is not told of events that
	// find their endpoint full: they are counted in WorkerStats.Dead. Lateness is at least half a second, unless the
	// worker is Alone: then it is for who has several nodes all the same.
	webhook.Config

	// RecordInterval is how often it is noted how far a partition has got: what ended since is delivered again after
	// a crash. From 50ms to 200ms; default 100ms.
	RecordInterval time.Duration

	// Lease is how long a worker may be silent until others take its partitions. It stops sending when it could not say
	// that it is alive for seven tenths of it. A shorter one means less delay after a crash, and more standstills where
	// the network or the disk stalls. Workers of a queue may have different ones. From 1s; default 3s.
	Lease time.Duration

	// HandoverWait is how long a partition that goes to another worker waits for requests that are on the wire; then
	// they are cancelled, and sent again by the other. Default 11s, one more than HTTPConfig.Timeout.
	HandoverWait time.Duration

	// Alone says that there is no other worker of this queue and never is one at the same time: it has all partitions
	// from the beginning, and needs no lease.
	Alone bool
}

// WorkerStats counts what happened since NewWorker.
type WorkerStats struct {
	webhook.Stats        // of the Dispatcher
	Partitions    int    // that it has now
	Taken         uint64 // partitions, from a worker that had gone or left
	Lost          uint64 // partitions that another worker has taken while this one could not say that it is alive
	Suspended     bool   // nothing is sent now, because it cannot say that it is alive
	Read          uint64 // events
	Dead          uint64 // events stored as dead letters, an endpoint each
	Poison        uint64 // messages that cannot be read, stored as dead letters
	Rewound       uint64 // times that a partition's record was not of the stream, or could not be read, and everything was read again
	Err           error  // why the worker has left a partition for good; nil while it works
}

// A Worker reads the events of its share of the partitions and has a Dispatcher deliver them.
type Worker struct {
	q        *Queue
	d        *webhook.Dispatcher
	cfg      WorkerConfig
	id       string
	log      *limitedLog
	letters  *letters
	overflow overflow
	next     []atomic.Uint64 // by partition: the sequence that is read next
	apps     *watch          // nil with cfg.Apps
	owner    *owner
	sender   webhook.Sender
	own      *webhook.HTTPSender // if it made its sender itself

	ctx    context.Context // of everything but the reading
	cancel context.CancelFunc
	done   sync.WaitGroup
	close  sync.Once
	closed error // of Close

	read, poison, rewound, taken, lost atomic.Uint64
	closing                            atomic.Bool
	failure                            atomic.Pointer[error]
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

// NewWorker returns a worker that begins to take its share of the partitions. One that is Alone has all of them, or
// NewWorker returns why not.
func (q *Queue) NewWorker(cfg WorkerConfig) (*Worker, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	w := &Worker{q: q, cfg: cfg, next: make([]atomic.Uint64, q.partitions), id: rand.Text(), log: &limitedLog{Logger: cfg.Logger}}
	w.letters = newLetters(w)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	var err error
	if w.d, err = webhook.New(w.dispatcherConfig()); err != nil {
		w.cancel()
		return nil, err
	}
	if len(cfg.Apps) == 0 && !cfg.Alone {
		w.apps = q.watch(secretBucket, "*", w.log, w.learn)
		w.done.Go(func() { w.apps.run(w.ctx) })
	}
	w.cfg.Apps = nil // they hold secrets
	w.owner = newOwner(w)
	if err := w.owner.start(); err != nil {
		w.cancel()
		_ = w.d.Close(w.ctx)
		return nil, err
	}
	return w, nil
}

// complete sets the defaults.
func (c *WorkerConfig) complete() error {
	c.RecordInterval = cmp.Or(c.RecordInterval, 100*time.Millisecond)
	c.Lease = cmp.Or(c.Lease, 3*time.Second)
	c.HandoverWait = cmp.Or(c.HandoverWait, 11*time.Second)
	if !c.Alone {
		c.Lateness = max(c.Lateness, 500*time.Millisecond)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Hooks.GivenUp != nil:
		return errors.New("queue: Hooks.GivenUp: must be nil; what is given up becomes a dead letter")
	case c.RecordInterval < 50*time.Millisecond || c.RecordInterval > 200*time.Millisecond:
		return fmt.Errorf("queue: RecordInterval: must be from 50ms to 200ms, is %v", c.RecordInterval)
	case c.Lease < time.Second:
		return fmt.Errorf("queue: Lease: must be at least 1s, is %v", c.Lease)
	case c.HandoverWait < 0:
		return fmt.Errorf("queue: HandoverWait: must not be negative, is %v", c.HandoverWait)
	}
	return nil
}

// dispatcherConfig returns the Dispatcher's config.
func (w *Worker) dispatcherConfig() webhook.Config {
	cfg := w.cfg.Config
	cfg.Hooks.GivenUp = w.givenUp
	cfg.Hooks.Rejected = nil // what the Dispatcher refuses was accepted before, and becomes a dead letter
	if told := cfg.Hooks.Undelivered; told != nil {
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			full := errors.Is(err, webhook.ErrQueueFull) // of which few come by the Dispatcher, see overflow
			if !full && !w.closing.Load() {              // else it stays in the store, for the next worker
				told(d, err)
			}
		}
	}
	if w.cfg.Alone {
		return cfg
	}
	if w.sender = cfg.Sender; w.sender == nil {
		w.own, _ = webhook.NewHTTPSender(webhook.HTTPConfig{}) // whose zero value has no fault
		w.sender = w.own
	}
	cfg.Sender = webhook.SenderFunc(w.send)
	return cfg
}

// send sends if the app's partition is this worker's. If it is not any more, the Dispatcher is about to forget what it
// has of the app.
func (w *Worker) send(ctx context.Context, d *webhook.Delivery) error {
	if !w.owner.allows(ctx, d.AppID) {
		<-ctx.Done()
		return ctx.Err()
	}
	return w.sender.Send(ctx, d)
}

// learn takes in what the bucket says of an app.
func (w *Worker) learn(entry watched) {
	a, removed, err := decodeApp(entry.value)
	switch {
	case err != nil:
		w.log.limited("webhook queue: an app cannot be read", err)
	case removed:
		w.d.RemoveApp(a.ID)
	default:
		if err := w.d.SetApp(a); err != nil && !errors.Is(err, webhook.ErrClosed) {
			w.log.limited("webhook queue: an app is not taken", err)
		}
	}
}

// Format implements fmt.Formatter, for every verb: a Worker holds secrets, and prints none.
func (w *Worker) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "queue.Worker%+v", w.Stats()) }

// givenUp makes a dead letter of a delivery.
func (w *Worker) givenUp(d *webhook.Delivery, reason error, settle func()) {
	events, err := eventsOf(d)
	if err != nil { // the Dispatcher made it
		panic(err)
	}
	n := note{App: d.AppID, Endpoint: d.EndpointID(), URL: schemeAndHost(d.URL), Reason: bounded(reason.Error())}
	if errors.Is(reason, webhook.ErrQueueFull) {
		w.overflow.set(n)
	}
	w.letters.add(n, events, settle)
}

// bounded is a text that may come from an endpoint or a Sender, as it is stored.
func bounded(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// fail is for an error that the worker cannot go on with in a partition.
func (w *Worker) fail(partition int, err error) {
	w.failure.CompareAndSwap(nil, &err)
	w.log.Error("webhook queue: the worker leaves a partition", "partition", partition, "error", err)
}

// Dispatcher is the worker's, for its Wants and the like. It is closed by the worker, and events go into it through the
// queue alone.
func (w *Worker) Dispatcher() *webhook.Dispatcher { return w.d }

// Endpoints returns the status of an app's endpoints at this worker; see webhook.Dispatcher.Endpoints.
func (w *Worker) Endpoints(app string) []webhook.EndpointStatus { return w.d.Endpoints(app) }

// RetryNow ends the waits of an app's endpoints at this worker; see webhook.Dispatcher.RetryNow.
func (w *Worker) RetryNow(app string) { w.d.RetryNow(app) }

// Purge gives up what this worker has read for an app, which becomes dead letters; see webhook.Dispatcher.Purge.
func (w *Worker) Purge(app string) (events int) { return w.d.Purge(app) }

// Partitions returns those that the worker has now, in order.
func (w *Worker) Partitions() []int { return w.owner.partitions() }

// Stats returns the counts of this moment.
func (w *Worker) Stats() WorkerStats {
	s := WorkerStats{Stats: w.d.Stats(), Read: w.read.Load(), Poison: w.poison.Load(), Rewound: w.rewound.Load(), Taken: w.taken.Load(), Lost: w.lost.Load()}
	s.Partitions, s.Suspended = len(w.owner.partitions()), w.owner.suspended()
	w.letters.mu.Lock()
	s.Dead = w.letters.stored
	w.letters.mu.Unlock()
	if err := w.failure.Load(); err != nil {
		s.Err = *err
	}
	return s
}

// Close stops reading. One of several workers hands its partitions over: what is on the wire gets HandoverWait, or half
// of ctx's time, to be answered. One that is Alone reads the rest and sends it, and waits for the answers for five
// seconds at most or half of ctx's time, but not for endpoints that fail. Then it is noted how far each partition has
// got. What is not delivered stays in the stream, for the next worker. Its error says that the note could not be
// written: some will be delivered again. A second call, or a concurrent one, waits for the first and returns the same.
func (w *Worker) Close(ctx context.Context) error {
	w.close.Do(func() { w.closed = w.shut(ctx) })
	return w.closed
}

func (w *Worker) shut(ctx context.Context) error {
	w.closing.Store(true)
	err := w.owner.close(ctx)
	w.cancel()
	w.letters.wake()
	_ = w.d.Close(w.ctx) // what it has is in the stream
	w.done.Wait()
	w.letters.done.Wait()
	if w.own != nil {
		w.own.CloseIdleConnections()
	}
	return err
}

// errTaken says that somebody else has written the record.
var errTaken = errors.New("queue: another worker has this partition")

// isConflict reports whether a compare-and-set has failed.
func isConflict(err error) bool {
	var api jetstream.JetStreamError
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return true
	}
	if !errors.As(err, &api) || api.APIError() == nil {
		return false
	}
	code := api.APIError().ErrorCode // the second one is that of replicated streams
	return code == jetstream.JSErrCodeStreamWrongLastSequence || code == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}
