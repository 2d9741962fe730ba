package webhook

import (
	"container/list"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// WithPusherTiming returns c with the timing rules of Pusher's own webhooks switched on: a ReconnectGrace of
// 3s, and above 100 subscribers a CountInterval of 5s (https://pusher.com/docs/channels/server_api/webhooks/).
// For CacheMissWindow, of which Pusher gives no figure, it takes 1s.
func (c Config) WithPusherTiming() Config {
	c.ReconnectGrace = 3 * time.Second
	c.CountInterval = 5 * time.Second
	c.CountThreshold = 100
	c.CacheMissWindow = time.Second
	return c
}

// A timingRule holds events back, or leaves them out.
type timingRule int

const (
	graceRule timingRule = iota // ReconnectGrace
	countRule                   // CountInterval
	missRule                    // CacheMissWindow
	timingRules
)

// ruleOf returns the rule that an event type falls under.
func ruleOf(t EventType) timingRule {
	switch t {
	case TypeSubscriptionCount:
		return countRule
	case TypeCacheMiss:
		return missRule
	}
	return graceRule
}

// timing applies the rules. It stands between Emit and the endpoints for those event types that a rule in
// force is about; events of all others pass it by.
//
// What has to keep its order shares a shard, by app and channel, and an event is put into its endpoints'
// batches under the shard's lock: so one that is let go just now and one that is emitted just now cannot
// overtake each other. The lock is taken before Dispatcher.mu and endpoint.mu.
type timing struct {
	d         *Dispatcher
	types     typeSet                    // the event types that a rule in force is about
	durations [timingRules]time.Duration // 0: not in force
	threshold int
	seed      maphash.Seed // which shard a channel belongs to
	shards    [16]timingShard
}

type timingShard struct {
	mu     sync.Mutex
	closed bool
	states map[stateKey]*list.Element
	queues [timingRules]list.List // of *state, in the order in which they end: a rule has one duration
	timer  *time.Timer            // for the first of them; nil until first needed
}

// A stateKey tells whom a rule is about: a channel or, for members, a user in it.
type stateKey struct {
	app, channel, user string
	rule               timingRule
}

// A state is what a rule remembers of a channel or member until it ends.
type state struct {
	key    stateKey
	ends   time.Time
	memory int64
	share  *atomic.Int64 // of the app, that memory was taken out of

	held   bool // event waits for the end
	event  Event
	since  time.Time  // when it was emitted
	routes *appRoutes // as they were then
}

// stateOverhead is what a state takes beside its strings: itself, its list element and its place in the map.
const stateOverhead = 512

func newTiming(d *Dispatcher) *timing {
	cfg := &d.cfg
	t := &timing{d: d, threshold: cfg.CountThreshold, seed: maphash.MakeSeed()}
	t.durations = [timingRules]time.Duration{cfg.ReconnectGrace, cfg.CountInterval, cfg.CacheMissWindow}
	for _, kind := range eventTypes {
		if kind != TypeClientEvent && t.durations[ruleOf(kind)] > 0 {
			t.types |= kind.set()
		}
	}
	return t
}

// existence and membership are types that cancel each other out: who asks for one has an interest in the other.
var (
	existence  = channelOccupied | channelVacated
	membership = memberAdded | memberRemoved
)

// interest returns the types whose webhooks an event of a type matters to: with the grace in force, both of a
// pair.
func (t *timing) interest(types typeSet) typeSet {
	for _, pair := range []typeSet{existence, membership} {
		if types&t.types&pair != 0 {
			return pair
		}
	}
	return types
}

// emit is Dispatcher.emit for a valid event of a type in t.types.
func (t *timing) emit(routes *appRoutes, kind typeSet, e *Event) error {
	interest, user := t.interest(kind), ""
	if interest == membership {
		user = e.UserID
	}
	if !routes.wants(interest, e.Channel) {
		routes.count.emitted.Add(1)
		return nil
	}
	p, err := t.d.payload(kind, e) // too large an event is an error of Emit, not of the timer
	if err != nil {
		return err
	}
	s := t.shard(routes.timing.id, e.Channel)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		p.free()
		return ErrClosed
	}
	key := stateKey{app: routes.timing.id, channel: e.Channel, user: user, rule: ruleOf(e.Type)}
	if t.swallow(s, key, routes, e) {
		p.free()
		routes.count.emitted.Add(1)
		return nil
	}
	return t.d.deliver(routes, kind, e, p)
}

func (t *timing) shard(app, channel string) *timingShard {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(app)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(channel)
	return &t.shards[h.Sum64()%uint64(len(t.shards))]
}

// swallow applies the event's rule and reports whether the event goes no further: it is held or left out.
// When there is no memory to remember anything by, the event goes on as if there were no rule.
func (t *timing) swallow(s *timingShard, key stateKey, routes *appRoutes, e *Event) bool {
	at, known := s.states[key]
	switch e.Type {
	case TypeChannelVacated, TypeMemberRemoved:
		if known { // said twice
			routes.count.suppressed.Add(1)
			return true
		}
		return t.remember(s, key, routes, e, true)
	case TypeChannelOccupied, TypeMemberAdded:
		if !known {
			return false
		}
		t.forget(s, at) // back within the grace: neither is sent
		routes.count.suppressed.Add(1)
		return true
	case TypeCacheMiss:
		if known {
			routes.count.suppressed.Add(1)
			return true
		}
		t.remember(s, key, routes, e, false)
		return false
	}
	return t.swallowCount(s, key, routes, e)
}

// swallowCount lets the first count above the threshold through and holds the latest until the interval's end.
func (t *timing) swallowCount(s *timingShard, key stateKey, routes *appRoutes, e *Event) bool {
	at, known := s.states[key]
	above := e.SubscriptionCount > t.threshold
	if !known {
		if above {
			t.remember(s, key, routes, e, false)
		}
		return false
	}
	st := at.Value.(*state)
	st.drop() // an older count is of no interest any more
	if above {
		st.hold(routes, e)
	}
	return above
}

// remember makes a state that ends when its rule's time is over, with e held until then if hold is set. It
// returns false if the limits leave no memory for it.
func (t *timing) remember(s *timingShard, key stateKey, routes *appRoutes, e *Event, hold bool) bool {
	memory := int64(len(key.app) + len(key.channel) + len(key.user) + stateOverhead)
	if !t.charge(routes, memory) {
		return false
	}
	key.channel, key.user = strings.Clone(key.channel), strings.Clone(key.user) // they may be parts of large messages
	st := &state{key: key, memory: memory, share: &routes.timing.memory}
	if hold {
		st.hold(routes, e)
	}
	if s.states == nil {
		s.states = make(map[stateKey]*list.Element)
	}
	s.states[key] = t.enqueue(s, st)
	return true
}

// enqueue starts st's time.
func (t *timing) enqueue(s *timingShard, st *state) *list.Element {
	st.ends = time.Now().Add(t.durations[st.key.rule])
	at := s.queues[st.key.rule].PushBack(st)
	if s.queues[st.key.rule].Len() == 1 {
		t.arm(s)
	}
	return at
}

// forget ends a state. What it holds is left out.
func (t *timing) forget(s *timingShard, at *list.Element) {
	st := s.queues[at.Value.(*state).key.rule].Remove(at).(*state)
	st.drop()
	delete(s.states, st.key)
	if len(s.states) == 0 {
		s.states = nil // a map never shrinks
	}
	t.d.bytes.Add(-st.memory)
	st.share.Add(-st.memory)
}

// hold makes e the event that waits for the state's end.
func (st *state) hold(routes *appRoutes, e *Event) {
	st.event = Event{Type: e.Type, Channel: st.key.channel, UserID: st.key.user, SubscriptionCount: e.SubscriptionCount}
	st.held, st.since, st.routes = true, time.Now(), routes
	routes.count.held.Add(1)
}

// drop leaves the held event out, if there is one.
func (st *state) drop() {
	if st.held {
		st.held = false
		st.routes.count.held.Add(-1)
		st.routes.count.suppressed.Add(1)
	}
}

// charge takes memory for a state: out of what one endpoint may hold, for all states of an app, and out of
// the whole.
func (t *timing) charge(routes *appRoutes, memory int64) bool {
	if routes.timing.memory.Add(memory) > t.d.cfg.MaxEndpointQueuedBytes || t.d.charge(memory, memory) == 0 {
		routes.timing.memory.Add(-memory)
		return false
	}
	return true
}

// arm sets the shard's timer to the first end. It leaves the timer alone where nothing is waiting.
func (t *timing) arm(s *timingShard) {
	var first time.Time
	for i := range s.queues {
		if at := s.queues[i].Front(); at != nil {
			if ends := at.Value.(*state).ends; first.IsZero() || ends.Before(first) {
				first = ends
			}
		}
	}
	switch wait := time.Until(first); {
	case first.IsZero():
	case s.timer == nil:
		s.timer = time.AfterFunc(wait, func() { t.expire(s) })
	default:
		s.timer.Reset(wait)
	}
}

// expire is the timer's function: it ends every state whose time is over.
func (t *timing) expire(s *timingShard) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	t.d.running.Add(1) // before closed is set, so never during running.Wait
	defer t.d.running.Done()
	lost := t.endUntil(s, time.Now())
	t.arm(s)
	s.mu.Unlock()
	t.d.report(lost)
}

// endUntil ends the states whose time is over at a moment, or all if that is zero, and lets go what they hold
// in the order in which it was emitted.
func (t *timing) endUntil(s *timingShard, moment time.Time) (lost []loss) {
	var due []*list.Element
	for i := range s.queues {
		for at := s.queues[i].Front(); at != nil; at = at.Next() {
			if !moment.IsZero() && at.Value.(*state).ends.After(moment) {
				break
			}
			due = append(due, at)
		}
	}
	slices.SortStableFunc(due, func(a, b *list.Element) int {
		return a.Value.(*state).since.Compare(b.Value.(*state).since)
	})
	for _, at := range due {
		lost = append(lost, t.end(s, at)...)
	}
	return lost
}

// end lets go what a state holds. A count that was held starts the next interval.
func (t *timing) end(s *timingShard, at *list.Element) []loss {
	st := at.Value.(*state)
	if !st.held {
		t.forget(s, at)
		return nil
	}
	st.held = false
	st.routes.count.held.Add(-1)
	lost := t.d.release(st.routes, &st.event)
	if st.key.rule == countRule && !s.closed {
		s.queues[countRule].Remove(at)
		s.states[st.key] = t.enqueue(s, st)
	} else {
		t.forget(s, at)
	}
	return lost
}

// close lets go everything that is held, in order, and refuses further events.
func (t *timing) close() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.closed = true
		lost := t.endUntil(s, time.Time{})
		if s.timer != nil {
			s.timer.Stop()
		}
		s.mu.Unlock()
		t.d.report(lost)
	}
}
