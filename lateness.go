package webhook

import (
	"container/list"
	"hash/maphash"
	"time"
)

// Events of several nodes reach the dispatcher a little out of the order in which they happened. With a Lateness it
// remembers the latest of a channel's two, of a member's two and of a channel's counts, each for that long after it has come:
// so one that comes behind it and happened before it does not have the last word. And it holds what the grace is about for
// that much longer: so whether somebody was back in time is decided by when they were, not by when that was heard.

// An order is how an event comes beside the latest.
type order int

const (
	inOrder  order = iota
	passes         // late: it goes to its endpoints, and the one that is held and happened after it still follows
	outdated       // late: it is not so any more
)

// lateKey is where the latest is remembered, beside what the rule itself remembers; ok is false if it is not.
func (t *timing) lateKey(key stateKey) (late stateKey, ok bool) {
	switch key.rule {
	case graceRule:
		key.rule = lateRule
	case countRule:
		key.rule = lateCountRule
	default: // the first cache_miss counts, whichever that is
		return key, false
	}
	return key, t.durations[key.rule] > 0
}

// order looks how e comes. The shard's lock is held, as in latest.
func (t *timing) order(s *timingShard, key stateKey, e *Event) order {
	late, ok := t.lateKey(key)
	if !ok {
		return inOrder
	}
	at, known := s.states[late]
	if !known || !t.outlives(at.Value.(*state), e) {
		return inOrder
	}
	if key.rule == countRule {
		return outdated
	}
	switch st := at.Value.(*state); {
	case st.there == there(e.Type):
		return inOrder // the same again
	case there(e.Type) && s.states[key] != nil: // the other one is held
		return passes
	}
	return outdated
}

// outlives reports whether what st remembers holds although e comes behind it: it happened after e. At one moment on two
// nodes, somebody is there if either says so: nobody knows more exactly which came first. On one node events come in order.
func (t *timing) outlives(st *state, e *Event) bool {
	apart := e.At.Sub(st.at)
	if st.key.rule == lateRule && st.node != t.nodeOf(e) && apart.Abs() <= t.durations[lateRule]/oneMoment {
		return st.there && !there(e.Type)
	}
	return apart < 0
}

// oneMoment is the part of Lateness within which it is not known which of two nodes' events came first.
const oneMoment = 10

// latest remembers e, unless there is something later. The ticket of an event that is not held itself is held for that
// long, so that whoever has to emit the event again knows that it is still needed.
func (t *timing) latest(s *timingShard, key stateKey, a *account, e *Event, ticket *Ticket) {
	key, ok := t.lateKey(key)
	if !ok {
		return
	}
	at, known := s.states[key]
	if known {
		if t.outlives(at.Value.(*state), e) {
			return
		}
		t.restart(s, at)
	} else if at = t.remember(s, key, a, e); at == nil {
		return
	}
	st := at.Value.(*state)
	before := st.ticket
	st.at, st.there, st.node, st.ticket = e.At, there(e.Type), t.nodeOf(e), ticket
	ticket.remember()
	before.release()
}

// date has e say when it happened, if events are compared by that.
func (t *timing) date(e *Event) {
	if t.durations[lateRule] == 0 {
		return
	}
	if now := time.Now(); e.At.IsZero() || e.At.After(now) {
		e.At = now
	}
}

// lasts is how long a state of a rule lasts.
func (t *timing) lasts(rule timingRule) time.Duration {
	if rule == graceRule {
		return t.durations[rule] + t.durations[lateRule]
	}
	return t.durations[rule]
}

// restart has a state last as long as if it had begun now.
func (t *timing) restart(s *timingShard, at *list.Element) {
	st := at.Value.(*state)
	st.ends = t.d.schedule.clock.now().Add(t.lasts(st.key.rule))
	s.queues[st.key.rule].MoveToBack(at)
}

// there reports whether an event says that somebody is there.
func there(t EventType) bool { return t == TypeChannelOccupied || t == TypeMemberAdded }

// nodeOf stands for the event's node: nothing of the event is kept.
func (t *timing) nodeOf(e *Event) uint64 { return maphash.String(t.seed, e.Node) }
