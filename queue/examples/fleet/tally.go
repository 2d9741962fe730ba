package main

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// A tally is what the receiver got.
type tally struct {
	mu   sync.Mutex
	apps map[string]*story
	totals
}

type totals struct{ Received, Duplicates, OutOfOrder int }

// A story is what was received of one app. Its events are numbered, in each run of its node from 0.
type story struct {
	runs [][]bool // by number: which events were received
	last place    // of what was received for the first time
	at   int64    // when the newest event was emitted, in microseconds
}

type place struct{ run, event int }

func (p place) before(other place) bool {
	return p.run < other.run || p.run == other.run && p.event < other.event
}

func newTally() *tally { return &tally{apps: make(map[string]*story)} }

// take notes the events of a webhook.
func (t *tally) take(app string, body []byte) error {
	var told struct {
		Events []received `json:"events"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.apps[app]
	if s == nil {
		s = &story{last: place{-1, 0}}
		t.apps[app] = s
	}
	for i := range told.Events {
		if err := t.note(s, &told.Events[i]); err != nil {
			return err
		}
	}
	return nil
}

// A received is an event of a webhook.
type received struct {
	Name webhook.EventType `json:"name"`
	User string            `json:"user_id"`
	Data string            `json:"data"`
}

// place says which event of its app it is.
func (e *received) place() (p place, err error) {
	round := 0
	if _, err := fmt.Sscanf(e.User, "%d.%d", &p.run, &round); err != nil {
		return p, fmt.Errorf("user %q: %w", e.User, err)
	}
	p.event = round * eventsPerRound
	switch e.Name {
	case webhook.TypeClientEvent:
		p.event++
	case webhook.TypeMemberRemoved:
		p.event += 2
	}
	return p, nil
}

func (t *tally) note(s *story, e *received) error {
	if e.User == "host" {
		return nil
	}
	p, err := e.place()
	if err != nil {
		return err
	}
	if !s.add(p) {
		t.Duplicates++
		return nil
	}
	t.Received++
	if p.before(s.last) {
		t.OutOfOrder++
	} else {
		s.last = p
	}
	if e.Name == webhook.TypeClientEvent {
		at := int64(0)
		if err := json.Unmarshal([]byte(e.Data), &at); err != nil {
			return err
		}
		s.at = max(s.at, at)
	}
	return nil
}

// add reports whether the event was not received before.
func (s *story) add(p place) bool {
	for len(s.runs) <= p.run {
		s.runs = append(s.runs, nil)
	}
	for len(s.runs[p.run]) <= p.event {
		s.runs[p.run] = append(s.runs[p.run], false)
	}
	before := s.runs[p.run][p.event]
	s.runs[p.run][p.event] = true
	return !before
}

// A sum is what a tally says at /tally.
type sum struct {
	totals
	Apps map[string]appSum
}

type appSum struct {
	Runs []runSum
	At   time.Time // the newest event was emitted
}

// A runSum tells which events of a run were received: those before Next that are not missing.
type runSum struct {
	Next    int
	Missing []int
}

func (t *tally) sum() sum {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := sum{t.totals, make(map[string]appSum)}
	for app, s := range t.apps {
		a := appSum{At: time.UnixMicro(s.at)}
		for _, seen := range s.runs {
			r := runSum{Next: len(seen)}
			for i, it := range seen {
				if !it {
					r.Missing = append(r.Missing, i)
				}
			}
			a.Runs = append(a.Runs, r)
		}
		all.Apps[app] = a
	}
	return all
}

// lost counts the events of a run that were stored, which are those before stored, and were not received.
func (a appSum) lost(run, stored int) (n int) {
	if run >= len(a.Runs) {
		return stored
	}
	n = max(0, stored-a.Runs[run].Next)
	for _, i := range a.Runs[run].Missing {
		if i < stored {
			n++
		}
	}
	return n
}
