package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
)

// An emitCase is one row group of the Emit table.
type emitCase struct {
	Name    string
	Filter  string // prefix that channels must have; "" lets all through
	Type    string // event type that is asked for; "" is the one that is emitted
	Copies  int    // endpoints that want every event
	Workers int    // goroutines that emit
	Shared  bool   // by all workers to one app; otherwise each has an app of its own
}

func emitCases() []emitCase {
	cores := runtime.GOMAXPROCS(0)
	return []emitCase{
		{Name: "wanted", Copies: 1, Workers: 1},
		{Name: "filtered out", Copies: 1, Workers: 1, Filter: "private-"},
		{Name: "nobody wants the type", Copies: 1, Workers: 1, Type: "channel_vacated"},
		{Name: "10 endpoints want it", Copies: 10, Workers: 1},
		{Name: fmt.Sprintf("%d cores, one endpoint", cores), Copies: 1, Workers: cores, Shared: true},
		{Name: fmt.Sprintf("%d cores, an app each", cores), Copies: 1, Workers: cores},
	}
}

// apps is the number of apps that a case emits to.
func (c *emitCase) apps() int {
	if c.Shared {
		return 1
	}
	return c.Workers
}

// app is the one that a worker emits to.
func (c *emitCase) app(worker int) int {
	if c.Shared {
		return 0
	}
	return worker
}

// An emitter takes events from a number of workers.
type emitter struct {
	emit   func(worker, i int) error
	settle func() error          // makes room for the next chunk, outside the clock; may be nil
	lost   func(emitted int) int // asked at the end: events that were taken and are gone; may be nil
}

// emitContender is one column of the comparison.
type emitContender struct {
	name   string
	events int // a round, in chunks
	open   func(emitCase) (emitter, error)
	runs   func(emitCase) bool
}

func always(emitCase) bool { return true }

// chunk is the number of events that are emitted between two settlings. Queues are made to hold one.
const chunk = 50_000

var emitContenders = []emitContender{
	{"webhook", 120 * chunk, openWebhook, always},
	{"floor: lock + append", 120 * chunk, openFloor, func(c emitCase) bool { return c.Filter == "" && c.Type == "" }},
	{"OpenTelemetry log batcher", 20 * chunk, openOTel, func(c emitCase) bool { return c.Filter == "" && c.Type == "" }},
	{"LiveKit URLNotifier", 4 * chunk, openLiveKit, func(c emitCase) bool { return c.Filter == "" }},
	{"segmentio analytics-go", 4 * chunk, openSegmentio, func(c emitCase) bool { return c.Filter == "" && c.Type == "" }},
}

type emitSpec struct {
	Contender int
	Case      emitCase
	Events    int
}

type emitResult struct {
	NS, Bytes, Allocs float64 // an event
	Lost              int
}

// serverHeap is what lives beside the contender, as in a server with some thousand connections. In a process
// with nothing else the garbage collector would run every few milliseconds, and be most of what is measured of
// those that allocate.
const serverHeap = 64 << 20

// measureEmit is the child's part.
func measureEmit(spec emitSpec) (emitResult, error) {
	heap := make([]byte, serverHeap)
	defer runtime.KeepAlive(heap)
	e, err := emitContenders[spec.Contender].open(spec.Case)
	if err != nil {
		return emitResult{}, err
	}
	var took time.Duration
	var mallocs, bytes uint64
	perWorker := max(1, min(chunk, spec.Events)/spec.Case.Workers)
	all, emitted := 0, 0
	for warm := true; warm || emitted < spec.Events; warm = false {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		chunkTook, err := emitChunk(&e, spec.Case.Workers, perWorker)
		if err != nil {
			return emitResult{}, err
		}
		runtime.ReadMemStats(&after)
		if e.settle != nil {
			if err := e.settle(); err != nil {
				return emitResult{}, err
			}
		}
		all += perWorker * spec.Case.Workers
		if !warm { // the first chunk fills caches, pools and the heap
			took += chunkTook
			mallocs += after.Mallocs - before.Mallocs
			bytes += after.TotalAlloc - before.TotalAlloc
			emitted += perWorker * spec.Case.Workers
		}
	}
	n := float64(emitted)
	result := emitResult{NS: float64(took) / n, Bytes: float64(bytes) / n, Allocs: float64(mallocs) / n}
	if e.lost != nil {
		result.Lost = e.lost(all)
	}
	return result, nil
}

// emitChunk has every worker emit n events and returns how long the slowest took.
func emitChunk(e *emitter, workers, n int) (time.Duration, error) {
	if workers == 1 {
		started := time.Now()
		for i := range n {
			if err := e.emit(0, i); err != nil {
				return 0, err
			}
		}
		return time.Since(started), nil
	}
	errs := make([]error, workers)
	var done sync.WaitGroup
	started := time.Now()
	for worker := range workers {
		done.Go(func() {
			for i := range n {
				if err := e.emit(worker, i); err != nil {
					errs[worker] = err
					return
				}
			}
		})
	}
	done.Wait()
	took := time.Since(started)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}

// emitFigures are the rounds of one contender in one case.
type emitFigures struct {
	ns, bytes, allocs series
	lost              int
}

type emitTable struct {
	cases   []emitCase
	figures map[[2]int]*emitFigures // by case and contender
}

// compareEmit is the parent's part.
func compareEmit(ctx context.Context, o options) (*emitTable, error) {
	t := &emitTable{cases: emitCases(), figures: make(map[[2]int]*emitFigures)}
	for round := range o.rounds {
		for c := range t.cases {
			for k := range emitContenders {
				contender := &emitContenders[k]
				if !contender.runs(t.cases[c]) {
					continue
				}
				o.progress("emit, round %d: %s, %s", round+1, t.cases[c].Name, contender.name)
				spec := emitSpec{Contender: k, Case: t.cases[c], Events: contender.events}
				if o.quick {
					spec.Events = 2000
				}
				result, err := measure[emitResult](ctx, "emit", spec)
				if err != nil {
					return nil, err
				}
				t.add(c, k, result)
			}
		}
	}
	return t, nil
}

func (t *emitTable) add(c, contender int, r emitResult) {
	key := [2]int{c, contender}
	f := t.figures[key]
	if f == nil {
		f = &emitFigures{}
		t.figures[key] = f
	}
	f.ns = append(f.ns, r.NS)
	f.bytes = append(f.bytes, r.Bytes)
	f.allocs = append(f.allocs, r.Allocs)
	f.lost += r.Lost
}

func (t *emitTable) print(w io.Writer) error {
	out := table{
		title: "Emit",
		note: "One event, from the caller's side, in a process with 64 MiB of live heap. Several cores: wall time by all " +
			"events, so half is twice as fast.",
		header: []string{"case", "contender", "ns/op", "B/op", "allocs/op", "its time to webhook's", "lost"},
		names:  2,
	}
	for c := range t.cases {
		for k := range emitContenders {
			f := t.figures[[2]int{c, k}]
			if f == nil {
				continue
			}
			against := "1"
			if k != 0 {
				against = f.ns.over(t.figures[[2]int{c, 0}].ns).cell(times)
			}
			out.add(t.cases[c].Name, emitContenders[k].name, f.ns.cell(number),
				number(f.bytes.median()), number(f.allocs.median()), against, count(float64(f.lost)))
		}
	}
	if err := out.print(w); err != nil {
		return err
	}
	return printRatios(w, "Emit, ratios of time", t.ratios())
}

func (t *emitTable) ratios() []ratio {
	const ours, floor, otel = 0, 1, 2
	ns := func(c, contender int) series { return t.figures[[2]int{c, contender}].ns }
	last := len(t.cases) - 1
	return []ratio{
		{"wanted, to the floor", ns(0, ours).over(ns(0, floor)), "≤ 3"},
		{"wanted, to OpenTelemetry's", ns(0, ours).over(ns(0, otel)), "≤ 0.5"},
		{"filtered out, to the floor", ns(1, ours).over(ns(0, floor)), "≤ 1.2"},
		{"nobody wants the type, to the floor", ns(2, ours).over(ns(0, floor)), "≤ 1.2"},
		{fmt.Sprintf("events/s of %d cores with an app each, to one core", t.cases[last].Workers),
			ns(0, ours).over(ns(last, ours)), "≥ 1.7 on 2"},
	}
}
