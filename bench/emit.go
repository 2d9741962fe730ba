package main

import (
	"errors"
	"runtime"
	"sync"
	"time"
)

// An emitter takes events from a number of workers.
type emitter struct {
	emit   func(worker, i int) error
	settle func() error          // waits until there is room for the next chunk, outside the clock; may be nil
	renew  func() error          // makes the emitter anew for the next chunk, which costs it nothing; may be nil
	lost   func(emitted int) int // asked at the end: events that were taken and are gone; may be nil
	prompt bool                  // emit never waits, so its CPU time says as much, and nobody else disturbs that
}

// emitContender is one column of the comparison.
type emitContender struct {
	name   string
	events int // a round
	open   func(emitCase) (emitter, error)
}

const (
	emitWebhook   = "webhook"
	emitFloor     = "floor: lock + append"
	emitOTel      = "OpenTelemetry log batcher"
	emitLiveKit   = "LiveKit URLNotifier"
	emitSegmentio = "segmentio analytics-go"
	emitDurable   = "queue" // has a part of its own
)

var emitContenders = []emitContender{
	{emitWebhook, 6_000_000, openWebhook},
	{emitFloor, 6_000_000, openFloor},
	{emitOTel, 1_000_000, openOTel},
	{emitLiveKit, 200_000, openLiveKit},
	{emitSegmentio, 200_000, openSegmentio},
	{emitDurable, 2_000_000, openDurable},
}

type emitSpec struct {
	Contender int
	Case      emitCase
	Events    int
}

// An emitResult tells of one event: its caller's time, and what was allocated on its way.
type emitResult struct {
	NS            float64
	CPUNS         float64 // of the caller's thread; 0 where it was not measured
	Bytes, Allocs float64
	Lost          int
}

// serverHeap is what lives beside the contender, as in a server with some thousand connections. In a process
// with nothing else the garbage collector would run every few milliseconds, and be most of what is measured of
// those that allocate.
const serverHeap = 64 << 20

// measureEmit is the child's part.
func measureEmit(spec emitSpec) (emitResult, error) {
	if !spec.Case.Small {
		heap := make([]byte, serverHeap)
		defer runtime.KeepAlive(heap)
	}
	e, err := emitContenders[spec.Contender].open(spec.Case)
	if err != nil {
		return emitResult{}, err
	}
	perWorker := spec.Case.perWorker(spec.Events)
	perChunk := perWorker * spec.Case.Workers
	if _, err := e.chunk(spec.Case.Workers, perWorker); err != nil { // fills caches, pools and the heap
		return emitResult{}, err
	}
	var sum emitResult
	emitted := 0
	for ; emitted < spec.Events; emitted += perChunk {
		one, err := e.chunk(spec.Case.Workers, perWorker)
		if err != nil {
			return emitResult{}, err
		}
		sum.add(one)
	}
	result := sum.each(emitted)
	if e.prompt && spec.Case.Workers == 1 {
		if result.CPUNS, err = e.cpu(perChunk, spec.Events/4); err != nil {
			return emitResult{}, err
		}
		emitted += max(1, spec.Events/4/perChunk) * perChunk
	}
	if e.lost != nil {
		result.Lost = e.lost(emitted + perChunk)
	}
	return result, nil
}

func (r *emitResult) add(one emitResult) {
	r.NS += one.NS
	r.Bytes += one.Bytes
	r.Allocs += one.Allocs
}

// each is r of one of n events.
func (r *emitResult) each(n int) emitResult {
	return emitResult{NS: r.NS / float64(n), Bytes: r.Bytes / float64(n), Allocs: r.Allocs / float64(n)}
}

// chunk has every worker emit n events. Time is the slowest worker's. What the events leave behind until they are
// sent counts too: it is garbage of the same process.
func (e *emitter) chunk(workers, n int) (emitResult, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	took, err := e.emitAll(workers, n)
	if err == nil && e.settle != nil {
		err = e.settle()
	}
	runtime.ReadMemStats(&after)
	if err == nil && e.renew != nil {
		err = e.renew()
	}
	return emitResult{
		NS:     float64(took),
		Bytes:  float64(after.TotalAlloc - before.TotalAlloc),
		Allocs: float64(after.Mallocs - before.Mallocs),
	}, err
}

func (e *emitter) emitAll(workers, n int) (time.Duration, error) {
	if workers == 1 {
		started := time.Now()
		err := e.emitSome(0, n)
		return time.Since(started), err
	}
	errs := make([]error, workers)
	var done sync.WaitGroup
	started := time.Now()
	for worker := range workers {
		done.Go(func() { errs[worker] = e.emitSome(worker, n) })
	}
	done.Wait()
	return time.Since(started), errors.Join(errs...)
}

// cpu returns the CPU time of an event, in chunks of so many. It is measured apart: the goroutine has to stay on its
// thread, which makes it slow to wait for a lock.
func (e *emitter) cpu(perChunk, events int) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var used time.Duration
	chunks := max(1, events/perChunk)
	for range chunks {
		before, err := threadTime()
		if err != nil {
			return 0, err
		}
		if err := e.emitSome(0, perChunk); err != nil {
			return 0, err
		}
		after, err := threadTime()
		if err != nil {
			return 0, err
		}
		used += after - before
		if e.settle != nil {
			if err := e.settle(); err != nil {
				return 0, err
			}
		}
	}
	return float64(used) / float64(chunks*perChunk), nil
}

func (e *emitter) emitSome(worker, n int) error {
	for i := range n {
		if err := e.emit(worker, i); err != nil {
			return err
		}
	}
	return nil
}
