package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/pusherhooks/webhook"
)

// growthSpec asks for a number of endpoints, each of an app of its own.
type growthSpec struct {
	Endpoints int
	Events    int    // all endpoints together, in turns: the next event is never for the same one
	URL       string // of a receiver; empty: a Sender that does nothing
}

// growthBatch is the size of every batch, however many endpoints there are.
const growthBatch = 10

// A growthResult holds bytes an endpoint, goroutines of all of them, and nanoseconds an event.
type growthResult struct {
	IdleBytes, ActiveBytes, UsedBytes float64
	IdleGoroutines, ActiveGoroutines  float64
	EmitNS, WallNS, CPUNS             float64
	Lost                              int
}

// growthApps makes the configuration beforehand, so that its memory is not counted.
func growthApps(n int, url string) []webhook.App {
	if url == "" {
		url = "http://127.0.0.1"
	}
	apps := make([]webhook.App, n)
	for i := range apps {
		apps[i] = webhook.App{
			ID: appID(i), Key: appKey, Secret: appSecret,
			Webhooks: []webhook.Webhook{{
				URL: fmt.Sprintf("%s/%d", url, i), EventTypes: []webhook.EventType{eventType},
			}},
		}
	}
	return apps
}

// newGrowth returns a dispatcher whose windows do not end by themselves: batches are full, or flushed.
func newGrowth(url string) (*webhook.Dispatcher, error) {
	cfg := webhook.Config{
		BatchWindow:            time.Hour,
		MaxBatchEvents:         growthBatch,
		MaxQueuedBytes:         4 << 30, // one endpoint may hold what 100 000 do
		MaxEndpointQueuedBytes: 4 << 30,
	}
	if url == "" {
		cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })
	}
	return webhook.New(cfg)
}

// measureGrowth is the child's part.
func measureGrowth(spec growthSpec) (growthResult, error) {
	var result growthResult
	apps := growthApps(spec.Endpoints, spec.URL)
	events := newSource()
	d, err := newGrowth(spec.URL)
	if err != nil {
		return result, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), childTime)
	defer cancel()
	n := float64(spec.Endpoints)
	nothing, goroutines := held(), runtime.NumGoroutine()
	for _, app := range apps {
		if err := d.SetApp(app); err != nil {
			return result, err
		}
	}
	idle := held()
	result.IdleBytes = (idle - nothing) / n
	result.IdleGoroutines = float64(runtime.NumGoroutine() - goroutines)
	for i := range apps {
		if err := d.Emit(apps[i].ID, webhook.MemberAdded(events.event(i))); err != nil {
			return result, err
		}
	}
	result.ActiveBytes = (held() - nothing) / n
	result.ActiveGoroutines = float64(runtime.NumGoroutine() - goroutines)
	if err := d.Flush(ctx); err != nil {
		return result, err
	}
	result.UsedBytes = (held() - nothing) / n
	if err := result.run(ctx, d, apps, events, spec.Events); err != nil {
		return result, err
	}
	s := d.Stats()
	result.Lost = int(s.Queued-s.Delivered) + spec.Events + spec.Endpoints - int(s.Queued)
	return result, d.Close(ctx)
}

// run emits the events and waits until they are delivered.
func (r *growthResult) run(ctx context.Context, d *webhook.Dispatcher, apps []webhook.App, events *source, n int) error {
	cpuBefore, err := cpuTime()
	if err != nil {
		return err
	}
	started := time.Now()
	for i := range n {
		if err := d.Emit(apps[i%len(apps)].ID, webhook.MemberAdded(events.event(i))); err != nil {
			return err
		}
	}
	emitted := time.Since(started)
	if err := d.Flush(ctx); err != nil {
		return err
	}
	wall := time.Since(started)
	cpuAfter, err := cpuTime()
	if err != nil {
		return err
	}
	r.EmitNS = float64(emitted) / float64(n)
	r.WallNS = float64(wall) / float64(n)
	r.CPUNS = float64(cpuAfter-cpuBefore) / float64(n)
	return nil
}

// growthFigures are the rounds of one row.
type growthFigures struct {
	growthRow
	idle, active, used               series
	idleGoroutines, activeGoroutines series
	emit, wall, cpu                  series
	lost                             int
}

type growthRow struct {
	endpoints int
	posts     bool // to a receiver; otherwise the Sender does nothing
}

type growthTable struct {
	rows    []*growthFigures
	setApp  setAppFigures
	latency latencyFigures
}

// compareGrowth is the parent's part.
func compareGrowth(ctx context.Context, o options) (*growthTable, error) {
	t := &growthTable{}
	sizes, events, setApps := []int{1, 100, 10_000, 100_000}, 1_000_000, 100_000
	if o.quick {
		sizes, events, setApps = []int{1, 100, 1000}, 10_000, 10_000
	}
	for _, posts := range []bool{false, true} {
		for _, n := range sizes {
			t.rows = append(t.rows, &growthFigures{growthRow: growthRow{n, posts}})
		}
	}
	for round := range o.rounds {
		for _, row := range t.rows {
			o.progress("growth, round %d: %d endpoints", round+1, row.endpoints)
			if err := row.run(ctx, events); err != nil {
				return nil, err
			}
		}
		o.progress("growth, round %d: SetApp", round+1)
		if err := t.setApp.run(ctx, setApps); err != nil {
			return nil, err
		}
		o.progress("growth, round %d: dead endpoints", round+1)
		if err := t.latency.run(ctx, o.quick); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// run measures one row once.
func (f *growthFigures) run(ctx context.Context, events int) error {
	spec := growthSpec{Endpoints: f.endpoints, Events: events}
	var target *receiverProcess
	if f.posts {
		var err error
		if target, err = startReceiver(ctx, receiverSpec{Marker: pusherMarker, Signed: true}); err != nil {
			return err
		}
		spec.URL = target.url
	}
	r, err := measure[growthResult](ctx, "growth", spec)
	if target != nil {
		got, stopErr := target.stop()
		if err == nil {
			err = stopErr
		}
		f.lost += events + f.endpoints - int(got.Events)
	} else {
		f.lost += r.Lost
	}
	if err != nil {
		return err
	}
	f.idle = append(f.idle, r.IdleBytes)
	f.active = append(f.active, r.ActiveBytes)
	f.used = append(f.used, r.UsedBytes)
	f.idleGoroutines = append(f.idleGoroutines, r.IdleGoroutines)
	f.activeGoroutines = append(f.activeGoroutines, r.ActiveGoroutines)
	f.emit = append(f.emit, r.EmitNS)
	f.wall = append(f.wall, r.WallNS)
	f.cpu = append(f.cpu, r.CPUNS)
	return nil
}

func (t *growthTable) print(w io.Writer) error {
	work := table{
		title:  "Growth: the same events over more endpoints",
		note:   fmt.Sprintf("Every endpoint of an app of its own, events in turns, batches of %d everywhere.", growthBatch),
		names:  2,
		header: []string{"endpoints", "Sender", "Emit ns/event", "until delivered ns/event", "CPU ns/event", "lost"},
	}
	memory := table{
		title: "Growth: memory",
		note: "Bytes are per endpoint, beside its configuration: fresh, with a batch waiting, and after that was sent. " +
			"Goroutines are of all endpoints together.",
		header: []string{"endpoints", "bytes idle", "bytes active", "bytes idle again", "goroutines idle", "goroutines active"},
	}
	for _, f := range t.rows {
		sender := "does nothing"
		if f.posts {
			sender = "HTTP"
		}
		work.add(count(float64(f.endpoints)), sender, f.emit.cell(number), f.wall.cell(number), f.cpu.cell(number), fmt.Sprint(f.lost))
		if !f.posts {
			memory.add(count(float64(f.endpoints)), f.idle.cell(count), f.active.cell(count), f.used.cell(count),
				f.idleGoroutines.cell(count), f.activeGoroutines.cell(count))
		}
	}
	for _, printed := range []*table{&work, &memory, t.setApp.table(), t.latency.table()} {
		if err := printed.print(w); err != nil {
			return err
		}
	}
	return printRatios(w, "Growth, ratios", t.ratios())
}

func (t *growthTable) ratios() []ratio {
	var ratios []ratio
	var one *growthFigures
	for _, f := range t.rows {
		if f.endpoints == 1 {
			one = f
			continue
		}
		what := fmt.Sprintf("CPU of an event, %s endpoints to 1", count(float64(f.endpoints)))
		if f.posts {
			what += ", HTTP"
		}
		aim := ""
		if f.endpoints == 10_000 {
			aim = "≤ 1.5"
		}
		ratios = append(ratios, ratio{what: what, values: f.cpu.over(one.cpu), aim: aim})
	}
	return append(ratios, ratio{what: "Emit's p99 beside dead endpoints, to alone",
		values: t.latency.dead.p99.over(t.latency.alone.p99), aim: "≤ 2"})
}
