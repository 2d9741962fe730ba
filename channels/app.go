package channels

import (
	"hash/maphash"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

// An app has shards of its own, so that no tenant waits for another's locks or for the events of another. It comes with
// its first socket and goes when the last has left and everything was emitted. As long as it lives, it is the only one
// of its id: a channel's events cannot overtake each other when an app's last socket leaves and the next one comes.
type app struct {
	tracker *Tracker
	id      string
	shards  []shard // a power of two
	sockets atomic.Int64
	dead    bool // set with all locks held
}

// A shard has some of an app's channels, and some of its sockets: by the hashes of their names and ids.
type shard struct {
	mu      sync.Mutex // taken after a socket's, and never two but by retire. No user code runs while it is held
	byName  table[channel]
	inOrder list[channel]
	line    line

	sockets   table[Socket]
	connected list[Socket]
}

// shardCount is enough for all cores to be busy with one app, most of the time without waiting for each other.
func shardCount() int {
	return 1 << bits.Len(uint(min(max(2*runtime.GOMAXPROCS(0), 8), 32)-1))
}

func newApp(t *Tracker, id string) *app {
	a := &app{tracker: t, id: id, shards: make([]shard, t.shards)}
	for i := range a.shards {
		a.shards[i].inOrder.init()
		a.shards[i].connected.init()
	}
	return a
}

func (t *Tracker) hash(key string) uint64 { return maphash.String(t.seed, key) }

// shard chooses by the upper bits of a hash; tables use the lower ones.
func (a *app) shard(hash uint64) *shard {
	return &a.shards[hash>>32&uint64(len(a.shards)-1)]
}

// connect adds a socket. It returns false if the app is dead.
func (a *app) connect(s *Socket) (alive bool, err error) {
	sh := a.shard(s.node.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a.dead {
		return false, nil
	}
	if sh.sockets.find(s.node.hash, s.node.key) != nil {
		return true, ErrConnected
	}
	s.app = a
	s.detached.Add(1)
	sh.sockets.insert(&s.node)
	sh.connected.add(&s.link)
	a.sockets.Add(1)
	return true, nil
}

// disconnect removes a socket that has left its channels.
func (a *app) disconnect(s *Socket) {
	sh := a.shard(s.node.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.sockets.remove(&s.node)
	s.link.remove()
	a.sockets.Add(-1)
	s.detached.Done()
}

// retire forgets the app if it has no sockets, and so no channels, and nothing to emit. Whoever removes the last socket
// calls it, and whoever lets go of a line: the one that comes last finds nothing.
func (a *app) retire() {
	if a.sockets.Load() > 0 {
		return
	}
	for i := range a.shards {
		a.shards[i].mu.Lock()
	}
	idle := a.sockets.Load() == 0
	for i := range a.shards {
		idle = idle && !a.shards[i].line.held
	}
	a.dead = a.dead || idle
	for i := range a.shards {
		a.shards[i].mu.Unlock()
	}
	if idle {
		a.tracker.apps.CompareAndDelete(a.id, a)
	}
}
