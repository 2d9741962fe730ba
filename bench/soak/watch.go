package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"syscall"
	"time"

	"github.com/pusherhooks/webhook"
)

// A sample is what the dispatcher's process has at one moment.
type sample struct {
	heap        float64 // bytes that a collection has found in use
	goroutines  float64
	descriptors float64
	stats       webhook.Stats
}

// take collects garbage before it looks.
func take(d *webhook.Dispatcher) (s sample, err error) {
	runtime.GC()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	s.heap, s.goroutines = float64(live[0].Value.Uint64()), float64(runtime.NumGoroutine())
	entries, err := os.ReadDir("/proc/self/fd")
	s.descriptors = float64(len(entries))
	if d != nil {
		s.stats = d.Stats()
	}
	return s, err
}

// watch takes a sample at every interval until ctx ends, after a warm-up.
func watch(ctx context.Context, d *webhook.Dispatcher, warmUp, every time.Duration) (samples []sample, err error) {
	started := time.Now()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return samples, nil
		case <-ticker.C:
		}
		s, err := take(d)
		if err != nil {
			return nil, err
		}
		if time.Since(started) >= warmUp {
			samples = append(samples, s)
		}
	}
}

// A figure is what is read off a sample.
type figure struct {
	name      string
	of        func(sample) float64
	unit      func(float64) string
	tolerance func(first float64) float64 // how much more the last third may have than the first; nil: as much as it likes
}

// figures are all of them. Between the middles of the thirds of ten minutes lie five, with some 1.5 million events, 330 000
// requests and 20 000 changes of apps. So heapGrowth is 8 bytes an event, 40 a request or 600 a change: an endpoint, or the
// batch of a request, is more. What is on the wire swings by a fifth, as endpoints hang and as the machine is busy with
// something else; a leak of one in a thousand requests would be a quarter of it.
func figures() []figure {
	return []figure{
		{"heap in use", func(s sample) float64 { return s.heap }, mebibytes, func(float64) float64 { return heapGrowth }},
		{"goroutines", func(s sample) float64 { return s.goroutines }, whole, quarter},
		{"descriptors", func(s sample) float64 { return s.descriptors }, whole, quarter},
		{"events pending", func(s sample) float64 { return float64(s.stats.Pending) }, whole, nil},
		{"events held", func(s sample) float64 { return float64(s.stats.Held) }, whole, nil},
		{"PendingBytes", func(s sample) float64 { return float64(s.stats.PendingBytes) }, mebibytes, nil},
		{"endpoints active", func(s sample) float64 { return float64(s.stats.ActiveEndpoints) }, whole, nil},
	}
}

const heapGrowth = 12 << 20

func quarter(first float64) float64 { return first / 4 }

// values are a figure's.
func (f figure) values(samples []sample) (all []float64) {
	for _, s := range samples {
		all = append(all, f.of(s))
	}
	return all
}

// thirds are the medians of the first and the last third.
func (f figure) thirds(samples []sample) (first, last float64) {
	third := (len(samples) + 2) / 3
	return median(f.values(samples[:third])), median(f.values(samples[len(samples)-third:]))
}

// grown complains if there is more in the last third than in the first.
func (f figure) grown(samples []sample) error {
	first, last := f.thirds(samples)
	if f.tolerance == nil || last-first <= f.tolerance(first) {
		return nil
	}
	return fmt.Errorf("%s grew from %s to %s, medians of the first and the last third: more than %s",
		f.name, f.unit(first), f.unit(last), f.unit(f.tolerance(first)))
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func whole(v float64) string { return fmt.Sprintf("%.0f", v) }

func mebibytes(v float64) string { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }

// cpuTime is what this process has used of the cores.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // cannot fail for oneself
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
