package webhook

import (
	"container/list"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
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
	graceRule     timingRule = iota // ReconnectGrace
	countRule                       // CountInterval
	missRule                        // CacheMissWindow
	lateRule                        // Lateness, of what graceRule is about
	lateCountRule                   // Lateness, of counts
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
	most   int                    // states since the map was made: it never shrinks
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
	key     stateKey
	ends    time.Time // by the clock of the schedule
	memory  int64
	account *account // that memory was taken from

	held   bool // event waits for the end
	event  Event
	ticket *Ticket       // its own, or that of the event that is remembered, or nil
	since  time.Time     // when it was emitted
	stood  time.Duration // how long the clock had stood still then
	at     time.Time     // when what began the state happened, if it says
	routes *appRoutes    // as they were then

	there bool   // of the latest: somebody is
	node  uint64 // of the latest
}

// stateOverhead is what a state takes beside its strings: itself, its list element and its place in the map.
const stateOverhead = 512

func newTiming(d *Dispatcher) *timing {
	cfg := &d.cfg
	t := &timing{d: d, threshold: cfg.CountThreshold, seed: maphash.MakeSeed()}
	t.durations = [timingRules]time.Duration{cfg.ReconnectGrace, cfg.CountInterval, cfg.CacheMissWindow, cfg.Lateness, cfg.Lateness}
	for _, kind := range eventTypes {
		if kind != TypeClientEvent && (t.durations[ruleOf(kind)] > 0 || cfg.Lateness > 0 && kind != TypeCacheMiss) {
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

// emit is Dispatcher.emitTo for a valid event of a type in t.types.
func (t *timing) emit(a *account, routes *appRoutes, kind typeSet, e *Event, ticket *Ticket, lost *losses) error {
	interest, user := t.interest(kind), ""
	if interest == membership {
		user = e.UserID
	}
	if !routes.wants(interest, e.Channel) {
		return nil
	}
	event, err := e.encoded(kind, t.d.cfg.ClientData, t.d.cfg.MaxEventBytes) // too large is an error now, not later
	if err != nil {
		return err
	}
	defer encodeBuffers.Put(event)
	s := t.shard(a.id, e.Channel)
	key := stateKey{app: a.id, channel: e.Channel, user: user, rule: ruleOf(e.Type)}
	if lost == nil { // Emit: what it refuses is the caller's, but not what was held
		lost = &losses{}
		defer lost.report()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	t.date(e)
	order := t.order(s, key, e)
	if order == outdated {
		a.count.suppressed.Add(1)
		return nil
	}
	t.endEarlier(s, key, e, lost)
	before := s.states[key]
	if order == inOrder && t.holdOrSuppress(s, key, a, routes, e, ticket) {
		if at := s.states[key]; at != nil && at.Value.(*state).ticket == ticket { // it is held already
			ticket = nil
		}
		t.latest(s, key, a, e, ticket)
		return nil
	}
	queued, err := t.d.deliver(routes, kind, e, event, ticket, lost)
	t.latest(s, key, a, e, ticket)
	if at := s.states[key]; queued == 0 && err != nil && before == nil && at != nil {
		t.forget(s, at) // the event that began this was refused: the next one is the first
	}
	return err
}

// endEarlier ends what was over by the events' own time when e happened: after a standstill they come faster than
// they happened, and no timer knows.
func (t *timing) endEarlier(s *timingShard, key stateKey, e *Event, lost *losses) {
	for !e.At.IsZero() {
		at, known := s.states[key]
		if !known {
			return
		}
		st, lasts := at.Value.(*state), t.durations[key.rule]
		if st.at.IsZero() || e.At.Sub(st.at) < lasts {
			return
		}
		t.end(s, at, lost)
	}
}

func (t *timing) shard(app, channel string) *timingShard {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(app)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(channel)
	return &t.shards[h.Sum64()%uint64(len(t.shards))]
}

// holdOrSuppress applies the event's rule and reports whether the event goes no further: it is held or left out.
// When there is no memory to remember anything by, the event goes on as if there were no rule.
func (t *timing) holdOrSuppress(s *timingShard, key stateKey, a *account, routes *appRoutes, e *Event, ticket *Ticket) bool {
	if t.durations[key.rule] == 0 {
		return false
	}
	at, known := s.states[key]
	switch e.Type {
	case TypeChannelVacated, TypeMemberRemoved:
		if known { // said twice
			a.count.suppressed.Add(1)
			return true
		}
		at := t.remember(s, key, a, e)
		if at != nil {
			t.hold(at.Value.(*state), routes, e, ticket)
		}
		return at != nil
	case TypeChannelOccupied, TypeMemberAdded:
		if !known {
			return false
		}
		t.forget(s, at) // back within the grace: neither is sent
		a.count.suppressed.Add(1)
		return true
	case TypeCacheMiss:
		if known {
			a.count.suppressed.Add(1)
			return true
		}
		t.remember(s, key, a, e)
		return false
	}
	return t.holdCount(s, key, a, routes, e, ticket)
}

// holdCount lets the first count above the threshold through and holds the latest until the interval's end.
func (t *timing) holdCount(s *timingShard, key stateKey, a *account, routes *appRoutes, e *Event, ticket *Ticket) bool {
	at, known := s.states[key]
	above := e.SubscriptionCount > t.threshold
	if !known {
		if above {
			t.remember(s, key, a, e)
		}
		return false
	}
	st := at.Value.(*state)
	st.drop() // an older count is of no interest any more
	if above {
		t.hold(st, routes, e, ticket)
	}
	return above
}

// remember makes a state that ends when its rule's time is over. It returns nil if the limits leave no memory for it.
func (t *timing) remember(s *timingShard, key stateKey, a *account, e *Event) *list.Element {
	memory := int64(len(key.app) + len(key.channel) + len(key.user) + stateOverhead)
	if !t.charge(a, memory) {
		return nil
	}
	key.channel, key.user = strings.Clone(key.channel), strings.Clone(key.user) // they may be parts of large messages
	st := &state{key: key, memory: memory, account: a, at: e.At}
	if s.states == nil {
		s.states = make(map[stateKey]*list.Element)
	}
	at := t.enqueue(s, st)
	s.states[key] = at
	s.most = max(s.most, len(s.states))
	return at
}

// enqueue starts st's time.
func (t *timing) enqueue(s *timingShard, st *state) *list.Element {
	st.ends = t.d.schedule.clock.now().Add(t.lasts(st.key.rule))
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
	s.shrink()
	st.account.timing.Add(-st.memory)
	t.d.release(st.account, st.memory)
	t.d.leaveAccount(st.account)
}

// shrink replaces a map that has become far too large by a new one.
func (s *timingShard) shrink() {
	if n := len(s.states); n == 0 {
		s.states, s.most = nil, 0
	} else if s.most > 1000 && n < s.most/8 {
		states := make(map[stateKey]*list.Element, n)
		maps.Copy(states, s.states)
		s.states, s.most = states, n
	}
}

// hold makes e the event that waits for the state's end. It copies the type's name too: the caller's may be a part
// of a message.
func (t *timing) hold(st *state, routes *appRoutes, e *Event, ticket *Ticket) {
	st.event = Event{Type: e.Type.set().name(), Channel: st.key.channel, UserID: st.key.user, SubscriptionCount: e.SubscriptionCount, At: e.At}
	st.held, st.since, st.stood, st.routes, st.ticket = true, time.Now(), t.d.schedule.clock.stood(), routes, ticket
	ticket.hold()
	st.account.count.held.Add(1)
}

// drop leaves the held event out, if there is one.
func (st *state) drop() {
	if st.held {
		st.account.count.suppressed.Add(1)
	}
	st.letGo().release()
}

// letGo ends the hold of an event, if there is one, and returns the state's ticket.
func (st *state) letGo() (ticket *Ticket) {
	if st.held {
		st.held = false
		st.account.count.held.Add(-1)
	}
	ticket, st.ticket = st.ticket, nil
	return ticket
}

// charge takes memory for a state: out of what one endpoint may hold, for all states of an app, and out of
// the app's share.
func (t *timing) charge(a *account, memory int64) bool {
	if a.timing.Add(memory) > t.d.cfg.MaxEndpointQueuedBytes || t.d.charge(a, memory, memory) == 0 {
		a.timing.Add(-memory)
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
	switch wait := first.Sub(t.d.schedule.clock.now()); {
	case first.IsZero():
	case s.timer == nil:
		s.timer = time.AfterFunc(wait, func() { t.expire(s) })
	default:
		s.timer.Reset(wait)
	}
}

// These bound how many states end under one hold of a shard's lock, for which Emit may wait, and how much memory the
// losses among them take before they are reported: one state may be lost at a thousand endpoints.
const (
	statesAtOnce = 64
	lostAtOnce   = 1 << 20
)

// resume is called when the clock may go on: the timers stand in real time.
func (t *timing) resume() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		if !s.closed {
			t.arm(s)
		}
		s.mu.Unlock()
	}
}

// expire is the timer's function: it ends every state whose time is over. If the clock stands still, resume follows.
func (t *timing) expire(s *timingShard) {
	clock := &t.d.schedule.clock
	if clock.stopped() {
		return
	}
	s.mu.Lock()
	due := s.due(clock.now())
	if len(due) == 0 && !s.closed {
		t.arm(s)
	}
	s.mu.Unlock()
	for len(due) > 0 {
		var lost losses
		n := 0
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return
		}
		for ; n < len(due) && !lost.enough(n); n++ {
			if at := due[n]; s.states[at.Value.(*state).key] == at { // or it has ended meanwhile
				t.end(s, at, &lost)
			}
		}
		if due = due[n:]; len(due) == 0 {
			t.arm(s)
		}
		lost.account()
		s.mu.Unlock()
		lost.report()
	}
}

// due returns the states whose time is over at a moment, or all if that is zero, in the order in which what they
// hold was emitted.
func (s *timingShard) due(moment time.Time) (due []*list.Element) {
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
	return due
}

// end releases what a state holds; lost takes what finds no room, and if it is nil there is always room. A count
// that was held starts the next interval.
func (t *timing) end(s *timingShard, at *list.Element, lost *losses) {
	st := at.Value.(*state)
	if !st.held {
		t.forget(s, at)
		return
	}
	t.d.deliverHeld(st, lost)
	if st.key.rule == countRule && !s.closed {
		s.queues[countRule].Remove(at)
		if !st.at.IsZero() {
			st.at = st.at.Add(t.durations[countRule])
		}
		s.states[st.key] = t.enqueue(s, st)
	} else {
		t.forget(s, at)
	}
}

// close releases everything that is held, in order, and refuses further events. It was accepted and there is no later,
// so it is queued even above the limits. What has a ticket is not released: it will be emitted again.
func (t *timing) close() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.closed = true
		for _, at := range s.due(time.Time{}) {
			if st := at.Value.(*state); st.ticket != nil { // somebody keeps the event
				st.letGo()
			}
			t.end(s, at, nil)
		}
		if s.timer != nil {
			s.timer.Stop()
		}
		s.mu.Unlock()
	}
}

// purge gives up what is held for an app, and returns how many events that is at all its endpoints.
func (t *timing) purge(appID string) (events int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		all := s.due(time.Time{}) // what is held from now on stays
		s.mu.Unlock()
		for len(all) > 0 {
			lost, n := losses{purged: true}, 0
			s.mu.Lock()
			for ; n < len(all) && !lost.enough(n); n++ {
				t.purgeOne(s, appID, all[n], &lost)
			}
			events += lost.account()
			s.mu.Unlock()
			lost.report()
			all = all[n:]
		}
	}
	return events
}

// purgeOne gives up what a state holds, if it is the app's. One that has ended meanwhile holds nothing.
func (t *timing) purgeOne(s *timingShard, appID string, at *list.Element, lost *losses) {
	if st := at.Value.(*state); st.key.app == appID && st.held && s.states[st.key] == at {
		t.d.deliverHeld(st, lost)
		t.forget(s, at)
	}
}

// losses are events that were held and are given up when they are released: a batch for each lane, or several.
type losses struct {
	purged  bool // all of them, whether there is room or not
	bytes   int  // of all
	order   []lossKey
	batches map[lossKey][]loss
}

type lossKey struct {
	endpoint *endpoint
	lane     int
}

// enough reports whether the lock should be let go before the next state ends.
func (l *losses) enough(states int) bool { return states >= statesAtOnce || l.bytes >= lostAtOnce }

// add copies an event.
func (l *losses) add(e *endpoint, lane int, event *entry, err error) {
	if l.batches == nil {
		l.batches = make(map[lossKey][]loss)
	}
	key := lossKey{e, lane}
	all := l.batches[key]
	if len(all) == 0 {
		l.order = append(l.order, key)
	}
	cfg := &e.shared.cfg
	n := len(all) - 1
	if n < 0 || len(all[n].batch.buf)+1+len(event.json)+len(bodyEnd) > cfg.MaxBatchBytes || all[n].batch.events == cfg.MaxBatchEvents {
		all = append(all, loss{batch: &batch{buf: make([]byte, headBytes), opened: time.Now()}, err: err})
		n++
	}
	all[n].batch.add(event)
	l.bytes += len(event.json)
	l.batches[key] = all
}

// account has Close wait for the losses, and returns how many events they are.
func (l *losses) account() (events int) {
	for _, key := range l.order {
		e := key.endpoint
		for _, one := range l.batches[key] {
			one.batch.buf = append(one.batch.buf, bodyEnd...)
			events += one.batch.events
			e.account.count.queued.Add(uint64(one.batch.events))
			e.shared.loses()
			e.mu.Lock()
			e.tells(one.batch)
			e.mu.Unlock()
		}
	}
	return events
}

// report tells of the losses. No lock is held.
func (l *losses) report() {
	for _, key := range l.order {
		key.endpoint.settle(l.batches[key])
	}
	for _, key := range l.order {
		key.endpoint.report(l.batches[key])
	}
}

// deliverHeld queues the event that a state holds. What finds no room is lost; without a place for losses there is room.
func (d *Dispatcher) deliverHeld(st *state, lost *losses) {
	routes, e, ticket := st.routes, &st.event, st.letGo()
	defer ticket.release()
	t := e.Type.set()
	event, err := e.encoded(t, d.cfg.ClientData, d.cfg.MaxEventBytes)
	if err != nil { // it was encoded before it was held
		panic(err)
	}
	defer encodeBuffers.Put(event)
	lane, one := d.laneOf(e.Channel, *event), entry{json: *event, at: e.when(), stood: st.stood, ticket: ticket}
	for i := range routes.routes {
		r := &routes.routes[i]
		switch {
		case !r.wants(t, e.Channel) || !ticket.queue(r.endpoint):
		case lost != nil && lost.purged:
			lost.add(r.endpoint, lane, &one, ErrPurged)
		default:
			if err := d.enqueue(r.endpoint, &one, lane, lost == nil); err != nil {
				lost.add(r.endpoint, lane, &one, err)
			}
		}
	}
}
