package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// An operator changes apps and makes the calls that an administrator's console would.
type operator struct {
	d       *webhook.Dispatcher
	ledger  *ledger
	tenants []*tenant
	idle    []int32 // versions of the idle apps
	address string  // of the idle apps' endpoints
	took    map[string]*durations
}

// calls are what an operator makes, in the order in which they are printed.
var calls = []string{"SetApp", "RemoveApp", "Endpoints of an app", "Endpoints of all", "RetryNow", "Purge", "Flush", "Redeliver"}

func newOperator(d *webhook.Dispatcher, l *ledger, tenants []*tenant, idle int, address string) *operator {
	o := &operator{d: d, ledger: l, tenants: tenants, idle: make([]int32, idle), address: address, took: make(map[string]*durations)}
	for _, call := range calls {
		o.took[call] = &durations{}
	}
	return o
}

// timed makes one call.
func (o *operator) timed(name string, call func() error) {
	started := time.Now()
	if err := call(); err != nil {
		o.ledger.fault(fmt.Errorf("%s: %w", name, err))
	}
	o.took[name].add(time.Since(started))
}

func (o *operator) set(app webhook.App) {
	o.timed("SetApp", func() error { return o.d.SetApp(app) })
}

func (o *operator) remove(appID string) {
	o.timed("RemoveApp", func() error { o.d.RemoveApp(appID); return nil })
}

// setAll sets every app for the first time.
func (o *operator) setAll() {
	for i := range o.idle {
		o.set(idleApp(i, 0, o.address))
	}
	for _, t := range o.tenants {
		o.set(t.app())
	}
}

const (
	changeEvery = 10 * time.Millisecond
	callEvery   = 500 * time.Millisecond
)

// change changes one app after the other: two in three of them idle.
func (o *operator) change(ctx context.Context) {
	ticker := time.NewTicker(changeEvery)
	defer ticker.Stop()
	var removed *tenant
	for {
		select {
		case <-ctx.Done():
			if removed != nil {
				o.set(removed.app())
			}
			return
		case <-ticker.C:
		}
		switch {
		case removed != nil: // for a tick
			o.set(removed.app())
			removed = nil
		case rand.IntN(3) == 0:
			if t := o.tenants[rand.IntN(len(o.tenants))]; o.changeTenant(t) {
				removed = t
			}
		default:
			i := rand.IntN(len(o.idle))
			o.remove(fmt.Sprintf("idle-%d", i))
			o.idle[i]++
			o.set(idleApp(i, int(o.idle[i]), o.address))
		}
	}
}

// changeTenant gives a tenant another URL or key, or removes it.
func (o *operator) changeTenant(t *tenant) (removed bool) {
	switch rand.IntN(5) {
	case 0:
		o.remove(t.id)
		return true
	case 1:
		t.key++
	case 2:
		t.version = 0 // where there may still be something on its way
	default:
		t.newest++
		t.version = t.newest
	}
	o.set(t.app())
	return false
}

// call makes one call after the other.
func (o *operator) call(ctx context.Context) {
	var flushes sync.WaitGroup
	defer flushes.Wait()
	ticker := time.NewTicker(callEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		id := o.tenants[rand.IntN(len(o.tenants))].id
		switch n % 10 {
		case 0, 5:
			o.timed("Endpoints of an app", func() error { o.d.Endpoints(id); return nil })
		case 1:
			o.timed("Endpoints of all", func() error { o.d.Endpoints(""); return nil })
		case 2, 6:
			o.timed("RetryNow", func() error { o.d.RetryNow(id); return nil })
		case 3:
			o.timed("Purge", func() error { o.d.Purge(id); return nil })
		case 4:
			flushes.Go(func() { o.flush(ctx) })
		default:
			o.redeliver()
		}
	}
}

// flush waits for a while. Endpoints that are down keep it from ending.
func (o *operator) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	o.timed("Flush", func() error {
		if err := o.d.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// redeliver queues again what was undelivered.
func (o *operator) redeliver() {
	for {
		select {
		case d := <-o.ledger.lost:
			o.timed("Redeliver", func() error {
				err := o.d.Redeliver(d)
				if err == nil {
					o.ledger.redelivered.Add(uint64(d.Events))
				} else if errors.Is(err, webhook.ErrQueueFull) {
					return nil
				}
				return err
			})
		default:
			return
		}
	}
}
