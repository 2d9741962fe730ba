package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A report is what the test has found.
type report struct {
	options
	began     time.Time
	tenants   int
	before    sample // there was a dispatcher
	idle      sample // all apps are set
	samples   []sample
	after     sample // Close
	released  sample // the dispatcher is gone
	cpu       time.Duration
	back      handedBack
	backErr   error
	closeTook time.Duration
	ledger    *ledger
	seen      seen
	emitTook  durations
	took      map[string]*durations
}

// verdict is nil if nothing is wrong.
func (r *report) verdict() error {
	var faults []error
	if len(r.samples) >= r.growthFrom {
		for _, f := range figures() {
			faults = append(faults, f.grown(r.samples))
		}
	}
	if late := r.closeTook - r.closeTime; late > 2*time.Second { // or the machine is busy with something else
		faults = append(faults, fmt.Errorf("the time of Close was up %v before it returned", late.Round(time.Millisecond)))
	}
	return errors.Join(append(faults, r.leftovers(), r.remains(), r.backErr, r.ledger.check(r.after.stats, &r.seen))...)
}

// heapLeft is how much more heap there may be after Close than when all apps were idle at first, beside what was handed
// back; half of it when the dispatcher is gone, beyond what was there before it came.
const heapLeft = 8 << 20

// remains says what the dispatcher leaves behind that it should not.
func (r *report) remains() error {
	if more := r.released.heap - r.before.heap; more > heapLeft/2 {
		return fmt.Errorf("without the dispatcher there are %s of heap more than before it", mebibytes(more))
	}
	return nil
}

// leftovers says what is still there after Close that should not be.
func (r *report) leftovers() error {
	var faults []error
	over := func(what string, got, most float64, unit func(float64) string) {
		if got > most {
			faults = append(faults, fmt.Errorf("after Close: %s: %s, may be %s", what, unit(got), unit(most)))
		}
	}
	s := r.after.stats
	over("heap", r.after.heap, r.idle.heap+r.back.bytes+heapLeft, mebibytes)
	over("goroutines", r.after.goroutines, r.before.goroutines, whole)
	over("descriptors", r.after.descriptors, r.before.descriptors, whole)
	over("Pending", float64(s.Pending), 0, whole)
	over("Held", float64(s.Held), 0, whole)
	over("PendingBytes", float64(s.PendingBytes), 0, whole)
	over("ActiveEndpoints", float64(s.ActiveEndpoints), 0, whole)
	return errors.Join(faults...)
}

func (r *report) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s/%s, %d cores, %s. %d idle apps, %d tenants, %v.\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), r.began.UTC().Format(time.DateOnly), r.idleApps, r.tenants, r.duration)
	fmt.Fprintf(&b, "| figure | idle | first third | last third | smallest | largest | after Close | without it |\n| --- |%s\n", strings.Repeat(" ---: |", 7))
	if len(r.samples) > 0 {
		for _, f := range figures() {
			first, last := f.thirds(r.samples)
			values := f.values(r.samples)
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", f.name, f.unit(f.of(r.idle)), f.unit(first), f.unit(last),
				f.unit(slices.Min(values)), f.unit(slices.Max(values)), f.unit(f.of(r.after)), f.unit(f.of(r.released)))
		}
	}
	r.printEvents(&b)
	fmt.Fprintf(&b, "\n| call | calls | p50 | p99 | p99.9 | worst |\n| --- |%s\n", strings.Repeat(" ---: |", 5))
	printDurations(&b, "Emit", &r.emitTook)
	for _, call := range calls {
		printDurations(&b, call, r.took[call])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) printEvents(w io.Writer) {
	s := r.after.stats
	rows := []struct {
		name  string
		value any
	}{
		{"emitted", s.Emitted}, {"rejected, the queue full or the app removed", s.Rejected}, {"left out by a timing rule", s.Suppressed},
		{"redelivered", r.ledger.redelivered.Load()}, {"queued", s.Queued}, {"delivered", s.Delivered},
		{"undelivered", s.Undelivered}, {"of these handed back by Close", fmt.Sprintf("%d (%s)", r.back.events, mebibytes(r.back.bytes))},
		{"requests at the endpoints", r.seen.Requests}, {"requests accepted", s.Requests},
		{"different events taken by the endpoints", r.seen.Accepted.len()}, {"different events refused by themselves", r.seen.Refused.len()},
		{"cores, the dispatcher's process", fmt.Sprintf("%.2f", r.cpu.Seconds()/r.duration.Seconds())},
		{"cores, the endpoints' process", fmt.Sprintf("%.2f", r.seen.CPU.Seconds()/r.duration.Seconds())},
		{"Close took", r.closeTook.Round(time.Millisecond)},
	}
	fmt.Fprintf(w, "\n| events and work | |\n| --- | ---: |\n")
	for _, row := range rows {
		fmt.Fprintf(w, "| %s | %v |\n", row.name, row.value)
	}
}

func printDurations(w io.Writer, name string, d *durations) {
	short := func(d time.Duration) string {
		switch {
		case d >= time.Millisecond:
			return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
		case d >= time.Microsecond:
			return fmt.Sprintf("%.1f µs", d.Seconds()*1e6)
		}
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	}
	fmt.Fprintf(w, "| %s | %d | %s | %s | %s | %s |\n", name, d.total, short(d.quantile(0.5)), short(d.quantile(0.99)),
		short(d.quantile(0.999)), short(d.worst))
}
