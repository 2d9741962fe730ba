package main

import (
	"context"
	"fmt"
	"io"
)

// A route is one row of the end-to-end table: a sender, and the row of ours that it is compared with.
type route struct {
	name    string
	spec    sendSpec
	against string // a row of ours, by name
	marker  string // occurs once for each event in a body
	signed  bool   // as Pusher does; the others have signatures of their own
	soketi  bool   // runs in node
}

// The rows that ratios are made of, ours first.
const (
	thousand = "webhook, batches of 1000"
	hundred  = "webhook, batches of 100"
	single   = "webhook, batching off"

	bound1000      = "upper bound, batches of 1000, 1 connection"
	bound1         = "upper bound, batches of 1, 16 connections"
	soketiBatching = "soketi, batches of 1000"
	soketiSingle   = "soketi, batching off"
	segmentio      = "segmentio analytics-go, batches of 250"
	liveKit        = "LiveKit URLNotifier, 16 workers"
)

const pusherMarker = `{"name":"` // begins with a byte that a body has hardly any others of

var routes = []route{
	{name: thousand, spec: sendSpec{Sender: "webhook", Batch: 1000, Events: 2_000_000}, against: thousand, marker: pusherMarker, signed: true},
	{name: bound1000, spec: sendSpec{Sender: "loop", Batch: 1000, Events: 2_000_000}, against: thousand, marker: pusherMarker, signed: true},
	{name: soketiBatching, spec: sendSpec{Batch: 1000, Events: 400_000}, against: thousand, marker: pusherMarker, signed: true, soketi: true},
	{name: segmentio, spec: sendSpec{Sender: "segmentio", Batch: 250, Events: 400_000}, against: thousand, marker: `"type":"track"`},
	{name: hundred, spec: sendSpec{Sender: "webhook", Batch: 100, Events: 1_000_000}, against: hundred, marker: pusherMarker, signed: true},
	{name: "upper bound, batches of 100, 1 connection", spec: sendSpec{Sender: "loop", Batch: 100, Events: 1_000_000}, against: hundred, marker: pusherMarker, signed: true},
	{name: single, spec: sendSpec{Sender: "webhook", Batch: 1, Events: 40_000}, against: single, marker: pusherMarker, signed: true},
	{name: bound1, spec: sendSpec{Sender: "loop", Batch: 1, Events: 40_000}, against: single, marker: pusherMarker, signed: true},
	{name: "goroutine + http.Post, 64 at once", spec: sendSpec{Sender: "post", Batch: 1, Events: 40_000}, against: single, marker: pusherMarker, signed: true},
	{name: liveKit, spec: sendSpec{Sender: "livekit", Batch: 1, Events: 20_000}, against: single, marker: `"event":`},
	{name: soketiSingle, spec: sendSpec{Batch: 1, Events: 10_000}, against: single, marker: pusherMarker, signed: true, soketi: true},
}

// endToEndFigures are the rounds of one row.
type endToEndFigures struct {
	rate, cpu, requests, connections, peak series // events/s, ns an event, numbers, bytes
	lost, wrong                            int64
}

type endToEndTable struct {
	figures map[string]*endToEndFigures // by name of the row
	missing string                      // why soketi is, if it is
}

// compareEndToEnd is the parent's part.
func compareEndToEnd(ctx context.Context, o options) (*endToEndTable, error) {
	t := &endToEndTable{figures: make(map[string]*endToEndFigures)}
	o.progress("end to end: preparing soketi")
	peer, err := prepareSoketi(ctx)
	if err != nil {
		t.missing = err.Error()
	}
	for round := range o.rounds {
		for _, r := range routes {
			if r.soketi && t.missing != "" {
				continue
			}
			o.progress("end to end, round %d: %s", round+1, r.name)
			if o.quick {
				r.spec.Events /= 20
			}
			if err := t.run(ctx, r, peer); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return t, nil
}

// run has one sender send to a receiver of its own.
func (t *endToEndTable) run(ctx context.Context, r route, peer *soketi) error {
	target, err := startReceiver(ctx, receiverSpec{Marker: r.marker, Signed: r.signed})
	if err != nil {
		return err
	}
	r.spec.URL = target.url
	r.spec.Warm = r.spec.Events / 20 / r.spec.Batch * r.spec.Batch // whole batches
	var sent sendResult
	if r.soketi {
		sent, err = peer.send(ctx, r.spec)
	} else {
		sent, err = measure[sendResult](ctx, "send", r.spec)
	}
	got, stopErr := target.stop()
	if err != nil {
		return err
	}
	if stopErr != nil {
		return stopErr
	}
	t.add(r, sent, got)
	return nil
}

func (t *endToEndTable) add(r route, sent sendResult, got received) {
	f := t.figures[r.name]
	if f == nil {
		f = &endToEndFigures{}
		t.figures[r.name] = f
	}
	events := float64(r.spec.Events)
	f.rate = append(f.rate, events/(float64(sent.ElapsedNS)/1e9))
	f.cpu = append(f.cpu, float64(sent.CPUNS)/events)
	f.requests = append(f.requests, float64(got.Requests))
	f.connections = append(f.connections, float64(got.Connections))
	f.peak = append(f.peak, float64(sent.PeakBytes))
	f.lost += int64(r.spec.Events+r.spec.Warm) - got.Events
	f.wrong += got.Wrong
}

func (t *endToEndTable) print(w io.Writer) error {
	out := table{
		title: "End to end",
		note: "To a receiver in another process, over loopback, signatures checked. CPU and memory are the sender's. " +
			"\"webhook's\" is the row of webhook above, in the same way of batching.",
		header: []string{"sender", "events/s", "CPU µs/event", "requests", "connections", "peak RSS", "webhook's events/s to it", "lost"},
	}
	for _, r := range routes {
		f := t.figures[r.name]
		if f == nil {
			out.add(r.name, "skipped: "+t.missing, "", "", "", "", "", "")
			continue
		}
		out.add(r.name, f.rate.cell(number), f.cpu.cell(microseconds), f.requests.cell(count),
			f.connections.cell(count), f.peak.cell(mebibytes), t.rate(r.against).over(f.rate).cell(times), f.losses())
	}
	if err := out.print(w); err != nil {
		return err
	}
	return printRatios(w, "End to end, ratios", t.ratios())
}

func (f *endToEndFigures) losses() string {
	if f.wrong > 0 {
		return fmt.Sprintf("%d, %d requests with a wrong signature", f.lost, f.wrong)
	}
	return fmt.Sprint(f.lost)
}

func (t *endToEndTable) rate(name string) series {
	if f := t.figures[name]; f != nil {
		return f.rate
	}
	return nil
}

func (t *endToEndTable) ratios() []ratio {
	faster := func(ours, theirs string) series { return t.rate(ours).over(t.rate(theirs)) }
	ratios := []ratio{
		{what: "batches of 1000, to the upper bound", values: faster(thousand, bound1000), aim: "≥ 1.1"},
		{what: "batches of 1000, to soketi batching", values: faster(thousand, soketiBatching), aim: "≥ 8"},
		{what: "batches of 1000, to segmentio", values: faster(thousand, segmentio), aim: "≥ 10"},
		{what: "batches of 1000, to LiveKit", values: faster(thousand, liveKit), aim: "≥ 150"},
		{what: "batching off, to the upper bound", values: faster(single, bound1), aim: "≥ 0.9"},
		{what: "batching off, to LiveKit", values: faster(single, liveKit), aim: "≥ 1.8"},
		{what: "batching off, to soketi not batching", values: faster(single, soketiSingle), aim: "≥ 4"},
	}
	if ours, bound := t.figures[single], t.figures[bound1]; ours != nil && bound != nil {
		ratios = append(ratios, ratio{what: "CPU of a request, to the upper bound's", values: ours.cpu.over(bound.cpu), aim: "≤ 1.2"})
	}
	return ratios
}
