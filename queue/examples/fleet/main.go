// Fleet shows that a fleet loses no webhook: three NATS servers, two nodes that emit, two workers that deliver and a receiver, a process
// each, all on loopback. It kills one of each with -9, starts it again, and prints the accounts. It ends with 1 if anything that
// was stored is lost, or was received out of order.
//
//	go run -C queue/examples/fleet .
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// An options is what the flags say.
type options struct {
	leaders, nodes, workers int // how many are killed
	rate                    int // events a second
	syncAlways              bool
	dir                     string
}

func parse() (o options, err error) {
	flag.IntVar(&o.leaders, "leaders", 1, "how often the server is killed that leads the stream")
	flag.IntVar(&o.nodes, "nodes", 1, "how often a node is killed")
	flag.IntVar(&o.workers, "workers", 1, "how often a worker is killed, and one restarted")
	flag.IntVar(&o.rate, "rate", 1000, "events a second, of all nodes together")
	flag.BoolVar(&o.syncAlways, "sync-always", false, "have each server sync its disk before it says that something is stored")
	flag.StringVar(&o.dir, "dir", "", "`directory` for stores and logs, which are kept; the default is a temporary one")
	long := flag.Bool("long", false, "20 kills of each, some ten minutes")
	flag.Parse()
	if *long {
		o.leaders, o.nodes, o.workers = 20, 20, 20
	}
	switch {
	case flag.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.rate < 1:
		return o, fmt.Errorf("-rate: must be at least 1, is %d", o.rate)
	}
	return o, nil
}

func main() {
	if job := os.Getenv(jobVariable); job != "" {
		if err := play(job); err != nil {
			fmt.Fprintln(os.Stderr, "fleet:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse()
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

// run starts a fleet, kills its processes in turn, prints the accounts, and returns what is wrong with them.
func run(ctx context.Context, o options, out io.Writer) error {
	f, err := startFleet(ctx, o, out)
	defer f.end()
	if err == nil {
		err = f.killInTurn(ctx, o)
	}
	if err == nil {
		err = f.settle(ctx)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w; the stores and logs are in %s", err, f.keep())
	}
	return err
}
