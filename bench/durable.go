package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The rows of the durable table. Each is compared with the first.
const (
	inMemory     = "memory"
	inDirectory  = "embedded, SyncAlways"
	threeServers = "three servers, R3, default sync"
	manyApps     = "the same, 64 apps"
	oneWorker    = "one worker"
	twoWorkers   = "two workers"
)

var durableRoutes = []route{
	{name: inMemory, spec: sendSpec{Sender: "webhook", Batch: 1000, Events: 2_000_000}, marker: pusherMarker, signed: true},
	{name: inDirectory, spec: sendSpec{Sender: "durable", Batch: 1000, Events: 2_000_000}, marker: pusherMarker, signed: true},
	{name: threeServers, spec: sendSpec{Sender: "durable", Batch: 1000, Events: 1_000_000, Queue: queueSpec{Workers: 1}}, marker: pusherMarker, signed: true},
	{name: manyApps, spec: sendSpec{Sender: "durable", Batch: 1000, Events: 1_280_000, Apps: 64, Queue: queueSpec{Workers: 1}}, marker: pusherMarker, signed: true},
}

// workerRoutes are of one server and several apps, which workers share.
var workerRoutes = []route{
	{name: oneWorker, spec: sendSpec{Sender: "durable", Batch: 1000, Events: 1_280_000, Apps: 64, Queue: queueSpec{Workers: 1}}, marker: pusherMarker, signed: true},
	{name: twoWorkers, spec: sendSpec{Sender: "durable", Batch: 1000, Events: 1_280_000, Apps: 64, Queue: queueSpec{Workers: 2}}, marker: pusherMarker, signed: true},
}

// A durableTable says what it costs that events survive.
type durableTable struct {
	disk
	sent     endToEndTable
	emit     map[string]*emitFigures
	unstored map[string]*unstoredFigures
	startUps []*startUpFigures
}

// compareDurable is the parent's part.
func compareDurable(ctx context.Context, o options) (_ *durableTable, err error) {
	dir, err := os.MkdirTemp(o.dir, "webhook-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := &durableTable{
		sent: endToEndTable{figures: make(map[string]*endToEndFigures)}, emit: make(map[string]*emitFigures), unstored: make(map[string]*unstoredFigures),
		startUps: []*startUpFigures{{what: "in groups as they come"}, {what: "a message each", single: true}},
	}
	if t.disk, err = measureDisk(dir); err != nil {
		return nil, err
	}
	for round := range o.rounds {
		o.progress("durable, round %d", round+1)
		if err := t.round(ctx, o, dir); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// round makes each measurement once.
func (t *durableTable) round(ctx context.Context, o options, dir string) error {
	for _, r := range durableRoutes {
		servers := 0
		switch r.name {
		case inDirectory:
			r.spec.Queue.Dir = filepath.Join(dir, "embedded")
		case threeServers, manyApps:
			servers = 3
		}
		if err := t.send(ctx, o, r, dir, servers, true); err != nil {
			return err
		}
	}
	for _, r := range workerRoutes {
		if err := t.send(ctx, o, r, dir, 1, false); err != nil {
			return err
		}
	}
	if err := t.emits(ctx, o, dir); err != nil {
		return err
	}
	for _, f := range t.startUps {
		o.progress("durable: start-up, %s", f.what)
		if err := f.run(ctx, o, filepath.Join(dir, f.what)); err != nil {
			return fmt.Errorf("start-up, %s: %w", f.what, err)
		}
	}
	return os.RemoveAll(dir)
}

// send measures one row, with servers of its own, and if slowly is set also at a steady rate.
func (t *durableTable) send(ctx context.Context, o options, r route, dir string, servers int, slowly bool) (err error) {
	o.progress("durable: %s", r.name)
	if servers > 0 {
		cluster, err := startNATS(ctx, filepath.Join(dir, r.name), servers)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, cluster.stop()) }()
		r.spec.Queue.Servers, r.spec.Queue.PIDs = cluster.urls, cluster.pids
	}
	if o.quick {
		r.spec.Events /= 20
	}
	err = t.sent.run(ctx, r, nil)
	if err == nil && slowly {
		err = t.waits(ctx, o, r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// emits has a goroutine emit as fast as it can, into memory and to a directory.
func (t *durableTable) emits(ctx context.Context, o options, dir string) error {
	for k, contender := range emitContenders {
		if contender.name != emitWebhook && contender.name != emitDurable {
			continue
		}
		o.progress("durable: Emit, %s", contender.name)
		c := emitCase{Name: wanted, Copies: 1, Workers: 1, Dir: filepath.Join(dir, "emit")}
		r, err := measure[emitResult](ctx, "emit", emitSpec{k, c, o.emitEvents(c, contender)})
		if err != nil {
			return err
		}
		if t.emit[contender.name] == nil {
			t.emit[contender.name] = &emitFigures{}
		}
		t.emit[contender.name].add(r)
	}
	return nil
}

// unstoredFigures are the rounds of one row.
type unstoredFigures struct{ events50, events99, ns50, ns99, cpu series }

// waits emits at a steady rate.
func (t *durableTable) waits(ctx context.Context, o options, r route) error {
	spec := unstoredSpec{Queue: r.spec.Queue, Apps: max(1, r.spec.Apps), Rate: 20_000, Events: 200_000}
	if o.quick {
		spec.Events = 20_000
	}
	target, err := startReceiver(ctx, receiverSpec{Marker: r.marker, Signed: r.signed})
	if err != nil {
		return err
	}
	spec.URL = target.url
	got, err := measure[unstoredResult](ctx, "unstored", spec)
	_, stopErr := target.stop()
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	f := t.unstored[r.name]
	if f == nil {
		f = &unstoredFigures{}
		t.unstored[r.name] = f
	}
	f.events50 = append(f.events50, got.Events50)
	f.events99 = append(f.events99, got.Events99)
	f.ns50 = append(f.ns50, got.NS50)
	f.ns99 = append(f.ns99, got.NS99)
	f.cpu = append(f.cpu, got.CPUNS)
	return nil
}

func (t *durableTable) print(w io.Writer) error {
	for _, printed := range []*table{t.sentTable(), t.unstoredTable(), t.workersTable(), t.emitTable(), startUpTable(t.startUps)} {
		if err := printed.print(w); err != nil {
			return err
		}
	}
	return printRatios(w, "Durable, aims", t.ratios())
}

func (t *durableTable) sentTable() *table {
	out := &table{
		title: "Durable",
		note: "To a receiver in another process, over loopback, in batches of 1000, one app unless it says more. CPU is the sender's and the servers'. " +
			"SyncAlways: each group of events is synced before it counts as stored. Three servers: processes on this machine, three copies, " +
			"each synced every two minutes, 16 partitions, so an app is in one; a node and a worker, a connection each. The directory is on " + t.disk.String() + ".",
		header: []string{"events are kept in", "events/s", "to memory's", "CPU µs/event", "to memory's", "requests", "peak RSS", "lost"},
	}
	t.addSent(out, durableRoutes)
	return out
}

// addSent adds rows to a table, compared with the first.
func (t *durableTable) addSent(out *table, routes []route) {
	first := t.sent.figures[routes[0].name]
	for _, r := range routes {
		f := t.sent.figures[r.name]
		out.add(r.name, f.rate.cell(number), f.rate.over(first.rate).cell(times), f.cpu.cell(microseconds), f.cpu.over(first.cpu).cell(times),
			f.requests.cell(count), f.peak.cell(mebibytes), f.losses())
	}
}

func (t *durableTable) workersTable() *table {
	out := &table{
		title: "Workers",
		note: "64 apps with an endpoint each, 16 partitions, on one nats-server as it comes. The workers are in one process, with a " +
			"connection each, and share this machine's cores with everything else.",
		header: []string{"who delivers", "events/s", "to one's", "CPU µs/event", "to one's", "requests", "peak RSS", "lost"},
	}
	t.addSent(out, workerRoutes)
	return out
}

func (t *durableTable) unstoredTable() *table {
	out := &table{
		title: "Accepted and not stored yet",
		note: "At 20 000 events/s, delivered over loopback meanwhile: how many events are not stored at a moment, and how " +
			"long it takes until all of them are.",
		header: []string{"events are kept in", "p50 events", "p99 events", "p50 ms", "p99 ms", "CPU µs/event"},
	}
	for _, r := range durableRoutes {
		f := t.unstored[r.name]
		out.add(r.name, f.events50.cell(count), f.events99.cell(count), f.ns50.cell(milliseconds), f.ns99.cell(milliseconds), f.cpu.cell(microseconds))
	}
	return out
}

func (t *durableTable) emitTable() *table {
	out := &table{
		title: "Emit, memory and durable",
		note: "One event, as fast as it goes. CPU is that of the caller's thread; bytes and allocations are of the whole process, until the " +
			"event is delivered to a Sender that does nothing.",
		header: []string{"events are kept in", "CPU ns/op", "ns/op", "B/op", "allocs/op", "lost"},
	}
	for _, row := range []struct{ name, contender string }{{inMemory, emitWebhook}, {inDirectory, emitDurable}} {
		f := t.emit[row.contender]
		out.add(row.name, f.cpu.cell(number), f.ns.cell(number), f.bytes.cell(number), f.allocs.cell(number), count(float64(f.lost)))
	}
	return out
}

func (t *durableTable) ratios() []ratio {
	return []ratio{
		{what: "events/s, embedded to memory", values: t.sent.rate(inDirectory).over(t.sent.rate(inMemory)), aim: "≥ 0.3"},
		{what: "Emit's CPU, durable to memory", values: t.emit[emitDurable].cpu.over(t.emit[emitWebhook].cpu), aim: "≤ 2"},
		{what: "not stored yet, embedded, p99 ms", values: t.unstored[inDirectory].ns99, aim: "≤ 10", unit: milliseconds},
		{what: "not stored yet, three servers, p99 ms", values: t.unstored[threeServers].ns99, aim: "≤ 10", unit: milliseconds},
	}
}

// startUpFigures are the rounds of one row.
type startUpFigures struct {
	what                                        string
	single                                      bool
	events                                      int
	messages, bytes, opened, first, all, memory series
}

func (f *startUpFigures) run(ctx context.Context, o options, dir string) error {
	spec := startUpSpec{Dir: dir, Events: 1_000_000, Single: f.single}
	if o.quick {
		spec.Events = 20_000
	}
	f.events = spec.Events
	full, err := measure[filledResult](ctx, "fill", spec)
	if err != nil {
		return err
	}
	got, err := measure[startUpResult](ctx, "start-up", spec)
	if err != nil {
		return err
	}
	f.messages = append(f.messages, full.Messages)
	f.bytes = append(f.bytes, full.Bytes)
	f.opened = append(f.opened, got.Open)
	f.first = append(f.first, got.First)
	f.all = append(f.all, got.All)
	f.memory = append(f.memory, got.Peak)
	return nil
}

func startUpTable(all []*startUpFigures) *table {
	out := &table{
		title:  "Start-up",
		note:   "embedded.Open on a directory in which events wait, and their delivery to a Sender that accepts at once.",
		header: []string{"waiting", "events", "messages", "size", "Open ms", "first delivered ms", "all ms", "peak RSS"},
	}
	for _, f := range all {
		out.add(f.what, count(float64(f.events)), f.messages.cell(count), f.bytes.cell(mebibytes), f.opened.cell(milliseconds), f.first.cell(milliseconds),
			f.all.cell(milliseconds), f.memory.cell(mebibytes))
	}
	return out
}
