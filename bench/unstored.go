package main

import (
	"slices"
	"time"

	"github.com/pusherhooks/webhook"
)

// unstoredSpec asks for how long an event is accepted and not stored yet, at a steady rate.
type unstoredSpec struct {
	Queue  queueSpec
	URL    string // of a receiver
	Apps   int    // in turns
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
	apps := benchApps(spec.Apps, spec.URL)
	q, err := spec.Queue.open(webhook.Config{Apps: apps})
	if err != nil {
		return result, err
	}
	if err := q.emitAtRate(apps, spec.Rate, spec.Rate/10); err != nil { // warm
		return result, err
	}
	if err := q.await(q.stored().Accepted); err != nil {
		return result, err
	}
	before, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return result, err
	}
	over, sampled := make(chan struct{}), make(chan struct{})
	var waiting, took []float64
	go func() {
		defer close(sampled)
		waiting, took = q.sample(over)
	}()
	err = q.emitAtRate(apps, spec.Rate, spec.Events)
	close(over)
	<-sampled
	if err == nil {
		err = q.await(q.stored().Accepted)
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
	}, q.end()
}

// emitAtRate emits n events, as evenly as sleeping allows.
func (q *webhooks) emitAtRate(apps []webhook.App, perSecond, n int) error {
	events, began := newSource(), time.Now()
	for i := 0; i < n; time.Sleep(100 * time.Microsecond) {
		for due := int(time.Since(began).Seconds() * float64(perSecond)); i < min(due, n); i++ {
			if err := q.Emit(apps[i%len(apps)].ID, webhook.MemberAdded(events.event(i))); err != nil {
				return err
			}
		}
	}
	return nil
}

// sample looks now and then how many events are not stored, and how long it takes until they are.
func (q *webhooks) sample(over <-chan struct{}) (waiting, took []float64) {
	for i := 0; ; i++ {
		select {
		case <-over:
			return waiting, took
		case <-time.After(time.Duration(8+i%7) * time.Millisecond):
		}
		before, started := q.stored(), time.Now()
		waiting = append(waiting, float64(before.Unsynced))
		for q.stored().Durable < before.Accepted {
			time.Sleep(100 * time.Microsecond)
		}
		took = append(took, float64(time.Since(started)))
	}
}
