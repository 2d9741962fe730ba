// Package webhookspool keeps on disk what a webhook.Dispatcher could not deliver, and gives it to the dispatcher
// again: at the next start, or whenever the server asks.
//
//	spool, err := webhookspool.Open("/var/lib/server/webhooks", webhookspool.Config{Logger: log})
//	cfg.Hooks.Undelivered = spool.Undelivered // what is given up while the server runs
//	d, err := webhook.New(cfg)
//	err = spool.Redeliver(d) // before the first event, so that channels stay in order
//	// serve
//	err = spool.Close(ctx, d) // closes the dispatcher, and keeps what is left
//
// # What it promises
//
// A delivery leaves the disk when it was delivered, or when a newer copy of it is safe; never before. So a process
// that dies at any moment, or a disk that is full at any moment, loses nothing that was stored. What was on its way
// then is sent once more: at least once, under the same Webhook-Id. What Undelivered has stored outlives the process
// at once, and the machine after a second; what Close has stored outlives both.
//
// Disk space is bounded by Config.MaxBytes, and shared like the dispatcher's memory: an app may hold as much as is
// still free, so one customer's dead endpoint leaves room for the others. What finds no room, in the share or on the
// disk, is lost: that is counted in Stats.Lost, and logged.
//
// # The directory
//
// It holds segments, named 00000001.spool and so on, with a delivery in each line: its checksum (CRC-32C, in
// hexadecimal), a space and its JSON. A line that is broken costs itself only. It is moved into a file beside, with
// "broken" in its name, and so is a whole file that holds no delivery; those are never read, overwritten or removed,
// and do not count for MaxBytes. Other files are left alone. Deliveries hold customers' data, and headers that may
// authenticate: files are for their owner alone (0600), and keep them out of backups that others read.
//
// A lock keeps a second process out, on systems that have flock (Linux, macOS, the BSDs); elsewhere the server has to
// see to it. The lock goes with its process.
package webhookspool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// Config of a Spool. The zero value of every field is its default.
type Config struct {
	// MaxBytes bounds the disk space of all segments; default 1 GiB. An app may hold as much of it as is still free,
	// which is half of it for an app alone. A delivery takes a third more than its body, and 700 bytes or so.
	// While a segment is rewritten it takes up to 64 MiB more.
	MaxBytes int64

	// MaxAge is the age of a delivery, counted from its first event, beyond which Redeliver leaves it out: that is
	// counted in Stats.Expired, and logged. Default 7 days; negative: no limit.
	MaxAge time.Duration

	// Keep says whether to store a delivery that was given up because of err. By default all are but those that were
	// purged (webhook.ErrPurged) and those that nobody is to try again (webhook.ErrFinal: 410 Gone, an address that
	// was refused). It is called concurrently.
	Keep func(d *webhook.Delivery, err error) bool

	// Logger gets what is redelivered (Info), broken, expired or finds no room (Warn), and lost (Error, at most once
	// a second), without anything secret. By default nothing is logged.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.MaxAge == 0 {
		c.MaxAge = 7 * 24 * time.Hour
	}
	if c.Keep == nil {
		c.Keep = func(_ *webhook.Delivery, err error) bool {
			return !errors.Is(err, webhook.ErrPurged) && !errors.Is(err, webhook.ErrFinal)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ErrInUse is what Open returns, wrapped, when another process, or another Spool of this one, has the directory.
var ErrInUse = errors.New("in use by another process: stop that one, or give each process a directory of its own")

// ErrNoRoom is why a delivery is lost, as the log says: its app has its share of MaxBytes.
var ErrNoRoom = errors.New("the app has its share of MaxBytes")

var errClosed = errors.New("the spool is closed")

// A Spool is a directory of undelivered webhooks. Its methods may be called from any number of goroutines.
type Spool struct {
	dir  string
	cfg  Config
	lock *os.File

	ctx     context.Context // ends when Close begins
	cancel  context.CancelFunc
	waiting sync.WaitGroup // of goroutines that wait for a flight to end

	// mu orders what is written. Hooks hold it while they write a line; nothing else waits for it, and it is not held
	// while files are read, rewritten or synced (but a segment that is full is synced under it).
	mu       sync.Mutex
	segments []*segment // in order, the current one last
	current  *segment   // is written to; nil if there is none
	file     *os.File   // the current one's
	next     int        // the next segment's number
	syncing  *time.Timer
	record   encoder

	flights []*flight
	tainted map[string]bool            // apps of which something was lost while flights were out; "" is all of them
	late    map[*webhook.Delivery]bool // what hooks tell while Close runs, and whether to keep it; nil before
	closed  bool

	stats  Stats
	told   uint64    // how often Undelivered was called
	logged time.Time // the last line about a loss
}

// Stats counts deliveries since Open.
type Stats struct {
	Bytes       int64  // on disk now, but for what is broken
	Stored      uint64 // written
	Redelivered uint64 // queued again
	Lost        uint64 // found no room in MaxBytes or on the disk, or came after Close
	Expired     uint64 // older than MaxAge
	Broken      uint64 // places in files that were moved aside
}

// Open makes the directory if there is none, and locks it until Close. Nothing is read yet. Its errors name the
// path and what to do.
func Open(dir string, cfg Config) (*Spool, error) {
	cfg = cfg.withDefaults()
	if cfg.MaxBytes < 0 {
		return nil, fmt.Errorf("webhookspool: MaxBytes: must not be negative, got %d", cfg.MaxBytes)
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("webhookspool: %s: is a file, a spool is a directory: move the file away, or name another path", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("webhookspool: %w: name a directory that this process may make or write to", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("webhookspool: %s: %w", dir, err)
	}
	s := &Spool{dir: dir, cfg: cfg, lock: lock, tainted: make(map[string]bool)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.list(); err != nil {
		s.cancel()
		return nil, errors.Join(fmt.Errorf("webhookspool: %w", err), lock.Close())
	}
	return s, nil
}

// segmentName is how segments are named; what begins so was one.
var segmentName = regexp.MustCompile(`^(\d{8,15})\.spool(\.new|\..*)?$`)

// list finds the segments of earlier processes, and removes what one of them has not finished rewriting: the
// original is still there.
func (s *Spool) list() error {
	entries, err := os.ReadDir(s.dir) // sorted, and so are the numbers up to 99 999 999 segments
	if err != nil {
		return err
	}
	for _, entry := range entries {
		parts := segmentName.FindStringSubmatch(entry.Name())
		if parts == nil || !entry.Type().IsRegular() {
			continue
		}
		number, err := strconv.Atoi(parts[1])
		if err != nil {
			return err
		}
		s.next = max(s.next, number)
		path := filepath.Join(s.dir, entry.Name())
		switch parts[2] {
		case "":
			info, err := entry.Info()
			if err != nil {
				return err
			}
			s.segments = append(s.segments, &segment{path: path, size: info.Size()})
		case ".new":
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Undelivered is a webhook.Hooks.Undelivered: it stores what the dispatcher has given up. It returns when the
// operating system has it; a second later at most it is synced. While Close runs it leaves the storing to that.
func (s *Spool) Undelivered(d *webhook.Delivery, err error) {
	keep := s.cfg.Keep(d, err)
	s.mu.Lock()
	fault := s.undelivered(d, keep)
	say := fault != nil && time.Since(s.logged) >= time.Second
	if say {
		s.logged = time.Now()
	}
	lost := s.stats.Lost
	s.mu.Unlock()
	if say {
		s.cfg.Logger.Error("undelivered webhook lost", "delivery", d.LogValue(), "error", fault, "lost_so_far", lost)
	}
}

func (s *Spool) undelivered(d *webhook.Delivery, keep bool) error {
	s.told++
	if s.late != nil {
		s.late[d] = keep
		return nil
	}
	if !keep {
		return nil
	}
	if s.syncing == nil && !s.closed {
		s.syncing = time.AfterFunc(syncAfter, s.syncSoon)
	}
	return s.store(d)
}

// syncAfter is how long what Undelivered stores may wait to be synced, together with what follows it.
const syncAfter = time.Second

func (s *Spool) syncSoon() {
	s.mu.Lock()
	s.syncing = nil
	s.mu.Unlock()
	if err := s.sync(); err != nil {
		s.cfg.Logger.Error("webhooks stored on disk may not outlive the machine", "error", err)
	}
}

// Close closes the dispatcher, and stores what it hands back. It takes the place of d.Close, with the same ctx, and its
// error is that of d.Close, which says how much is kept, joined with what went wrong on the disk. What Redeliver
// has queued has ended then, and leaves the disk. Allow some more time than ctx for the writing.
//
// Afterwards the directory is free for another process. A second call does nothing. d is nil where the server has
// failed before it had one.
func (s *Spool) Close(ctx context.Context, d *webhook.Dispatcher) error {
	s.mu.Lock()
	if s.closed || s.late != nil {
		s.mu.Unlock()
		return nil
	}
	s.late = make(map[*webhook.Delivery]bool)
	s.mu.Unlock()
	s.cancel()
	s.waiting.Wait()

	if d == nil {
		return s.shut()
	}
	err := d.Close(ctx)
	// Close does not wait for all hooks, but Flush does. One that hangs is not ours: it gets a second.
	hooks, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = d.Flush(hooks)
	var left *webhook.UndeliveredError
	var deliveries []*webhook.Delivery
	if errors.As(err, &left) {
		deliveries = left.Deliveries
	}
	kept, faults := s.storeLast(deliveries)
	if kept > 0 {
		err = &keptError{err, kept, s.dir}
	}
	if ended := d.Stats().Pending == 0; ended { // else somebody else is closing it, and has not done so yet
		for _, f := range s.out() {
			faults = append(faults, s.settle(d, f))
		}
	}
	return errors.Join(err, errors.Join(faults...), s.shut())
}

// storeLast stores what Close hands back, and what hooks have reported meanwhile that is not among it.
func (s *Spool) storeLast(deliveries []*webhook.Delivery) (kept uint64, faults []error) {
	s.mu.Lock()
	before := s.stats
	var cause error
	store := func(d *webhook.Delivery) {
		if err := s.store(d); err != nil {
			cause = err
		}
	}
	for _, d := range deliveries {
		if keep, told := s.late[d]; keep || !told {
			store(d)
		}
		delete(s.late, d)
	}
	for d, keep := range s.late {
		if keep {
			store(d)
		}
	}
	kept = s.stats.Stored - before.Stored
	if cause != nil {
		faults = append(faults, fmt.Errorf("webhookspool: %s: %d deliveries are lost: %w", s.dir, s.stats.Lost-before.Lost, cause))
	}
	s.late, s.closed = nil, true
	s.mu.Unlock()
	return kept, append(faults, s.sync())
}

// A keptError is the dispatcher's, and says where its deliveries are.
type keptError struct {
	err  error // nil if all of them were given up before Close
	kept uint64
	dir  string
}

func (e *keptError) Error() string {
	text := fmt.Sprintf("%d deliveries are kept in %s for the next start", e.kept, e.dir)
	if e.err != nil {
		text = e.err.Error() + "; " + text
	}
	return text
}

func (e *keptError) Unwrap() error { return e.err }

// shut lets go of the directory.
func (s *Spool) shut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.syncing != nil {
		s.syncing.Stop()
	}
	return errors.Join(s.seal(), s.lock.Close())
}

// Stats returns what was counted so far.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	for _, seg := range s.segments {
		stats.Bytes += seg.size
	}
	return stats
}
