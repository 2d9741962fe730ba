// Command bench measures webhook side by side with what a user might pick instead, and prints Markdown tables.
// Everything runs on this machine and speaks over the loopback interface only; the one thing that is fetched
// is soketi's package, with npm, once.
//
//	go run .                       # everything: forty minutes
//	go run . -only e2e -svg a.svg  # one part, and the chart of it
//	go run . -quick                # small counts, one round: does it still work?
//
// With BENCH_PROFILES set to a directory, every measuring process leaves profiles of CPU, allocations, mutexes
// and blocking there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"time"
)

// childArgument is the first argument of a process that makes one measurement, see child.go.
const childArgument = "child"

// options are the flags.
type options struct {
	rounds int
	quick  bool
	only   string
	svg    string
	dir    string
}

func (o options) wants(part string) bool { return o.only == "" || o.only == part }

// progress goes to standard error, so that standard output is Markdown alone.
func (o options) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 2 && args[0] == childArgument {
		return runChild(args[1])
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return compare(ctx, o, os.Stdout)
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "how often everything is measured, in turns")
	flags.BoolVar(&o.quick, "quick", false, "small counts and one round: to see that it works, the figures mean nothing")
	flags.StringVar(&o.only, "only", "", "one part: emit, e2e, growth, subscribe, trouble, durable or ways")
	flags.StringVar(&o.svg, "svg", "", "write a chart of the end-to-end table to this `file`")
	flags.StringVar(&o.dir, "dir", "", "where the durable parts have their `directory`; default: that of temporary files")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		o.rounds = 1
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.rounds < 1:
		return o, errors.New("-rounds: must be at least 1")
	case o.only != "" && !isPart(o.only):
		return o, fmt.Errorf("-only: must be emit, e2e, growth, subscribe, trouble, durable or ways, got %q", o.only)
	case o.svg != "" && !o.wants(endToEndPart):
		return o, errors.New("-svg: the chart is of the end-to-end table, which -only leaves out")
	}
	return o, nil
}

// A printer is what a part has found.
type printer interface{ print(w io.Writer) error }

// parts are measured in this order.
var parts = []struct {
	name    string
	compare func(ctx context.Context, o options) (printer, error)
}{
	{"emit", func(ctx context.Context, o options) (printer, error) { return compareEmit(ctx, o) }},
	{endToEndPart, func(ctx context.Context, o options) (printer, error) { return compareEndToEnd(ctx, o) }},
	{"growth", func(ctx context.Context, o options) (printer, error) { return compareGrowth(ctx, o) }},
	{"subscribe", func(ctx context.Context, o options) (printer, error) { return compareSubscribe(ctx, o) }},
	{"trouble", func(ctx context.Context, o options) (printer, error) { return compareTrouble(ctx, o) }},
	{"durable", func(ctx context.Context, o options) (printer, error) { return compareDurable(ctx, o) }},
	{"ways", func(ctx context.Context, o options) (printer, error) { return compareWays(ctx, o) }},
}

const endToEndPart = "e2e"

func isPart(name string) bool {
	for _, p := range parts {
		if p.name == name {
			return true
		}
	}
	return false
}

// compare makes the measurements and prints each part when it is done.
func compare(ctx context.Context, o options, w io.Writer) error {
	_, err := fmt.Fprintf(w, "Measured with %s on %s/%s, %d cores, rounds: %d. Medians (smallest–largest).\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), o.rounds)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if !o.wants(p.name) {
			continue
		}
		found, err := p.compare(ctx, o)
		if err != nil {
			return err
		}
		if err := found.print(w); err != nil {
			return err
		}
		if table, ok := found.(*endToEndTable); ok && o.svg != "" {
			if err := table.writeChart(o.svg); err != nil {
				return err
			}
		}
	}
	return nil
}
