package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pusherhooks/webhook/queue"
)

// accounts are what a fleet is judged by.
type accounts struct {
	leaderKills, workerKills, restarts, nodeKills []time.Duration // how long tenants waited
	handedOver                                    int             // partitions, because of an election

	totals
	accepted, lost, dead int // events
}

// settle ends the nodes, waits until what they had stored is received, ends the workers, and prints the accounts.
func (f *fleet) settle(ctx context.Context) error {
	f.say("the nodes stop")
	for _, n := range f.nodes {
		if err := n.end(); err != nil {
			return err
		}
	}
	waiting := f.until(ctx, "everything is received", func(ctx context.Context) (bool, error) {
		s, err := f.tally(ctx)
		return err == nil && f.count(s) == 0, err
	})
	if waiting != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	f.say("the workers stop")
	for _, w := range f.workers {
		if err := w.end(); err != nil {
			return err
		}
	}
	s, err := f.tally(ctx)
	if err != nil {
		return err
	}
	f.lost, f.totals = f.count(s), s.totals
	for letter, err := range f.q.Dead(ctx, queue.DeadFilter{}) {
		if err != nil {
			return err
		}
		f.dead += len(letter.Events)
	}
	f.print()
	return f.fault()
}

// count returns how many events were stored and are not received, and notes how many were stored.
func (f *fleet) count(s sum) (lost int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = 0
	for node, runs := range f.stored {
		for run, stored := range runs {
			for app := node; app < tenants; app += 2 {
				f.accepted += stored
				lost += s.Apps[appID(app)].lost(run, stored)
			}
		}
	}
	return lost
}

func (a *accounts) fault() error {
	var errs []error
	if a.lost > 0 {
		errs = append(errs, fmt.Errorf("%d events are lost", a.lost))
	}
	if a.OutOfOrder > 0 {
		errs = append(errs, fmt.Errorf("%d events came out of order", a.OutOfOrder))
	}
	if a.accepted == 0 {
		errs = append(errs, errors.New("nothing was stored"))
	}
	return errors.Join(errs...)
}

func (f *fleet) print() {
	line := func(name string, value any) { fmt.Fprintf(f.out, "  %-34s %v\n", name, value) }
	fmt.Fprintf(f.out, "\naccounts, events\n")
	line("accepted and stored", f.accepted)
	line("received", f.Received)
	line("lost", f.lost)
	line("out of order", f.OutOfOrder)
	line("received twice", f.Duplicates)
	line("given up (dead letters)", f.dead)
	fmt.Fprintf(f.out, "\nstandstill, until every tenant received something newer\n")
	line("a server killed, the leader", spread(f.leaderKills))
	line("a worker killed", spread(f.workerKills))
	line("a worker restarted", spread(f.restarts))
	line("a node killed and started", spread(f.nodeKills))
	line("partitions moved by an election", f.handedOver)
	fmt.Fprintln(f.out)
	if f.Received > f.accepted {
		fmt.Fprintf(f.out, "%d events were stored whose node was killed before it could say so.\n", f.Received-f.accepted)
	}
	if f.fault() == nil {
		fmt.Fprintln(f.out, "Nothing is lost, and nothing came out of order.")
	}
}

// spread is the times, or where there are many their middle and most.
func spread(all []time.Duration) string {
	if len(all) > 3 {
		slices.Sort(all)
		return fmt.Sprintf("%.1fs in the middle, %.1fs at most, of %d", all[len(all)/2].Seconds(), all[len(all)-1].Seconds(), len(all))
	}
	if len(all) == 0 {
		return "-"
	}
	var texts []string
	for _, one := range all {
		texts = append(texts, fmt.Sprintf("%.1fs", one.Seconds()))
	}
	return strings.Join(texts, ", ")
}
