package main

import (
	"math"
	"sync"
	"time"
)

// durations counts how long calls took, to a quarter of a doubling. It does not grow.
type durations struct {
	mu     sync.Mutex
	counts [160]int
	total  int
	worst  time.Duration
}

func (d *durations) add(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[int(4*math.Log2(float64(max(1, took))))]++
	d.total++
	d.worst = max(d.worst, took)
}

// quantile returns a duration that so many of the calls have not exceeded, rounded up.
func (d *durations) quantile(q float64) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	below := 0
	for i, n := range d.counts {
		if below += n; n > 0 && float64(below) >= q*float64(d.total) {
			return min(d.worst, time.Duration(math.Exp2(float64(i+1)/4)))
		}
	}
	return 0
}
