package main

import (
	"context"
	"fmt"
	"io"
)

// emitFigures are the rounds of one contender in one case.
type emitFigures struct {
	ns, cpu, bytes, allocs series
	lost                   int
}

// emitKey is a case and a contender, by their names.
type emitKey struct{ emitCase, contender string }

type emitTable struct {
	cases   []emitCase
	figures map[emitKey]*emitFigures
}

// compareEmit is the parent's part.
func compareEmit(ctx context.Context, o options) (*emitTable, error) {
	t := &emitTable{cases: emitCases(), figures: make(map[emitKey]*emitFigures)}
	for round := range o.rounds {
		for _, c := range t.cases {
			for k, contender := range emitContenders {
				if !c.has(contender.name) {
					continue
				}
				o.progress("emit, round %d: %s, %s", round+1, c.Name, contender.name)
				result, err := measure[emitResult](ctx, "emit", emitSpec{k, c, o.emitEvents(c, contender)})
				if err != nil {
					return nil, err
				}
				t.add(emitKey{c.Name, contender.name}, result)
			}
		}
	}
	return t, nil
}

// emitEvents is how many events make a round.
func (o options) emitEvents(c emitCase, contender emitContender) int {
	switch {
	case o.quick:
		return 2000
	case c.Burst > 0:
		return 2000 * c.Burst
	}
	return contender.events
}

func (t *emitTable) add(key emitKey, r emitResult) {
	f := t.figures[key]
	if f == nil {
		f = &emitFigures{}
		t.figures[key] = f
	}
	f.add(r)
}

func (f *emitFigures) add(r emitResult) {
	f.ns = append(f.ns, r.NS)
	if r.CPUNS > 0 {
		f.cpu = append(f.cpu, r.CPUNS)
	}
	f.bytes = append(f.bytes, r.Bytes)
	f.allocs = append(f.allocs, r.Allocs)
	f.lost += r.Lost
}

func (t *emitTable) print(w io.Writer) error {
	out := table{
		title: "Emit",
		note: "One event. Time is the caller's, CPU that of its thread; bytes and allocations count until the event is sent. In a " +
			"process with 64 MiB of live heap, or 2 MiB where it says small heap. The endpoint is always busy, unless it " +
			"rests. Several cores: wall time by all events, so half is twice as fast.",
		header: []string{"case", "contender", "ns/op", "CPU ns/op", "B/op", "allocs/op", "its time to webhook's", "lost"},
		names:  2,
	}
	for _, c := range t.cases {
		for _, contender := range emitContenders {
			f := t.figures[emitKey{c.Name, contender.name}]
			if f == nil {
				continue
			}
			against := "1"
			if contender.name != emitWebhook {
				against = f.ns.over(t.ns(c.Name, emitWebhook)).cell(times)
			}
			out.add(c.Name, contender.name, f.ns.cell(number), f.cpu.cell(number), f.bytes.cell(number), number(f.allocs.median()),
				against, count(float64(f.lost)))
		}
	}
	if err := out.print(w); err != nil {
		return err
	}
	return printRatios(w, "Emit, ratios of time, and garbage", t.ratios())
}

func (t *emitTable) ns(name, contender string) series { return t.figures[emitKey{name, contender}].ns }

func (t *emitTable) ratios() (ratios []ratio) {
	for _, r := range []struct{ ours, floor, what string }{
		{wanted, wanted, ""},
		{wantedMetrics, wanted, ", Prometheus' hooks"},
		{wantedSmall, wantedSmall, ", both in a small heap"},
		{wantedSmallMetrics, wantedSmall, ", both in a small heap, Prometheus' hooks"},
	} {
		ours, floor := t.figures[emitKey{r.ours, emitWebhook}], t.figures[emitKey{r.floor, emitFloor}]
		ratios = append(ratios,
			ratio{what: "wanted, to the floor" + r.what, values: ours.ns.over(floor.ns), aim: "≤ 3"},
			ratio{what: "the same, CPU", values: ours.cpu.over(floor.cpu), aim: "≤ 3"},
			ratio{"garbage of it", ours.bytes, "< 1 B", inBytes})
	}
	last := t.cases[len(t.cases)-1]
	floor := t.ns(wanted, emitFloor)
	return append(ratios,
		ratio{what: "wanted, to OpenTelemetry's", values: t.ns(wanted, emitWebhook).over(t.ns(wanted, emitOTel)), aim: "≤ 0.5"},
		ratio{what: "filtered out, to the floor", values: t.ns(filteredOut, emitWebhook).over(floor), aim: "≤ 1.2"},
		ratio{what: "nobody wants the type, to the floor", values: t.ns(otherType, emitWebhook).over(floor), aim: "≤ 1.2"},
		ratio{what: fmt.Sprintf("events/s of %d cores with an app each, to one core", last.Workers),
			values: t.ns(wanted, emitWebhook).over(t.ns(last.Name, emitWebhook)), aim: "≥ 1.7 on 2"})
}
