package webhookspool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/pusherhooks/webhook"
)

// A flight is what one Redeliver has queued, until all of it has ended.
type flight struct {
	segments []*segment
	before   account // when it began
}

// An account shows whether Undelivered is called at all.
type account struct{ undelivered, told uint64 }

// account compares what d has given up with what was told of.
func (s *Spool) account(d *webhook.Dispatcher) account {
	undelivered := d.Stats().Undelivered
	s.mu.Lock()
	defer s.mu.Unlock()
	return account{undelivered, s.told}
}

// A tally is what became of the deliveries of a flight.
type tally struct{ queued, full, expired, broken int }

// Redeliver queues all that is stored, in order. A server calls it before the first event, and after its apps are
// set, so that deliveries are signed afresh. It does not wait until they have arrived: they leave the disk when all of
// them have ended, delivered or given up and stored again. A process that dies before sends them once more.
//
// What finds no room in the dispatcher's memory (webhook.ErrQueueFull) stays on disk, for the next start or the next call:
// Redeliver may be called again at any time, every hour for example, and leaves out what is still queued.
//
// What is broken is moved aside and logged, and is no error. An error names a file that could not be read or moved,
// and what to do. It is no reason not to start: the other files are queued nevertheless, and that one stays.
func (s *Spool) Redeliver(d *webhook.Dispatcher) error {
	f, err := s.take()
	if f == nil {
		return err
	}
	defer s.waiting.Done()
	f.before = s.account(d)
	faults := []error{err}
	var sum tally
	full := make(map[target]bool)
	f.segments = slices.DeleteFunc(f.segments, func(seg *segment) bool {
		err := s.queue(seg, d, full, &sum)
		faults = append(faults, err)
		return err != nil
	})
	s.report(sum)
	s.waiting.Go(func() { s.await(d, f) })
	return errors.Join(faults...)
}

// take ends the current segment and takes all that are not in another flight. Close waits for the caller then.
func (s *Spool) take() (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late != nil || s.closed {
		return nil, fmt.Errorf("webhookspool: %s: %w", s.dir, errClosed)
	}
	f := new(flight)
	err := s.seal()
	for _, seg := range s.segments {
		if !seg.away {
			seg.away = true
			f.segments = append(f.segments, seg)
		}
	}
	if len(f.segments) == 0 {
		return nil, err
	}
	s.flights = append(s.flights, f)
	s.waiting.Add(1)
	return f, err
}

// A target is where a delivery goes, roughly: with one that is full, nothing must overtake what waits.
type target struct{ app, url string }

// queue gives the deliveries of a segment to the dispatcher, and moves aside what is broken.
func (s *Spool) queue(seg *segment, d *webhook.Dispatcher, full map[target]bool, sum *tally) error {
	file, err := os.Open(seg.path)
	if err != nil {
		s.release(seg)
		return fmt.Errorf("webhookspool: %w: make it readable, or move it away", err)
	}
	defer file.Close()
	apps, found := make(map[string]int64), 0
	seg.full = make(map[int64]bool)
	broken, err := scan(file, func(r record) (bool, error) {
		to := target{r.delivery.AppID, r.delivery.URL}
		switch {
		case s.expired(r.delivery):
			sum.expired++
		case full[to]:
			seg.full[r.at] = true
		default:
			switch err := d.Redeliver(r.delivery); {
			case err == nil:
				sum.queued++
			case errors.Is(err, webhook.ErrQueueFull), errors.Is(err, webhook.ErrClosed):
				full[to], seg.full[r.at] = true, true
			default:
				s.cfg.Logger.Warn("stored webhook is not valid", "file", seg.path, "offset", r.at, "error", err)
				return false, nil
			}
		}
		found++
		apps[r.delivery.AppID] += int64(len(r.line))
		return true, nil
	})
	sum.full += len(seg.full)
	sum.broken += len(broken)
	s.mu.Lock()
	seg.apps = apps
	s.mu.Unlock()
	if err != nil { // what was read is queued; the file stays, and with it what was not
		s.release(seg)
		return fmt.Errorf("webhookspool: %w: see to the disk, or move the file away", err)
	}
	return s.separate(seg, file, broken, found)
}

func (s *Spool) expired(d *webhook.Delivery) bool {
	return s.cfg.MaxAge > 0 && !d.CreatedAt.IsZero() && time.Since(d.CreatedAt) > s.cfg.MaxAge
}

func (s *Spool) report(sum tally) {
	s.mu.Lock()
	s.stats.Redelivered += uint64(sum.queued)
	s.stats.Expired += uint64(sum.expired)
	s.stats.Broken += uint64(sum.broken)
	s.mu.Unlock()
	level := s.cfg.Logger.Info
	if sum.full+sum.expired+sum.broken > 0 {
		level = s.cfg.Logger.Warn
	}
	level("stored webhooks redelivered", "dir", s.dir, "deliveries", sum.queued, "found_no_room", sum.full,
		"expired", sum.expired, "broken", sum.broken)
}

// separate moves broken parts of a segment aside. One that holds nothing else goes as a whole.
func (s *Spool) separate(seg *segment, file *os.File, broken []span, found int) error {
	if len(broken) == 0 {
		return nil
	}
	var err error
	var to string
	if found == 0 {
		if to, err = freeName(seg.path + ".broken"); err == nil {
			err = errors.Join(os.Rename(seg.path, to), syncDir(s.dir))
		}
		if err == nil {
			s.drop(seg)
		}
	} else {
		to, err = s.copyAside(seg, file, broken)
	}
	if err != nil {
		s.release(seg)
		return fmt.Errorf("webhookspool: %s: could not move aside what is broken: %w: free space on the disk, or move the file away", seg.path, err)
	}
	s.cfg.Logger.Warn("broken file in the spool of webhooks", "file", seg.path, "moved_to", to, "deliveries_found", found)
	return nil
}

// freeName returns a path that does not exist.
func freeName(path string) (string, error) {
	for n, name := 1, path; ; n++ {
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s-%d", path, n)
	}
}

// copyAside copies broken parts of a segment into a file that is named by its contents: who finds the same parts
// after a crash makes the same file.
func (s *Spool) copyAside(seg *segment, file *os.File, broken []span) (string, error) {
	sum := crc32.New(castagnoli)
	var to string
	err := replace(seg.path+".new", func(out io.Writer) error {
		for _, part := range broken {
			if _, err := io.Copy(io.MultiWriter(out, sum), io.NewSectionReader(file, part.from, part.to-part.from)); err != nil {
				return err
			}
		}
		return nil
	}, func() string {
		to = fmt.Sprintf("%s.broken-%08x", seg.path, sum.Sum32())
		return to
	})
	return to, errors.Join(err, syncDir(s.dir))
}

// replace writes a file beside, and gives it its name only when it is whole and synced.
func replace(beside string, write func(io.Writer) error, name func() string) error {
	out, err := os.OpenFile(beside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = write(out)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(beside, name())
	}
	if err != nil {
		_ = os.Remove(beside)
	}
	return err
}

// await settles a flight when all of it has ended, unless Close does.
func (s *Spool) await(d *webhook.Dispatcher, f *flight) {
	if d.Flush(s.ctx) != nil {
		return
	}
	s.mu.Lock()
	closing := s.late != nil // then hooks may still have something to store
	s.mu.Unlock()
	if closing {
		return
	}
	if err := s.settle(d, f); err != nil {
		s.cfg.Logger.Error("webhooks that have arrived stay in the spool, and will be sent again", "error", err)
	}
}

// out returns the flights that are not settled.
func (s *Spool) out() []*flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.flights)
}

// settle removes what a flight has brought to its end. What found no room there stays, and so does all of an app of
// which something could not be stored again meanwhile.
func (s *Spool) settle(d *webhook.Dispatcher, f *flight) error {
	err := s.sync() // new copies first
	if now := s.account(d); now.undelivered > f.before.undelivered && now.told == f.before.told {
		err = errors.Join(err, errors.New("what was given up was not stored: set Hooks.Undelivered to the spool's"))
	}
	s.mu.Lock()
	tainted := maps.Clone(s.tainted)
	s.mu.Unlock()
	stays := func(appID string) bool { return tainted[appID] || tainted[""] }
	faults := []error{err}
	for _, seg := range f.segments {
		if err == nil {
			faults = append(faults, s.settleSegment(seg, stays))
		}
		s.release(seg)
	}
	s.landed(f)
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("webhookspool: %w", err)
	}
	return nil
}

// landed forgets a flight.
func (s *Spool) landed(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flights = slices.DeleteFunc(s.flights, func(other *flight) bool { return other == f })
	if len(s.flights) == 0 {
		clear(s.tainted)
	}
}

func (s *Spool) settleSegment(seg *segment, stays func(appID string) bool) error {
	s.mu.Lock()
	some, all := len(seg.full) > 0, true
	for appID := range seg.apps {
		some, all = some || stays(appID), all && stays(appID)
	}
	s.mu.Unlock()
	switch {
	case !some:
		if err := os.Remove(seg.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		s.drop(seg)
		return syncDir(s.dir)
	case all:
		return nil
	}
	return s.rewrite(seg, func(r record) bool { return seg.full[r.at] || stays(r.delivery.AppID) })
}

// rewrite leaves only some records in a segment.
func (s *Spool) rewrite(seg *segment, keep func(record) bool) error {
	in, err := os.Open(seg.path)
	if err != nil {
		return err
	}
	defer in.Close()
	size, apps := int64(0), make(map[string]int64)
	err = replace(seg.path+".new", func(out io.Writer) error {
		_, err := scan(in, func(r record) (bool, error) {
			if !keep(r) {
				return true, nil
			}
			size += int64(len(r.line))
			apps[r.delivery.AppID] += int64(len(r.line))
			_, err := out.Write(r.line)
			return true, err
		})
		return err
	}, func() string { return seg.path })
	if err != nil {
		return fmt.Errorf("%w: free space on the disk", err)
	}
	s.mu.Lock()
	seg.size, seg.apps = size, apps
	s.mu.Unlock()
	return syncDir(s.dir)
}

// release has the next flight take a segment.
func (s *Spool) release(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.away = false
}

// drop forgets a segment that is no more.
func (s *Spool) drop(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = slices.DeleteFunc(s.segments, func(other *segment) bool { return other == seg })
}
