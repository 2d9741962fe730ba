package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/bench/centrifuge"
	"github.com/pusherhooks/webhook/channels"
)

// A subscribeSpec asks for sockets that each join some of the channels, and leave them one by one.
type subscribeSpec struct {
	Tracker                 string // a name of trackers
	Sockets, Each, Channels int
	Goroutines              int
}

// A subscribeResult is about one subscription: its coming, its going, and the bytes that it takes while it is there.
type subscribeResult struct {
	Add, Remove perSubscription
	Bytes       float64
}

// A perSubscription is in nanoseconds, of wall time and of all cores.
type perSubscription struct{ WallNS, CPUNS float64 }

// A subscriber is a socket of one of the trackers.
type subscriber struct{ add, remove func(channel string) error }

// trackers make what makes sockets.
var trackers = map[string]func() (connect func(id string) (subscriber, error), err error){
	"channels":             func() (func(string) (subscriber, error), error) { return connectTo(deaf{}), nil },
	"channels, Dispatcher": connectToDispatcher,
	"centrifuge's hub":     connectToCentrifuge,
}

// deaf takes every event and does nothing.
type deaf struct{}

func (deaf) Emit(string, webhook.Event) error             { return nil }
func (deaf) Wants(string, webhook.EventType, string) bool { return true }

func connectTo(out webhook.Emitter) func(id string) (subscriber, error) {
	tracker := channels.New(out, channels.Options{})
	return func(id string) (subscriber, error) {
		s, err := tracker.Connect(appID(0), id)
		return subscriber{
			add:    func(channel string) error { _, err := s.Subscribe(channel, channels.Member{}); return err },
			remove: func(channel string) error { _, err := s.Unsubscribe(channel); return err },
		}, err
	}
}

// connectToDispatcher has everything told: occupied, vacated and every count goes into a batch and to a Sender.
func connectToDispatcher() (func(string) (subscriber, error), error) {
	d, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{ID: appID(0), Key: appKey, Secret: appSecret, Webhooks: []webhook.Webhook{
			{URL: "http://127.0.0.1", EventTypes: webhook.EventTypes()},
		}}},
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil }),
	})
	return connectTo(d), err
}

func connectToCentrifuge() (func(string) (subscriber, error), error) {
	hub, err := centrifuge.New()
	return func(string) (subscriber, error) {
		client, err := hub.Connect()
		return subscriber{
			add: func(channel string) error { return hub.Add(channel, client) },
			remove: func(channel string) error {
				if !hub.Remove(channel, client) {
					return errors.New("was not there")
				}
				return nil
			},
		}, err
	}, err
}

// measureSubscribe is the child's part.
func measureSubscribe(spec subscribeSpec) (subscribeResult, error) {
	heap := make([]byte, serverHeap)
	defer runtime.KeepAlive(heap)
	var result subscribeResult
	connect, err := trackers[spec.Tracker]()
	if err != nil {
		return result, err
	}
	names := make([]string, spec.Channels)
	for i := range names {
		names[i] = fmt.Sprint("private-channel-", i)
	}
	sockets := make([]subscriber, spec.Sockets)
	for i := range sockets {
		if sockets[i], err = connect(fmt.Sprintf("%d.%d", i, i)); err != nil {
			return result, err
		}
	}
	before := held()
	result.Add, err = spec.forAll(func(i, j int) error { return sockets[i].add(names[spec.channel(i, j)]) })
	if err != nil {
		return result, err
	}
	result.Bytes = (held() - before) / float64(spec.Sockets*spec.Each)
	result.Remove, err = spec.forAll(func(i, j int) error { return sockets[i].remove(names[spec.channel(i, j)]) })
	runtime.KeepAlive(sockets)
	return result, err
}

// channel is the one that a socket joins as its j-th: all are joined equally often, and neighbours join others.
func (s *subscribeSpec) channel(socket, j int) int { return (socket*31 + j*977) % s.Channels }

// forAll has the goroutines do something for each subscription, each for sockets of its own.
func (s *subscribeSpec) forAll(do func(socket, j int) error) (perSubscription, error) {
	faults := make([]error, s.Goroutines)
	var all sync.WaitGroup
	cpuBefore, err := cpuTime()
	started := time.Now()
	for g := range s.Goroutines {
		all.Go(func() {
			for i := g; i < s.Sockets && faults[g] == nil; i += s.Goroutines {
				for j := 0; j < s.Each && faults[g] == nil; j++ {
					faults[g] = do(i, j)
				}
			}
		})
	}
	all.Wait()
	wall := time.Since(started)
	cpuAfter, err2 := cpuTime()
	n := float64(s.Sockets * s.Each)
	return perSubscription{float64(wall) / n, float64(cpuAfter-cpuBefore) / n}, errors.Join(append(faults, err, err2)...)
}

// subscribeFigures are the rounds of one row.
type subscribeFigures struct {
	spec                           subscribeSpec
	add, addCPU, remove, removeCPU series
	bytes                          series
}

type subscribeTable struct{ rows []*subscribeFigures }

// compareSubscribe is the parent's part.
func compareSubscribe(ctx context.Context, o options) (*subscribeTable, error) {
	t := &subscribeTable{}
	for _, goroutines := range []int{1, runtime.NumCPU()} {
		for _, shape := range []subscribeSpec{
			{Sockets: 200_000, Each: 1, Channels: 10_000},
			{Sockets: 20_000, Each: 10, Channels: 10_000},
			{Sockets: 200, Each: 1000, Channels: 10_000},
			{Sockets: 200_000, Each: 1, Channels: 1},
		} {
			if o.quick {
				shape.Sockets = max(shape.Sockets/100, 10)
			}
			for _, name := range []string{"channels", "channels, Dispatcher", "centrifuge's hub"} {
				shape.Tracker, shape.Goroutines = name, goroutines
				t.rows = append(t.rows, &subscribeFigures{spec: shape})
			}
		}
	}
	for round := range o.rounds {
		for _, f := range t.rows {
			o.progress("subscribe, round %d: %+v", round+1, f.spec)
			r, err := measure[subscribeResult](ctx, "subscribe", f.spec)
			if err != nil {
				return nil, err
			}
			f.add, f.addCPU = append(f.add, r.Add.WallNS), append(f.addCPU, r.Add.CPUNS)
			f.remove, f.removeCPU = append(f.remove, r.Remove.WallNS), append(f.removeCPU, r.Remove.CPUNS)
			f.bytes = append(f.bytes, r.Bytes)
		}
	}
	return t, nil
}

func (t *subscribeTable) print(w io.Writer) error {
	printed := table{
		title: "Subscribe and unsubscribe",
		note: "Nanoseconds a subscription, all goroutines together, of wall time and of CPU (collecting garbage included), beside 64 MiB of live heap. The bytes are all that a subscription leaves on the heap, its share of the " +
			"channel included, beside the socket.",
		names:  2,
		header: []string{"sockets × channels each, of", "", "goroutines", "add", "CPU", "remove", "CPU", "bytes"},
	}
	var ratios []ratio
	for i, f := range t.rows {
		shape := fmt.Sprintf("%s × %s, of %s", count(float64(f.spec.Sockets)), count(float64(f.spec.Each)), count(float64(f.spec.Channels)))
		printed.add(shape, f.spec.Tracker, fmt.Sprint(f.spec.Goroutines), f.add.cell(number), f.addCPU.cell(number),
			f.remove.cell(number), f.removeCPU.cell(number), f.bytes.cell(number))
		if f.spec.Tracker == "centrifuge's hub" {
			own, what := t.rows[i-2], fmt.Sprintf("channels to centrifuge's hub, %s, goroutines: %d", shape, f.spec.Goroutines)
			ratios = append(ratios,
				ratio{what: what + ": CPU of add", values: own.addCPU.over(f.addCPU), aim: "≤ 0.5×"},
				ratio{what: what + ": CPU of remove", values: own.removeCPU.over(f.removeCPU), aim: "≤ 0.5×"})
		}
	}
	if err := printed.print(w); err != nil {
		return err
	}
	return printRatios(w, "Subscribe, ratios", ratios)
}
