package webhook

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// errDropped is why a batch is given up that nobody is told of. It reaches nobody.
var errDropped = errors.New("webhook: dropped")

// Drop forgets what is queued or held for the apps whose ids match, and what timing rules remember of them: for who keeps
// events elsewhere, and leaves the rest of these apps' to another process. No hook is told and no ticket ends; Stats.Dropped
// counts the events. The apps themselves and what is known of their endpoints stay.
//
// It then waits for what is on the wire, until ctx ends, and cancels it. What is accepted is delivered: its tickets have
// ended when Drop returns. What fails is forgotten. Drop returns nil once nothing of these apps' is on the wire any more, and an
// error that wraps ctx's if a second after it was cancelled a Send or a hook has still not returned.
//
// The caller emits nothing for these apps meanwhile. Afterwards it may: it will be sent in order, and behind what may still
// be on the wire. Two kinds of tickets may end later: those of what was given up before Drop and Hooks.GivenUp has not
// settled, and, where Drop has returned an error, those of what is accepted after all.
//
// apps is called for each app that has something pending, on this goroutine, and no lock is held.
func (d *Dispatcher) Drop(ctx context.Context, apps func(appID string) bool) error {
	chosen := make(map[string]bool)
	var accounts []*account
	for a := range d.accounts.all() {
		if a.memory.Load() != 0 && apps(a.id) {
			chosen[a.id], accounts = true, append(accounts, a)
		}
	}
	if d.timing != nil && len(chosen) > 0 {
		d.timing.drop(chosen)
	}
	var wire []<-chan struct{}
	for e := range endpointsOf(slices.Values(accounts)) {
		e.settle(e.purge(errDropped))
		wire = e.wire(wire)
		d.retire(e)
	}
	if awaitAll(ctx, wire) == 0 {
		return nil
	}
	for e := range endpointsOf(slices.Values(accounts)) {
		e.recall()
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangs)
	defer cancel()
	if left := awaitAll(late, wire); left > 0 {
		return fmt.Errorf("webhook: %d requests, or their hooks, have not returned: %w", left, ctx.Err())
	}
	return nil
}

// over is closed when the attempt that the lane is making has ended and everybody knows. e.mu is held.
func (l *lane) over() <-chan struct{} {
	if l.ended == nil {
		l.ended = make(chan struct{})
	}
	return l.ended
}

// wire appends what is closed when the endpoint's attempts have ended and everybody knows.
func (e *endpoint) wire(all []<-chan struct{}) []<-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.existing() {
		if l.state == sending {
			all = append(all, l.over())
		}
	}
	return all
}

// awaitAll waits for all, and returns how many are left when ctx ends.
func awaitAll(ctx context.Context, all []<-chan struct{}) (left int) {
	for i := range all {
		select {
		case <-all[i]:
			continue
		default:
		}
		select {
		case <-all[i]:
		case <-ctx.Done():
			left++
		}
	}
	return left
}

// forget accounts for a batch that is dropped. No lock is held.
func (e *endpoint) forget(b *batch) {
	e.shared.dropped.Add(uint64(b.events))
	e.mu.Lock()
	f := e.told(b)
	e.mu.Unlock()
	f.ended()
	e.shared.settling.done()
	if e.shared.cfg.Hooks.GivenUp != nil {
		e.shared.settled()
	}
}

// drop forgets the states of apps. What they hold ends without a word.
func (t *timing) drop(apps map[string]bool) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		all := s.due(time.Time{})
		s.mu.Unlock()
		for len(all) > 0 {
			n := min(len(all), statesAtOnce)
			s.mu.Lock()
			for _, at := range all[:n] {
				if st := at.Value.(*state); apps[st.key.app] && s.states[st.key] == at {
					t.dropOne(s, at)
				}
			}
			s.mu.Unlock()
			all = all[n:]
		}
	}
}

// dropOne counts what a state holds as Purge would: once for each endpoint that wants it.
func (t *timing) dropOne(s *timingShard, at *list.Element) {
	st := at.Value.(*state)
	if st.held {
		events := uint64(st.routes.wanting(st.event.Type.set(), st.event.Channel))
		st.account.count.queued.Add(events)
		t.d.dropped.Add(events)
	}
	st.letGo()
	t.forget(s, at)
}
