package webhook

import (
	"hash/maphash"
	"maps"
	"sync/atomic"
)

// Accounts are the apps' by id. Readers take no lock and never wait for a writer; writers, one at a time, replace
// the small map that an id falls into. A sync.Map takes a sixth of an Emit longer (BenchmarkEmit).
type accounts struct {
	maps [4096]atomic.Pointer[map[string]*account] // of some 250 accounts each where there are a million
}

func (t *accounts) of(id string) *atomic.Pointer[map[string]*account] {
	return &t.maps[maphash.String(hashSeed, id)%uint64(len(t.maps))]
}

var hashSeed = maphash.MakeSeed()

// load returns an app's account, nil if there is none.
func (t *accounts) load(id string) *account {
	if m := t.of(id).Load(); m != nil {
		return (*m)[id]
	}
	return nil
}

// store sets an app's account, or with nil deletes it.
func (t *accounts) store(id string, a *account) {
	p := t.of(id)
	changed := make(map[string]*account)
	if m := p.Load(); m != nil {
		changed = maps.Clone(*m)
	}
	if a != nil {
		changed[id] = a
	} else {
		delete(changed, id)
	}
	if len(changed) == 0 {
		p.Store(nil)
		return
	}
	p.Store(&changed)
}

// An account is what the dispatcher keeps of an app for as long as the app exists or anything is pending for
// it. So it outlives RemoveApp, and what an app has left behind counts against the app when it comes back.
type account struct {
	id          string
	routes      atomic.Pointer[appRoutes]   // nil: there is no such app (any more)
	credentials atomic.Pointer[credentials] // nil: the app was never set, only redelivered to
	memory      atomic.Int64                // of all its endpoints, and of its states of timing rules
	timing      atomic.Int64                // the part of memory that is the latter's
	count       *counters
	endpoints   int    // in the dispatcher's table, guarded by Dispatcher.mu
	share       *share // of the wire, guarded by schedule.mu; nil before its first request
}

// credentials are what an app's deliveries are signed with. They are compared by address, so equal ones are not replaced.
type credentials struct {
	key    string
	secret Secret
}

// smallAccount is what an app may hold whatever others do, as long as there is room at all.
const smallAccount = 64 << 10

// charge takes memory for an app out of the whole: as much as there is, from need to want, or nothing.
func (s *shared) charge(a *account, need, want int64) (granted int64) {
	for {
		held := s.bytes.Load()
		granted = min(want, room(s.cfg.MaxQueuedBytes, held, a.memory.Load()))
		if granted < need {
			return 0
		}
		if s.bytes.CompareAndSwap(held, held+granted) {
			a.memory.Add(granted)
			return granted
		}
	}
}

// room is how much an app that holds own may still take where held of limit bytes are taken: until it holds as
// much as is left. The rule needs no limit per app, and a thousand hogs still leave room for one more (dynamic
// thresholds, Choudhury and Hahne 1998).
func room(limit, held, own int64) int64 {
	switch free := limit - held; {
	case own < smallAccount:
		return free
	case own == held: // nobody else has anything
		return min(free, limit/8*7-own)
	default:
		return (free - own) / 2
	}
}

// chargeAnyway takes memory for what was accepted already.
func (s *shared) chargeAnyway(a *account, memory int64) {
	s.bytes.Add(memory)
	a.memory.Add(memory)
}

func (s *shared) release(a *account, memory int64) { s.chargeAnyway(a, -memory) }
