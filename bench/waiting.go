package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/pusherhooks/webhook"
)

// waitingSpec asks what events take up that wait for endpoints which do not accept them, where each is a request.
type waitingSpec struct {
	Webhooks int // of apps with a thousand each
	Events   int // for each webhook
	Hang     bool
	Watch    time.Duration
}

// webhooksPerApp is the default MaxWebhooks.
const webhooksPerApp = 1000

// A waitingResult is of all endpoints together.
type waitingResult struct {
	ResidentBytes float64 // more than before, at the most
	HeldBytes     float64 // heap and stacks after a collection, more than before
	PendingBytes  float64
	Goroutines    float64 // more than before, at the most
	Waiting       float64 // events
	Refused       int     // events that found no room
}

// measureWaiting is the child's part. It sends by HTTP, as by default.
func measureWaiting(spec waitingSpec) (result waitingResult, err error) {
	hanging, refusing, err := deadAddresses()
	if err != nil {
		return result, err
	}
	defer func() { _ = hanging.Close() }() // nothing was ever accepted
	address := refusing
	if spec.Hang {
		address = hanging.Addr().String()
	}
	apps := waitingApps(spec.Webhooks, address)
	heldBefore, goroutines := held(), runtime.NumGoroutine()
	resident, err := residentMemory()
	if err != nil {
		return result, err
	}
	d, err := webhook.New(webhook.Config{Apps: apps, MaxBatchEvents: 1, MaxQueuedBytes: 1 << 30})
	if err != nil {
		return result, err
	}
	if err := emitToAll(d, apps, spec.Events); err != nil {
		return result, err
	}
	if err := result.watch(spec.Watch, resident, goroutines); err != nil {
		return result, err
	}
	s := d.Stats()
	result.PendingBytes, result.Waiting = float64(s.PendingBytes), float64(s.Pending)
	result.Refused = spec.Webhooks*spec.Events - int(s.Queued)
	result.HeldBytes = held() - heldBefore
	return result, closeDespiteDead(d)
}

// emitToAll emits n events for each of the apps, in turns, whether there is room for them or not.
func emitToAll(d *webhook.Dispatcher, apps []webhook.App, n int) error {
	events := newSource()
	for i := range n {
		for _, app := range apps {
			if err := d.Emit(app.ID, webhook.MemberAdded(events.event(i))); err != nil && !errors.Is(err, webhook.ErrQueueFull) {
				return err
			}
		}
	}
	return nil
}

// watch notes the most that is there meanwhile, beyond what was there before.
func (r *waitingResult) watch(duration time.Duration, resident int64, goroutines int) error {
	for started := time.Now(); time.Since(started) < duration; time.Sleep(50 * time.Millisecond) {
		now, err := residentMemory()
		if err != nil {
			return err
		}
		r.ResidentBytes = max(r.ResidentBytes, float64(now-resident))
		r.Goroutines = max(r.Goroutines, float64(runtime.NumGoroutine()-goroutines))
	}
	return nil
}

// waitingApps spreads n webhooks at one address over apps.
func waitingApps(n int, address string) []webhook.App {
	var apps []webhook.App
	for i := range n {
		if i%webhooksPerApp == 0 {
			apps = append(apps, webhook.App{ID: appID(len(apps)), Key: appKey, Secret: appSecret})
		}
		app := &apps[len(apps)-1]
		app.Webhooks = append(app.Webhooks, webhook.Webhook{
			URL: fmt.Sprintf("http://%s/%d", address, i), EventTypes: []webhook.EventType{eventType},
		})
	}
	return apps
}

// waitingFigures are the rounds of one row.
type waitingFigures struct {
	spec                                         waitingSpec
	resident, held, pending, goroutines, waiting series
	refused                                      int
}

func newWaitingFigures(hang, quick bool) *waitingFigures {
	if quick {
		return &waitingFigures{spec: waitingSpec{Webhooks: 200, Events: 64, Hang: hang, Watch: time.Second}}
	}
	return &waitingFigures{spec: waitingSpec{Webhooks: 5000, Events: 64, Hang: hang, Watch: 12 * time.Second}} // longer than a request
}

func (f *waitingFigures) run(ctx context.Context) error {
	r, err := measure[waitingResult](ctx, "waiting", f.spec)
	if err != nil {
		return err
	}
	f.resident = append(f.resident, r.ResidentBytes)
	f.held = append(f.held, r.HeldBytes)
	f.pending = append(f.pending, r.PendingBytes)
	f.goroutines = append(f.goroutines, r.Goroutines)
	f.waiting = append(f.waiting, r.Waiting)
	f.refused += r.Refused
	return nil
}

func waitingTable(rows []*waitingFigures) *table {
	t := &table{
		title: "Webhooks unbatched, events waiting",
		note: fmt.Sprintf("%d events for each webhook, %s webhooks an app, sent by HTTP. RSS and goroutines are the most there "+
			"were at a time, held is heap and stacks after a collection; all of them beyond what was there before.",
			rows[0].spec.Events, count(webhooksPerApp)),
		names:  2,
		header: []string{"webhooks", "endpoints", "RSS", "held", "PendingBytes", "goroutines", "events waiting", "refused"},
	}
	for _, f := range rows {
		endpoints := "refuse connections"
		if f.spec.Hang {
			endpoints = "hang"
		}
		t.add(count(float64(f.spec.Webhooks)), endpoints, f.resident.cell(mebibytes), f.held.cell(mebibytes),
			f.pending.cell(mebibytes), f.goroutines.cell(count), f.waiting.cell(count), fmt.Sprint(f.refused))
	}
	return t
}
