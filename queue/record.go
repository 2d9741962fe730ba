package queue

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pusherhooks/webhook"
)

// A record says how far a partition has got. Everything before next was read. Of that, an endpoint has had what is
// before its first unfinished position, because events reach it in order; what timing rules hold has reached nobody.
type record struct {
	Stream string              `json:"stream"` // the nonce of the stream that the positions are of
	Owner  string              `json:"owner"`  // empty: nobody
	Epoch  uint64              `json:"epoch"`  // of the owner: one more than that of the one before
	Next   position            `json:"next"`
	Pend   map[string]position `json:"pend,omitempty"` // endpoint: its first unfinished position
	Apps   map[string]uint32   `json:"apps,omitempty"` // pend's endpoints: a hash of whose they are
	Held   []position          `json:"held,omitempty"`
	Late   position            `json:"late,omitempty"` // from here on timing rules have to see events again, to compare later ones with them; 0: nowhere
}

// maxRecordEntries bounds a record to some 512 KiB. Where more is unfinished next is lowered: what is behind is read
// again by all.
const maxRecordEntries = 10_000

func (r *record) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	return append([]byte{version}, b...), err
}

func decodeRecord(b []byte) (r record, err error) {
	if err := checkVersion(b); err != nil {
		return r, err
	}
	if err := json.Unmarshal(b[1:], &r); err != nil {
		return record{}, fmt.Errorf("%w: record: %w", errPoison, err)
	}
	return r, nil
}

// floor is the first position that is needed.
func (r *record) floor() position {
	first := r.Next
	for _, p := range r.Pend {
		first = min(first, p)
	}
	for _, p := range r.Held {
		first = min(first, p)
	}
	if r.Late > 0 {
		first = min(first, r.Late)
	}
	return first
}

// late has timing rules see p again.
func (r *record) late(p position) {
	if r.Late == 0 || p < r.Late {
		r.Late = p
	}
}

// bounded lowers next until there are few enough entries.
func (r *record) bounded(most int) {
	all := slices.Concat(slices.Collect(maps.Values(r.Pend)), r.Held)
	if len(all) <= most {
		return
	}
	slices.Sort(all)
	r.Next = min(r.Next, all[most])
	maps.DeleteFunc(r.Pend, func(_ string, p position) bool { return p >= r.Next })
	maps.DeleteFunc(r.Apps, func(endpoint string, _ uint32) bool { _, pending := r.Pend[endpoint]; return !pending })
	r.Held = slices.DeleteFunc(r.Held, func(p position) bool { return p >= r.Next })
}

// A tracking is the record in the making. reading is held while an event enters the dispatcher, and comes before mu: so
// a pair that a timing rule cancels ends in one record, and so does what an event brings about at several endpoints.
type tracking struct {
	reading sync.Mutex
	app     string // whose event that is; of who holds reading

	mu      sync.Mutex
	stream  string
	from    record              // where this owner began
	wasHeld map[position]bool   // from.Held
	pending position            // the first of from.Pend, or from.Next
	byApp   map[uint32][]string // from.Apps
	at      position            // everything before was read
	lanes   map[string]*queued
	held    map[position]uint32 // and a hash of whose they are
	seen    map[position]bool   // timing rules compare later events with these
	changed bool

	overflow *overflow // nil: none
	emitting position  // the event that enters the dispatcher, or 0
	spilled  []note    // for its endpoints that are full
}

// A queued is what an endpoint has not finished, in order; late are those that came after a later one: they were held.
type queued struct {
	app   uint32
	order []position
	ended map[position]bool
	late  map[position]bool
}

func newTracking(r record) *tracking {
	t := &tracking{stream: r.Stream, from: r, at: r.floor(), wasHeld: make(map[position]bool), lanes: make(map[string]*queued), held: make(map[position]uint32), seen: make(map[position]bool),
		byApp: make(map[uint32][]string)}
	for _, p := range r.Held {
		t.wasHeld[p] = true
	}
	t.pending = r.Next
	for _, p := range r.Pend {
		t.pending = min(t.pending, p)
	}
	for endpoint, app := range r.Apps {
		if !strings.HasPrefix(endpoint, "_") { // else it is none, see unknownApp
			t.byApp[app] = append(t.byApp[app], endpoint)
		}
	}
	return t
}

// unfinished returns the endpoints of an app that had not had an event when an earlier owner noted it.
func (t *tracking) unfinished(app string, p position) (all []string) {
	for _, endpoint := range t.byApp[appHash(app)] {
		if first, pending := t.from.Pend[endpoint]; pending && first <= p && p < t.from.Next && !t.wasHeld[p] {
			all = append(all, endpoint)
		}
	}
	return all
}

// again reports whether an event was read by an earlier owner, and if so whether anybody still needs it.
func (t *tracking) again(p position) (again, needed bool) {
	if p >= t.from.Next {
		return false, true
	}
	return true, t.wasHeld[p] || t.pending <= p || t.timed(p)
}

// timed reports whether timing rules have to see an event again that an earlier owner has read.
func (t *tracking) timed(p position) bool {
	return t.wasHeld[p] || t.from.Late > 0 && t.from.Late <= p
}

// wants reports whether an endpoint has not had an event, as far as the record tells. Of what was becoming a letter
// that names no endpoint, because the app was not there, any may not have had it.
func (t *tracking) wants(endpoint string, p position) bool {
	if p >= t.from.Next || t.wasHeld[p] {
		return true
	}
	for _, one := range [...]string{endpoint, unknownApp, removedApp, invalidEvent} {
		if first, pending := t.from.Pend[one]; pending && first <= p {
			return true
		}
	}
	return false
}

func (t *tracking) queue(endpoint string, p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.lanes[endpoint]
	if q == nil {
		app, held := t.held[p] // then reading may be somebody else's
		if !held {
			app = appHash(t.app)
		}
		q = &queued{app: app}
		t.lanes[endpoint] = q
	}
	if n := len(q.order); n == 0 || q.order[n-1] < p {
		q.order = append(q.order, p)
		return
	}
	if q.late == nil {
		q.late = make(map[position]bool)
	}
	q.late[p] = true
}

func (t *tracking) end(endpoint string, p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = true
	q := t.lanes[endpoint]
	switch {
	case q.late[p]:
		delete(q.late, p)
	case len(q.order) > 0 && q.order[0] == p:
		q.order = q.order[1:]
	default:
		if q.ended == nil {
			q.ended = make(map[position]bool)
		}
		if q.ended[p] = true; len(q.ended) > 64 && len(q.ended) > len(q.order)/2 { // as where all but the first few become letters
			q.order = slices.DeleteFunc(q.order, func(p position) bool { return q.ended[p] })
			q.ended = nil
		}
	}
	for len(q.order) > 0 && q.ended[q.order[0]] {
		delete(q.ended, q.order[0])
		q.order = q.order[1:]
	}
	if len(q.order) == 0 && len(q.late) == 0 {
		delete(t.lanes, endpoint)
	}
}

func (t *tracking) hold(p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[p] = appHash(t.app)
}

func (t *tracking) remember(p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen[p] = true
}

func (t *tracking) done(p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.held, p)
	delete(t.seen, p)
	t.changed = true
}

// Queue, Held, Remembered, Ended and Done make it a webhook.Follower.

func (t *tracking) Queue(ticket *webhook.Ticket, endpoint string) bool {
	p := position(ticket.Position)
	if !t.wants(endpoint, p) {
		return false
	}
	t.queue(endpoint, p)
	return !t.spills(endpoint, p)
}

// emits is called before an event enters the dispatcher, and emitted afterwards: it returns what has to become a
// letter.
func (t *tracking) emits(p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emitting, t.spilled = p, t.spilled[:0]
}

func (t *tracking) emitted() []note {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emitting = 0
	return t.spilled
}

// spills reports whether an event is not to be queued because its endpoint is full. One that a timing rule has held is
// not known any more.
func (t *tracking) spills(endpoint string, p position) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.overflow == nil || p != t.emitting {
		return false
	}
	n, isFull := t.overflow.of(t.app, endpoint)
	if isFull {
		t.spilled = append(t.spilled, n)
	}
	return isFull
}

func (t *tracking) Held(ticket *webhook.Ticket)       { t.hold(position(ticket.Position)) }
func (t *tracking) Remembered(ticket *webhook.Ticket) { t.remember(position(ticket.Position)) }
func (t *tracking) Ended(ticket *webhook.Ticket, endpoint string) {
	if t.overflow != nil {
		t.overflow.unset(endpoint)
	}
	t.end(endpoint, position(ticket.Position))
}
func (t *tracking) Done(ticket *webhook.Ticket) { t.done(position(ticket.Position)) }

// read is called when everything before p was read.
func (t *tracking) read(p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.changed = p, true
}

// busy reports whether something has not ended.
func (t *tracking) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lanes)+len(t.held)+len(t.seen) > 0
}

// reached is the sequence that is read next.
func (t *tracking) reached() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at.seq()
}

// snapshot returns the record of this moment, or false if it is the one of before and is not wanted anyway.
func (t *tracking) snapshot(owner string, anyway bool) (record, bool) {
	t.reading.Lock()
	defer t.reading.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.changed && !anyway {
		return record{}, false
	}
	t.changed = false
	r := record{Stream: t.stream, Owner: owner, Next: max(t.at, t.from.Next), Pend: make(map[string]position, len(t.lanes)), Apps: make(map[string]uint32, len(t.lanes))}
	for endpoint, q := range t.lanes {
		r.Pend[endpoint], r.Apps[endpoint] = q.first(), q.app
	}
	for p := range t.held {
		r.Held = append(r.Held, p)
	}
	for p := range t.seen {
		r.late(p)
	}
	if t.at < t.from.Next { // the rest of what an earlier owner has left
		for endpoint, first := range t.from.Pend {
			first = max(first, t.at)
			if now, pending := r.Pend[endpoint]; !pending || first < now {
				r.Pend[endpoint], r.Apps[endpoint] = first, t.from.Apps[endpoint]
			}
		}
		for _, p := range t.from.Held {
			if p >= t.at {
				r.Held = append(r.Held, p)
			}
		}
		if t.from.Late > 0 {
			r.late(max(t.from.Late, t.at))
		}
	}
	slices.SortFunc(r.Held, cmp.Compare)
	r.bounded(maxRecordEntries)
	return r, true
}

func (q *queued) first() (first position) {
	if len(q.order) > 0 {
		first = q.order[0]
	}
	for p := range q.late {
		if first == 0 || p < first {
			first = p
		}
	}
	return first
}
