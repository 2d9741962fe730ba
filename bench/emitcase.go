package main

import (
	"fmt"
	"runtime"
	"slices"
)

// An emitCase is one row group of the Emit table.
type emitCase struct {
	Name    string
	Filter  string // prefix that channels must have; "" lets all through
	Type    string // event type that is asked for; "" is the one that is emitted
	Copies  int    // endpoints that want every event
	Workers int    // goroutines that emit
	Shared  bool   // by all workers to one app; otherwise each has an app of its own
	Metrics bool   // with hooks that observe into Prometheus' metrics
	Small   bool   // nothing else is on the heap
	Dir     string // of what is durable
	Burst   int    // events after which the endpoint has nothing left to send; 0: it is always busy

	peers []string // who is measured beside webhook
}

// The cases that ratios are made of.
const (
	wanted             = "wanted"
	wantedMetrics      = "wanted, Prometheus' hooks"
	wantedSmall        = "wanted, small heap"
	wantedSmallMetrics = "wanted, small heap, Prometheus' hooks"
	filteredOut        = "filtered out"
	otherType          = "nobody wants the type"
	appEach            = "an app each" // behind the number of cores
)

func emitCases() []emitCase {
	cores := runtime.GOMAXPROCS(0)
	all := []string{emitFloor, emitOTel, emitLiveKit, emitSegmentio}
	return []emitCase{
		{Name: wanted, Copies: 1, Workers: 1, peers: all},
		{Name: wantedMetrics, Copies: 1, Workers: 1, Metrics: true},
		{Name: "wanted, 100 at a time, a rest between", Copies: 1, Workers: 1, Burst: 100},
		{Name: wantedSmall, Copies: 1, Workers: 1, Small: true, peers: []string{emitFloor, emitOTel}},
		{Name: wantedSmallMetrics, Copies: 1, Workers: 1, Small: true, Metrics: true},
		{Name: filteredOut, Copies: 1, Workers: 1, Filter: "private-"},
		{Name: otherType, Copies: 1, Workers: 1, Type: "channel_vacated", peers: []string{emitLiveKit}},
		{Name: "10 endpoints want it", Copies: 10, Workers: 1, peers: all},
		{Name: fmt.Sprintf("%d cores, one endpoint", cores), Copies: 1, Workers: cores, Shared: true, peers: all},
		{Name: fmt.Sprintf("%d cores, %s", cores, appEach), Copies: 1, Workers: cores, peers: all},
	}
}

// has reports whether a contender takes part.
func (c *emitCase) has(contender string) bool {
	return contender == emitWebhook || slices.Contains(c.peers, contender)
}

// apps is the number of apps that a case emits to.
func (c *emitCase) apps() int {
	if c.Shared {
		return 1
	}
	return c.Workers
}

// app is the one that a worker emits to.
func (c *emitCase) app(worker int) int {
	if c.Shared {
		return 0
	}
	return worker
}

// chunk is the number of events that are emitted between two settlings. Queues are made to hold one. It is so small
// that a Sender which is slower than who emits, as on few cores, does not fall behind further than on a server.
const chunk = 8000

// perWorker is how many events of a chunk one worker emits, if there are n in all.
func (c *emitCase) perWorker(n int) int {
	size := chunk
	if c.Burst > 0 {
		size = c.Burst
	}
	return max(1, min(size, n)/c.Workers)
}
