package main

import (
	"context"
	"slices"
	"time"

	"github.com/pusherhooks/webhook"
)

// unstoredSpec asks for how long an event is accepted and not stored yet, at a steady rate.
type unstoredSpec struct {
	Queue  queueSpec
	URL    string // of a receiver
	Rate   int    // events a second
	Events int
}

// An unstoredResult holds percentiles: of how many events wait at a moment, and of the nanoseconds that one does.
type unstoredResult struct {
	Events50, Events99, NS50, NS99 float64
	CPUNS                          float64 // of an event, until it is delivered
}

// measureUnstored is the child's part.
func measureUnstored(spec unstoredSpec) (result unstoredResult, err error) {
	q, err := openQueue(spec.Queue, webhook.Config{Apps: []webhook.App{benchApp(spec.URL)}})
	if err != nil {
		return result, err
	}
	if err := q.emitAtRate(spec.Rate, spec.Rate/10); err != nil { // warm
		return result, err
	}
	before, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return result, err
	}
	over, sampled := make(chan struct{}), make(chan error, 1)
	var waiting, took []float64
	go func() {
		var err error
		waiting, took, err = q.sample(over)
		sampled <- err
	}()
	err = q.emitAtRate(spec.Rate, spec.Events)
	close(over)
	if sampleErr := <-sampled; err == nil {
		err = sampleErr
	}
	if err == nil {
		err = q.await(q.Stats().Accepted)
	}
	if err != nil {
		return result, err
	}
	after, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return result, err
	}
	slices.Sort(waiting)
	slices.Sort(took)
	return unstoredResult{
		Events50: percentile(waiting, 0.5), Events99: percentile(waiting, 0.99), NS50: percentile(took, 0.5), NS99: percentile(took, 0.99),
		CPUNS: float64(after-before) / float64(spec.Events),
	}, q.close()
}

// emitAtRate emits n events, as evenly as sleeping allows.
func (q *durableQueue) emitAtRate(perSecond, n int) error {
	events, app, began := newSource(), appID(0), time.Now()
	for i := 0; i < n; time.Sleep(50 * time.Microsecond) {
		for due := int(time.Since(began).Seconds() * float64(perSecond)); i < min(due, n); i++ {
			if err := q.Emit(app, webhook.MemberAdded(events.event(i))); err != nil {
				return err
			}
		}
	}
	return nil
}

// sample looks every few milliseconds how many events are not stored, and times one of its own until it is.
func (q *durableQueue) sample(over <-chan struct{}) (waiting, took []float64, err error) {
	events, app := newSource(), appID(0)
	for i := 0; ; i++ {
		select {
		case <-over:
			return waiting, took, nil
		case <-time.After(time.Duration(2+i%7) * time.Millisecond):
		}
		waiting = append(waiting, float64(q.Stats().Unsynced))
		started := time.Now()
		if err := q.EmitDurable(context.Background(), app, webhook.MemberAdded(events.event(i))); err != nil {
			return nil, nil, err
		}
		took = append(took, float64(time.Since(started)))
	}
}
