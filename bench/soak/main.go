// Command soak lets a dispatcher do for minutes, all at once, what it has to bear in a server for months: a million apps,
// most of them idle, apps that change all the time, and endpoints of every kind of misbehaviour, over real sockets on
// loopback. It fails if heap, goroutines or descriptors grow, if an account is not exact, if an event is lost, comes out
// of order or to another tenant, or if Close leaves anything behind. docs/soak.md says what it does and what it found.
//
//	go run ./soak                 # ten minutes, about half of two cores
//	go run ./soak -duration 1h
//	go run ./soak -quick          # some seconds, with fewer apps: the accounts alone, for growth needs longer
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// options are the flags, and what follows from them.
type options struct {
	duration time.Duration
	quick    bool

	idleApps   int
	scale      int           // of the tenants, in fullScale
	retryFor   time.Duration // short, so that what waits for endpoints that are down stops growing in the warm-up
	warmUp     time.Duration
	every      time.Duration // a sample
	closeTime  time.Duration
	flakiness  time.Duration
	maxEvents  int // bounds the ids
	growthFrom int // samples at the least to judge growth by
}

func main() {
	var err error
	if len(os.Args) == 2 && os.Args[1] == receiverArgument {
		err = runReceiver(os.Stdin, os.Stdout)
	} else {
		err = run(os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.DurationVar(&o.duration, "duration", 10*time.Minute, "how long events flow")
	flags.BoolVar(&o.quick, "quick", false, "some seconds and fewer apps: the accounts alone, growth is not judged")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.idleApps, o.scale, o.retryFor, o.closeTime = 1_000_000, fullScale, 30*time.Second, 15*time.Second
	o.warmUp, o.every, o.growthFrom, o.flakiness = o.duration/5, 5*time.Second, 9, 15*time.Second
	if o.quick {
		o.duration, o.idleApps, o.scale, o.retryFor, o.closeTime = 10*time.Second, 10_000, 2, 5*time.Second, 4*time.Second
		o.warmUp, o.every, o.growthFrom, o.flakiness = time.Second, 500*time.Millisecond, 1<<30, 3*time.Second
	}
	const eventsPerSecond = 50_000 // several times as many as are emitted
	o.maxEvents = int((o.duration + time.Minute).Seconds()) * eventsPerSecond
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.duration < time.Second || o.duration > 24*time.Hour:
		return o, fmt.Errorf("-duration: must be from 1s to 24h, is %v", o.duration)
	}
	return o, nil
}

// progress goes to standard error, so that standard output is Markdown alone.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

func run(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	endpoints, err := startReceiver(ctx, receiverSpec{Bound: o.maxEvents, Addresses: 8, Flakiness: o.flakiness})
	if err != nil {
		return err
	}
	r := &report{options: o, began: time.Now()}
	err = r.soak(ctx, endpoints)
	if err == nil {
		err = r.release()
	}
	seen, stopErr := endpoints.stop()
	if err = errors.Join(err, stopErr); err != nil {
		return err
	}
	r.seen = seen
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	return r.verdict()
}

// soak is the test. What it finds is in r; its error says why it could not be made.
func (r *report) soak(ctx context.Context, endpoints *receiverProcess) error {
	l := newLedger(r.maxEvents)
	var err error
	if r.before, err = take(nil); err != nil {
		return err
	}
	cfg := webhook.Config{RetryFor: r.retryFor, RetryWaitMax: 5 * time.Second, MaxEndpointQueuedBytes: 128 << 10, Hooks: l.hooks()}
	d, err := webhook.New(cfg.WithPusherTiming())
	if err != nil {
		return err
	}
	tenants := newTenants(r.scale, endpoints.addresses)
	o := newOperator(d, l, tenants, r.idleApps, endpoints.addresses["healthy"][0])
	r.ledger, r.took, r.tenants = l, o.took, len(tenants)
	progress("%d apps", r.idleApps+len(tenants))
	o.setAll()
	o.took["SetApp"] = &durations{} // without those at the start
	if r.idle, err = take(d); err != nil {
		return err
	}
	progress("events for %v", r.duration)
	if err := r.flow(ctx, d, o); err != nil {
		return err
	}
	progress("Close")
	closing, cancel := context.WithTimeout(ctx, r.closeTime)
	defer cancel()
	l.closing.Store(true)
	started := time.Now()
	err = d.Close(closing)
	r.closeTook = time.Since(started)
	r.back, r.backErr = l.takeBack(err)
	err = r.settle(d)
	runtime.KeepAlive(o)
	return err
}

// flow has everything happen at once, for as long as the test lasts.
func (r *report) flow(ctx context.Context, d *webhook.Dispatcher, o *operator) (err error) {
	ctx, cancel := context.WithTimeout(ctx, r.duration)
	defer cancel()
	const emitters = 4
	all := make([]*emitter, emitters)
	for i := range all {
		all[i] = &emitter{d: d, ledger: o.ledger, took: &r.emitTook}
	}
	for i, t := range o.tenants {
		m := all[i%emitters]
		m.hubs = append(m.hubs, &hub{tenant: t})
	}
	cpu := cpuTime()
	var working sync.WaitGroup
	defer working.Wait()
	for _, m := range all {
		working.Go(func() { m.run(ctx) })
	}
	working.Go(func() { o.change(ctx) })
	working.Go(func() { o.call(ctx) })
	r.samples, err = watch(ctx, d, r.warmUp, r.every)
	r.cpu = cpuTime() - cpu
	return err
}

// release takes a sample when nobody has the dispatcher any more. Timers may, for a moment.
func (r *report) release() (err error) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if r.released, err = take(nil); err != nil || r.remains() == nil {
			return err
		}
	}
	return nil
}

// settle takes the last sample. Connections end a moment after Close.
func (r *report) settle(d *webhook.Dispatcher) (err error) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if r.after, err = take(d); err != nil || r.leftovers() == nil {
			return err
		}
	}
	return nil
}
