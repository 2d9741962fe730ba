// Package embedded makes webhooks durable in one process: a NATS JetStream engine, an emitter and a worker on one
// directory. An event is on the disk, synced, before it counts as stored.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// Config is the Dispatcher's, and the engine's.
//
// With Apps these are the apps, and what SetApp has stored earlier is forgotten; their secrets are not stored. Without,
// the apps are those that SetApp has stored. Hooks.GivenUp must be nil: what is given up becomes a dead letter.
type Config struct {
	webhook.Config
	Engine EngineConfig
}

// EngineConfig is of what is stored. The zero value of every field means its default.
type EngineConfig struct {
	// MaxBytes bounds the events that are stored and have not ended; beyond it Emit returns webhook.ErrQueueFull.
	// Default 1 GiB, or less where the disk has less.
	MaxBytes int64

	// MaxDeadBytes bounds the dead letters; beyond it the oldest go. Default 256 MiB, or less where the disk has less.
	MaxDeadBytes int64

	// MaxDeadAge is how long a dead letter is kept. Default seven days.
	MaxDeadAge time.Duration

	// MaxBufferedBytes bounds what is accepted and was not read from the store yet; see queue.EmitterConfig. Default 64
	// MiB.
	MaxBufferedBytes int64
}

// ErrLocked says that another process has the directory open.
var ErrLocked = errors.New("embedded: another process has this directory open")

// ErrDeleted says that the store was deleted, or replaced by another one, while it was open.
var ErrDeleted = errors.New("embedded: deleted while it was open")

// Stats counts what happened since Open.
type Stats struct {
	Emitter queue.EmitterStats
	Worker  queue.WorkerStats
	Starts  int   // of the engine: more than one if it has stopped, or could not write
	Err     error // why nothing is stored any more, ErrDeleted; nil while it is
}

// Local is a durable Dispatcher. Its methods may be called by any number of goroutines.
type Local struct {
	// Emit takes an event into memory, from where it is stored within milliseconds; EmitDurable returns when the event
	// is stored, synced to the disk; Flush when all that was accepted before is.
	*queue.Emitter

	lock    *os.File
	engine  *engine
	nc      *nats.Conn
	queue   *queue.Queue
	worker  *queue.Worker
	known   sync.Map // ids of apps
	closing sync.Once
	closed  chan struct{}
	err     error // of Close, valid once closed is closed
}

var _ webhook.Emitter = (*Local)(nil)

// Open opens the queue in a directory, which it makes if it is not there, and goes on with what is in it. No other
// process may have it open: that is ErrLocked, at once. ctx bounds Open, not what it returns.
func Open(ctx context.Context, dir string, cfg Config) (_ *Local, err error) {
	if dir, err = filepath.Abs(dir); err == nil { // the process may go elsewhere
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	l := &Local{closed: make(chan struct{})}
	if l.lock, err = lock(dir); err != nil {
		if errors.Is(err, ErrLocked) {
			return nil, err
		}
		return nil, fmt.Errorf("embedded: %w", err)
	}
	defer func() {
		if err != nil {
			l.release()
		}
	}()
	if err := cfg.Engine.fit(roomBytes(dir)); err != nil {
		return nil, err
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if l.engine, err = startEngine(ctx, dir, 2*(cfg.Engine.MaxBytes+cfg.Engine.MaxDeadBytes), logger); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	if err = l.open(ctx, cfg, logger); err != nil {
		return nil, err
	}
	return l, nil
}

// roomBytes is what a store in dir may take: what is free, and what it has. It is -1 where that is unknown.
func roomBytes(dir string) int64 {
	room := freeBytes(dir)
	if room < 0 {
		return room
	}
	_ = filepath.WalkDir(dir, func(_ string, f fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be seen does not count
		}
		if about, err := f.Info(); err == nil && about.Mode().IsRegular() {
			room += about.Size()
		}
		return nil
	})
	return room
}

// fit sets the defaults, and checks that the disk has room.
func (c *EngineConfig) fit(room int64) error {
	const smallest, share = 2 << 20, 5 // four fifths of the room may be used
	most := int64(1) << 62
	if room >= 0 {
		most = room / share * (share - 1)
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = max(smallest, min(1<<30, (most-c.MaxDeadBytes)/5*4))
	}
	if c.MaxDeadBytes == 0 {
		c.MaxDeadBytes = max(smallest, min(256<<20, most-c.MaxBytes))
	}
	if c.MaxBytes+c.MaxDeadBytes > most {
		return fmt.Errorf("embedded: Engine.MaxBytes and MaxDeadBytes: are %d together, the disk has room for %d bytes, of which four fifths may be used", c.MaxBytes+c.MaxDeadBytes, room)
	}
	return nil
}

// open is Open for an engine that runs.
func (l *Local) open(ctx context.Context, cfg Config, logger *slog.Logger) (err error) {
	if l.nc, err = l.engine.connect(); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	l.queue, err = queue.Open(ctx, l.nc, queue.Config{Partitions: 1, MaxBytes: cfg.Engine.MaxBytes, MaxDeadBytes: cfg.Engine.MaxDeadBytes, MaxDeadAge: cfg.Engine.MaxDeadAge})
	if err != nil {
		return err
	}
	if len(cfg.Apps) > 0 {
		err = l.queue.ReplaceApps(ctx, nil)
	} else {
		cfg.Apps, err = l.queue.Apps(ctx)
	}
	if err != nil {
		return err
	}
	for _, a := range cfg.Apps {
		l.known.Store(a.ID, true)
	}
	if l.worker, err = l.queue.NewWorker(queue.WorkerConfig{Config: cfg.Config, Alone: true}); err != nil {
		return err
	}
	l.Emitter, err = l.queue.NewEmitter(queue.EmitterConfig{
		MaxBufferedBytes: cfg.Engine.MaxBufferedBytes, MaxEventBytes: largest(cfg.MaxEventBytes), Worker: l.worker, Known: l.knows, Wants: l.worker.Dispatcher().Wants, Rejected: cfg.Hooks.Rejected, Logger: logger,
	})
	if err != nil {
		return err
	}
	return l.engine.keep(l.lock.Name())
}

// largest is the largest event that Emit takes: one that has more to say is none that the Dispatcher takes, when it is
// encoded.
func largest(encoded int) int { return min(cmp.Or(encoded, 64<<10), 256<<10) }

// release undoes what Open has done, whatever that is.
func (l *Local) release() {
	if l.worker != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = l.worker.Close(ended)
	}
	if l.nc != nil {
		l.nc.Close()
	}
	if l.engine != nil {
		l.engine.close()
	}
	_ = l.lock.Close() // which unlocks
}

// Format implements fmt.Formatter, for every verb: a Local holds secrets, and prints none.
func (l *Local) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "embedded.Local%+v", l.Stats()) }

func (l *Local) knows(app string) bool {
	_, known := l.known.Load(app)
	return known
}

// SetApp adds an app, or replaces the one with the same id, and stores it with its secret.
func (l *Local) SetApp(ctx context.Context, a webhook.App) error {
	if err := l.worker.Dispatcher().SetApp(a); err != nil {
		return err
	}
	l.known.Store(a.ID, true)
	return l.queue.SetApp(ctx, a)
}

// RemoveApp removes an app. What the Dispatcher has of it is still delivered; what it reads later becomes dead letters
// of the endpoint "_removed".
func (l *Local) RemoveApp(ctx context.Context, id string) error {
	l.known.Delete(id)
	l.worker.Dispatcher().RemoveApp(id)
	return l.queue.RemoveApp(ctx, id)
}

// Endpoints returns the status of an app's endpoints; see webhook.Dispatcher.Endpoints.
func (l *Local) Endpoints(app string) []webhook.EndpointStatus {
	return l.worker.Endpoints(app)
}

// RetryNow ends the waits of an app's endpoints; see webhook.Dispatcher.RetryNow.
func (l *Local) RetryNow(app string) { l.worker.RetryNow(app) }

// Dead returns the dead letters; see queue.Queue.Dead.
func (l *Local) Dead(ctx context.Context, f queue.DeadFilter) iter.Seq2[queue.DeadLetter, error] {
	return l.queue.Dead(ctx, f)
}

// Replay puts dead letters back; see queue.Queue.Replay.
func (l *Local) Replay(ctx context.Context, f queue.DeadFilter) (events int, err error) {
	return l.queue.Replay(ctx, f)
}

// PurgeDead deletes dead letters; see queue.Queue.PurgeDead.
func (l *Local) PurgeDead(ctx context.Context, f queue.DeadFilter) (letters int, err error) {
	return l.queue.PurgeDead(ctx, f)
}

// Stats returns the counts of this moment.
func (l *Local) Stats() Stats {
	starts, err := l.engine.status()
	return Stats{Emitter: l.Emitter.Stats(), Worker: l.worker.Stats(), Starts: starts, Err: err}
}

// Close refuses events, has those that were accepted stored, sends what was not sent yet and closes the store. It waits
// for the answers, for five seconds at most or half of ctx's time, but not for retries. It returns nil also when events
// are pending in the store: they are delivered after the next Open. When ctx ends before everything accepted is stored,
// its error says how many events that concerns. Where the store was deleted it is ErrDeleted. A second call, or a
// concurrent one, waits for the first.
func (l *Local) Close(ctx context.Context) error {
	l.closing.Do(func() {
		defer close(l.closed)
		l.err = l.shut(ctx)
		l.nc.Close()
		l.engine.close()
		_ = l.lock.Close()
	})
	<-l.closed
	return l.err
}

func (l *Local) shut(ctx context.Context) error {
	_, lost := l.engine.status()
	if lost == nil {
		return errors.Join(l.Emitter.Close(ctx), l.worker.Close(ctx))
	}
	ended, cancel := context.WithCancel(ctx)
	cancel() // nothing is going to be stored
	lost = errors.Join(fmt.Errorf("%w; what was not delivered is lost", lost), l.Emitter.Close(ended))
	l.nc.Close()
	_ = l.worker.Close(ctx) // delivers what it has, and cannot note that
	return lost
}
