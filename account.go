package webhook

import (
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// Accounts are the apps' by id. Readers take no lock and never wait for a writer; writers, one at a time, replace
// the short list that an id falls into. A map in place of the lists makes an Emit a quarter slower, a sync.Map more
// (BenchmarkEmit).
type accounts struct {
	lists [4096]atomic.Pointer[[]hashedAccount] // of some 250 accounts each where there are a million
}

type hashedAccount struct {
	hash    uint64 // of the account's id
	account *account
}

var hashSeed = maphash.MakeSeed()

func (t *accounts) of(id string) (hash uint64, list *atomic.Pointer[[]hashedAccount]) {
	hash = maphash.String(hashSeed, id)
	return hash, &t.lists[hash%uint64(len(t.lists))]
}

// load returns an app's account, nil if there is none.
func (t *accounts) load(id string) *account {
	hash, list := t.of(id)
	all := list.Load()
	if all == nil {
		return nil
	}
	for _, one := range *all {
		if one.hash == hash && one.account.id == id {
			return one.account
		}
	}
	return nil
}

// all yields the accounts: those that are there throughout, and no lock is taken.
func (t *accounts) all() iter.Seq[*account] {
	return func(yield func(*account) bool) {
		for i := range t.lists {
			all := t.lists[i].Load()
			if all == nil {
				continue
			}
			for _, one := range *all {
				if !yield(one.account) {
					return
				}
			}
		}
	}
}

// store sets an app's account, or with nil deletes it.
func (t *accounts) store(id string, a *account) {
	hash, list := t.of(id)
	var changed []hashedAccount
	if all := list.Load(); all != nil {
		changed = slices.DeleteFunc(slices.Clone(*all), func(one hashedAccount) bool { return one.account.id == id })
	}
	if a != nil {
		changed = append(changed, hashedAccount{hash, a})
	}
	if len(changed) == 0 {
		list.Store(nil)
		return
	}
	list.Store(&changed)
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
	share       *share // of the wire, guarded by schedule.mu; nil before its first request

	mu        sync.Mutex // taken last of all locks
	endpoints *endpoint  // the first of those in the dispatcher's table; written under Dispatcher.mu and mu
}

// link adds an endpoint to the app's. Dispatcher.mu is held, as in unlink.
func (a *account) link(e *endpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.next = a.endpoints; e.next != nil {
		e.next.prev = e
	}
	a.endpoints = e
}

func (a *account) unlink(e *endpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		a.endpoints = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}

// appendEndpoints appends the endpoints that the app has in the table.
func (a *account) appendEndpoints(some []*endpoint) []*endpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	for e := a.endpoints; e != nil; e = e.next {
		some = append(some, e)
	}
	return some
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
// thresholds, Choudhury and Hahne 1998). But each that comes after another takes half of what that has left, so the
// last sixteenth is for small accounts.
func room(limit, held, own int64) int64 {
	switch free := limit - held; {
	case own < smallAccount:
		return free
	case own == held: // nobody else has anything
		return min(free, limit/8*7-own)
	default:
		return (free - limit/16 - own) / 2
	}
}

// chargeAnyway takes memory for what was accepted already.
func (s *shared) chargeAnyway(a *account, memory int64) {
	s.bytes.Add(memory)
	a.memory.Add(memory)
}

func (s *shared) release(a *account, memory int64) { s.chargeAnyway(a, -memory) }
