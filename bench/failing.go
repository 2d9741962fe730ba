package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pusherhooks/webhook"
)

// failingSpec asks what endpoints cost that never accept anything: each of an app of its own, with one event waiting.
type failingSpec struct {
	Endpoints int
	Longest   time.Duration // RetryWaitMax
}

// A failingResult holds bytes an endpoint, beside its configuration, goroutines of all of them, and what their
// attempts cost once they are as rare as they get.
type failingResult struct {
	IdleBytes, Bytes, QueuedBytes float64
	Goroutines                    float64 // at most moments
	Attempts, CPUNS               float64 // a second, and an attempt
	TimerNS                       float64 // CPU of a timer that starts a goroutine, as many a second
	Lost                          int
}

var errDown = errors.New("down")

// measureFailing is the child's part.
func measureFailing(spec failingSpec) (result failingResult, err error) {
	var attempts atomic.Int64
	d, err := webhook.New(webhook.Config{
		RetryWaitMax: spec.Longest,
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
			attempts.Add(1)
			return errDown
		}),
	})
	if err != nil {
		return result, err
	}
	apps, events := growthApps(spec.Endpoints, ""), newSource()
	nothing, goroutines, n := held(), runtime.NumGoroutine(), float64(spec.Endpoints)
	for _, app := range apps {
		if err := d.SetApp(app); err != nil {
			return result, err
		}
	}
	result.IdleBytes = (held() - nothing) / n
	for i, app := range apps {
		if err := d.Emit(app.ID, webhook.MemberAdded(events.event(i))); err != nil {
			return result, err
		}
	}
	if err := failOften(d, apps); err != nil {
		return result, err
	}
	result.Bytes = (held() - nothing) / n
	result.QueuedBytes = float64(d.Stats().PendingBytes) / n
	time.Sleep(spec.Longest / 2)
	if err := result.watch(&attempts, spec.Longest/2, goroutines); err != nil {
		return result, err
	}
	result.Lost = spec.Endpoints - int(d.Stats().Pending)
	if err := closeDespiteDead(d); err != nil {
		return result, err
	}
	result.TimerNS, err = timerCost(result.Attempts, spec.Longest/4)
	return result, err
}

// failOften has every endpoint fail until its waits are the longest. They double meanwhile, so there is no need to wait
// for them.
func failOften(d *webhook.Dispatcher, apps []webhook.App) error {
	const doublings = 7 // from one second to more than RetryWaitMax
	for deadline := time.Now().Add(childTime / 2); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		fewest := doublings
		for _, s := range d.Endpoints("") {
			fewest = min(fewest, s.Failures)
		}
		if fewest == doublings {
			return nil
		}
		for _, app := range apps {
			d.RetryNow(app.ID)
		}
	}
	return errors.New("failing: the endpoints were not tried often enough")
}

// watch measures for so long. That is the later half of the longest wait, in which every endpoint is tried once: half
// more often than in the long run, when waits are between half of the longest and the longest.
func (r *failingResult) watch(attempts *atomic.Int64, duration time.Duration, goroutines int) error {
	attemptsBefore, started := attempts.Load(), time.Now()
	before, err := cpuTime()
	if err != nil {
		return err
	}
	var seen series
	for time.Since(started) < duration {
		time.Sleep(100 * time.Millisecond)
		seen = append(seen, float64(runtime.NumGoroutine()-goroutines))
	}
	after, err := cpuTime()
	if err != nil {
		return err
	}
	made := max(1, float64(attempts.Load()-attemptsBefore))
	r.Goroutines = seen.median()
	r.Attempts = made / time.Since(started).Seconds()
	r.CPUNS = float64(after-before) / made
	return nil
}

// timerCost is the least that something costs which waits for its time without a goroutine: the CPU time of a timer
// that starts one. Where an idle core is slow to wake up, as on a virtual machine, that is most of it.
func timerCost(perSecond float64, duration time.Duration) (float64, error) {
	var fired atomic.Int64
	n := int(perSecond * duration.Seconds())
	before, err := cpuTime()
	if err != nil {
		return 0, err
	}
	for i := range n {
		time.AfterFunc(duration*time.Duration(i)/time.Duration(n), func() { go fired.Add(1) })
	}
	time.Sleep(duration)
	after, err := cpuTime()
	return float64(after-before) / max(1, float64(fired.Load())), err
}

// failingFigures are the rounds.
type failingFigures struct {
	endpoints                                 int
	idle, bytes, beside, goroutines, attempts series
	cpu, timer, core                          series
	lost                                      int
}

func (f *failingFigures) run(ctx context.Context, quick bool) error {
	spec := failingSpec{Endpoints: 10_000, Longest: time.Minute}
	if quick {
		spec = failingSpec{Endpoints: 1000, Longest: 2 * time.Second}
	}
	f.endpoints = spec.Endpoints
	r, err := measure[failingResult](ctx, "failing", spec)
	if err != nil {
		return err
	}
	f.idle = append(f.idle, r.IdleBytes)
	f.bytes = append(f.bytes, r.Bytes)
	f.beside = append(f.beside, r.Bytes-r.QueuedBytes)
	f.goroutines = append(f.goroutines, r.Goroutines)
	f.attempts = append(f.attempts, r.Attempts)
	f.cpu = append(f.cpu, r.CPUNS)
	f.timer = append(f.timer, r.TimerNS)
	between := float64(spec.Longest) * 3 / 4 // in the long run
	f.core = append(f.core, 100*r.CPUNS*float64(spec.Endpoints)/between)
	f.lost += r.Lost
	return nil
}

func (f *failingFigures) table() *table {
	t := &table{
		title: "Endpoints that fail",
		note: "Each of an app of its own, with one event waiting, and a Sender that fails at once. Bytes are per endpoint, " +
			"beside its configuration; its queue is what PendingBytes says. Goroutines are of all of them, at most moments. CPU " +
			"time is measured in the half minute in which each is tried once; of a core is in the long run, at an attempt every " +
			"45 s. The timer starts a goroutine, as often, and nothing else.",
		header: []string{"endpoints", "bytes idle", "bytes failing", "beside its queue", "goroutines", "attempts/s",
			"CPU µs/attempt", "CPU µs/timer", "of a core", "lost"},
	}
	t.add(count(float64(f.endpoints)), f.idle.cell(count), f.bytes.cell(count), f.beside.cell(count), f.goroutines.cell(count),
		f.attempts.cell(number), f.cpu.cell(microseconds), f.timer.cell(microseconds), f.core.cell(percent), fmt.Sprint(f.lost))
	return t
}

func (f *failingFigures) ratios() []ratio {
	what := func(text string) string { return count(float64(f.endpoints)) + " failing endpoints: " + text }
	more := make(series, len(f.beside))
	for i := range more {
		more[i] = f.beside[i] - f.idle[i]
	}
	return []ratio{
		{what("goroutines"), f.goroutines, "0", count},
		{what("each beside its queue"), f.beside, "≤ 1 024 B", inBytes},
		{what("that, beyond an idle one"), more, "", inBytes},
		{what("of a core"), f.core, "< 1 %", percent},
		{what("CPU of an attempt, to that of a timer"), f.cpu.over(f.timer), "", times},
	}
}
