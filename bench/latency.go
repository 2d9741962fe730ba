package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// latencySpec asks how long single calls of Emit take for a healthy endpoint, beside a number of dead ones.
type latencySpec struct {
	URL    string // of a healthy receiver
	Dead   int    // half of them take connections and never answer, half refuse them
	Events int
}

// A latencyResult holds percentiles in nanoseconds.
type latencyResult struct {
	P50, P99, P999 float64 // of Emit
	Delivered99    float64 // p99 from Emit to delivery, the batch window included
	Refused        int     // events that were not taken
}

// measureLatency is the child's part.
func measureLatency(spec latencySpec) (latencyResult, error) {
	hanging, refusing, err := deadAddresses()
	if err != nil {
		return latencyResult{}, err
	}
	defer func() { _ = hanging.Close() }() // nothing was ever accepted
	apps := []webhook.App{healthyApp(spec.URL)}
	for i := range spec.Dead {
		address := hanging.Addr().String()
		if i%2 == 1 {
			address = refusing
		}
		apps = append(apps, deadApp(i, address))
	}
	var deliveries deliveryTimes
	hooks := webhook.Hooks{Delivered: deliveries.add}
	took, refused, err := emitSteadily(webhook.Config{Apps: apps, Hooks: hooks}, spec.Events)
	if err != nil {
		return latencyResult{}, err
	}
	slices.Sort(took)
	return latencyResult{
		P50: percentile(took, 0.5), P99: percentile(took, 0.99), P999: percentile(took, 0.999),
		Delivered99: deliveries.percentile(0.99), Refused: refused,
	}, nil
}

// emitSteadily emits n events for the first app of cfg, and in between some for the others. It returns how long
// each of the n took and how many were refused. The core is busy between events, as a server's is under load: one
// that sleeps would find cold caches.
func emitSteadily(cfg webhook.Config, n int) (took []float64, refused int, err error) {
	const (
		pace = 10 * time.Microsecond
		turn = 10 // events between two for dead endpoints: of 1 000, each has its turn ten times a second
	)
	d, err := webhook.New(cfg)
	if err != nil {
		return nil, 0, err
	}
	healthy, dead := cfg.Apps[0].ID, cfg.Apps[1:]
	events := newSource()
	took = make([]float64, 0, n)
	begun := time.Now()
	for i := range n {
		if len(dead) > 0 && i%turn == 0 {
			err := d.Emit(dead[i/turn%len(dead)].ID, webhook.MemberAdded(events.event(i)))
			if err != nil && !errors.Is(err, webhook.ErrQueueFull) {
				return nil, 0, err
			}
		}
		for time.Since(begun) < time.Duration(i)*pace { // busy with something else
		}
		started := time.Now()
		err := d.Emit(healthy, webhook.MemberAdded(events.event(i)))
		took = append(took, float64(time.Since(started)))
		if err != nil {
			refused++
		}
	}
	return took, refused, closeDespiteDead(d)
}

// deadAddresses returns a listener that never accepts, so that the kernel takes connections and nobody
// answers, and an address at which nobody listens.
func deadAddresses() (net.Listener, string, error) {
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", errors.Join(err, hanging.Close())
	}
	return hanging, closed.Addr().String(), closed.Close()
}

func healthyApp(url string) webhook.App {
	return webhook.App{ID: "healthy", Key: appKey, Secret: appSecret, Webhooks: []webhook.Webhook{{
		URL: url, EventTypes: []webhook.EventType{eventType},
	}}}
}

func deadApp(i int, address string) webhook.App {
	return webhook.App{ID: fmt.Sprintf("dead-%d", i), Key: appKey, Secret: appSecret, Webhooks: []webhook.Webhook{{
		URL: fmt.Sprintf("http://%s/%d", address, i), EventTypes: []webhook.EventType{eventType},
	}}}
}

// closeDespiteDead gives the healthy endpoint time to get the rest; what the dead ones leave is no error here.
func closeDespiteDead(d *webhook.Dispatcher) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := d.Close(ctx)
	if _, undelivered := errors.AsType[*webhook.UndeliveredError](err); undelivered {
		return nil
	}
	return err
}

// deliveryTimes collects how old the first event of each batch was when it arrived.
type deliveryTimes struct {
	mu   sync.Mutex
	took []float64
}

func (t *deliveryTimes) add(d *webhook.Delivery, _ time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took = append(t.took, float64(time.Since(d.CreatedAt)))
}

func (t *deliveryTimes) percentile(p float64) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.took)
	return percentile(t.took, p)
}

// percentile of sorted values; 0 if there are none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(p*float64(len(sorted)-1))]
}

// latencyFigures are the rounds, with and without dead endpoints.
type latencyFigures struct{ alone, dead latencySeries }

type latencySeries struct {
	endpoints                   int // dead ones
	p50, p99, p999, delivered99 series
	refused, delivered          series // shares of the events
}

func (f *latencyFigures) run(ctx context.Context, quick bool) error {
	f.dead.endpoints = 1000
	spec := latencySpec{Events: 300_000}
	if quick {
		spec.Events = 20_000
	}
	return errors.Join(f.alone.run(ctx, spec), f.dead.run(ctx, spec))
}

func (s *latencySeries) run(ctx context.Context, spec latencySpec) error {
	target, err := startReceiver(ctx, receiverSpec{Marker: pusherMarker, Signed: true})
	if err != nil {
		return err
	}
	spec.URL, spec.Dead = target.url, s.endpoints
	r, err := measure[latencyResult](ctx, "latency", spec)
	got, stopErr := target.stop()
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	s.p50 = append(s.p50, r.P50)
	s.p99 = append(s.p99, r.P99)
	s.p999 = append(s.p999, r.P999)
	s.delivered99 = append(s.delivered99, r.Delivered99)
	s.refused = append(s.refused, 100*float64(r.Refused)/float64(spec.Events))
	s.delivered = append(s.delivered, 100*float64(got.Events)/float64(spec.Events))
	return nil
}

func (f *latencyFigures) table() *table {
	t := &table{
		title: "One call of Emit",
		note: "For a healthy endpoint, an event every 10 µs, on a core that is busy in between, the clock's own cost " +
			"included. The dead endpoints, half of which hang and half refuse connections, have events waiting all the " +
			"time. Delivered is what the healthy endpoint got until a second after the last event.",
		header: []string{"dead endpoints beside it", "p50 ns", "p99 ns", "p99.9 ns", "refused", "delivered", "the delivered: p99 until then, ms"},
	}
	for _, s := range []*latencySeries{&f.alone, &f.dead} {
		t.add(count(float64(s.endpoints)), s.p50.cell(number), s.p99.cell(number), s.p999.cell(number),
			s.refused.cell(percent), s.delivered.cell(percent), s.delivered99.cell(milliseconds))
	}
	return t
}
