package queue

import (
	"sync"
	"time"
)

// An overflow knows the endpoints that have no room at the Dispatcher. What is read for them meanwhile becomes a dead
// letter at once: to have each event encoded, signed and given up takes ten times as long, and everybody behind it in
// the partition waits.
type overflow struct {
	mu   sync.Mutex
	full map[string]full // by endpoint
}

type full struct {
	note  note
	since time.Time
}

// fullFor is how long an endpoint counts as full without being asked: its app may have room again by what others give
// back.
const fullFor = 50 * time.Millisecond

// set is called when an endpoint had no room.
func (o *overflow) set(n note) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full == nil || len(o.full) > 10_000 {
		o.full = make(map[string]full)
	}
	o.full[n.Endpoint] = full{n, time.Now()}
}

// unset is called when something of an endpoint has ended.
func (o *overflow) unset(endpoint string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.full, endpoint)
}

// of returns what a letter says that is for an app's full endpoint.
func (o *overflow) of(app, endpoint string) (n note, isFull bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f, isFull := o.full[endpoint]
	return f.note, isFull && f.note.App == app && time.Since(f.since) < fullFor
}
