// Package channels knows who is on which channel, and tells it as webhooks: subscribe, unsubscribe and disconnect become
// exactly the events that Pusher has for them, each once and in the order of what happened.
//
//	tracker := channels.New(dispatcher, channels.Options{})
//
//	socket, err := tracker.Connect(appID, socketID)  // a websocket was opened
//	defer socket.Leave()                             // and is closed: it leaves all of its channels
//	change, err := socket.Subscribe(channel, channels.Member{UserID: userID, Info: userInfo})
//	change, err = socket.Unsubscribe(channel)
//	err = socket.ClientEvent(channel, event, data)
//
// A server passes everything on that its clients do, and answers them from the Change. The rules, with the places in
// Pusher's documentation that they come from, are at the methods of Socket.
//
// # Concurrency
//
// Everything may be called concurrently. What happens to one channel is linearisable: there is one order of all changes
// and counts, and the events are emitted in that order. The call that makes a change emits its events before it
// returns, with no lock held, unless another call of the app is emitting just then: that one emits these as well. It does so
// for a tenth of a second at the most, and leaves the rest to a goroutine. So when all calls have returned, all is
// emitted, but for what an Emitter was too slow for: Flush waits for that too. An Emitter and Rejected may call the
// tracker back, but not wait in Flush or RemoveApp. A slow Emitter delays the events of its app and of no other.
//
// Iterators hold no lock while they yield. Each item was true at some moment, and what is there from the beginning to the
// end is yielded once.
//
// # Several nodes
//
// A Tracker counts what it sees: the sockets of one process. Counting across nodes is not done yet. Where two nodes have
// sockets on one channel they tell two stories of it: each its own occupied and vacated, members and counts.
// Options.Node, which every event carries in its Node, is there to tell them apart.
package channels

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"hash/maphash"
	"iter"
	"strings"
	"sync"

	"github.com/pusherhooks/webhook"
)

// Options are those of a Tracker.
type Options struct {
	// Node is this process among others, in every event's Node. The default is random, and new at each start: what an
	// earlier process has told of its sockets is over, and under another name.
	Node string

	// Rejected is told what the Emitter refused, or panicked over. That event is lost, and the story of its channel has a
	// gap. No lock is held. A panic of its own is ignored. Hooks.Rejected of a Dispatcher is told the same.
	Rejected func(appID string, e webhook.Event, err error)
}

// A Tracker knows the sockets of this process, and the channels that they are on. See the package's documentation.
type Tracker struct {
	out      webhook.Emitter
	node     string
	rejected func(appID string, e webhook.Event, err error)
	seed     maphash.Seed
	shards   int      // of each app
	apps     sync.Map // of *app by id
}

// New returns a Tracker that tells out, which is usually a Dispatcher, what happens. It needs no closing. When a server
// shuts down, its sockets Leave, then Flush, and then the dispatcher is closed.
func New(out webhook.Emitter, opts Options) *Tracker {
	if opts.Node == "" {
		opts.Node = rand.Text()
	}
	return &Tracker{out: out, node: opts.Node, rejected: opts.Rejected, seed: maphash.MakeSeed(), shards: shardCount()}
}

// Connect adds a socket, which is on no channel yet. The server calls Leave when it is closed. The error is ErrConnected if
// a live socket of the app has this id, or says which id is empty. Whether the app exists is for the server to know.
func (t *Tracker) Connect(appID, socketID string) (*Socket, error) {
	switch {
	case appID == "":
		return nil, errors.New("channels: app id: must not be empty")
	case socketID == "":
		return nil, errors.New("channels: socket id: must not be empty")
	}
	s := &Socket{}
	s.node = node[Socket]{hash: t.hash(socketID), key: strings.Clone(socketID), of: s}
	s.link.of = s
	for {
		a := t.app(appID)
		if a == nil {
			id := strings.Clone(appID)
			other, _ := t.apps.LoadOrStore(id, newApp(t, id))
			a = other.(*app)
		}
		alive, err := a.connect(s)
		if err != nil {
			return nil, err
		}
		if alive {
			return s, nil
		}
		t.apps.CompareAndDelete(appID, a) // or we would wait for whoever is about to
	}
}

// app returns a living app, or one that was alive a moment ago, or nil.
func (t *Tracker) app(id string) *app {
	if a, ok := t.apps.Load(id); ok {
		return a.(*app)
	}
	return nil
}

// CacheMiss tells cache_miss: somebody has subscribed to a cache channel, for which the server has no event
// (https://pusher.com/docs/channels/using_channels/cache-channels/). It does nothing
// for a channel that is vacant, as it may be again by now, or no cache channel.
func (t *Tracker) CacheMiss(appID, channel string) {
	a := t.app(appID)
	if a == nil || !isCache(channel) {
		return
	}
	hash := t.hash(channel)
	sh := a.shard(hash)
	var e emission
	e.begin(a, 1)
	sh.mu.Lock()
	ch := sh.byName.find(hash, channel)
	full := sh.line.full(0)
	if ch != nil && !full {
		e.enter(sh, transition{what: webhook.TypeCacheMiss, channel: ch})
	}
	sh.mu.Unlock()
	e.run(patience)
	if ch != nil && full {
		a.reject(webhook.Event{Type: webhook.TypeCacheMiss, Channel: ch.name(), Node: t.node}, errSlow)
	}
}

// lookup returns the channel of an app with its shard, or nil. The channel may vanish at any time.
func (t *Tracker) lookup(appID, name string) (*shard, *channel, Counts) {
	a := t.app(appID)
	if a == nil {
		return nil, nil, Counts{}
	}
	hash := t.hash(name)
	sh := a.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ch := sh.byName.find(hash, name)
	if ch == nil {
		return nil, nil, Counts{}
	}
	return sh, ch, ch.counts()
}

// Counts returns how many are on a channel of this node: zero if it is vacant.
func (t *Tracker) Counts(appID, channel string) Counts {
	_, _, counts := t.lookup(appID, channel)
	return counts
}

// Channels yields the app's occupied channels whose names start with prefix.
func (t *Tracker) Channels(appID, prefix string) iter.Seq2[string, Counts] {
	return func(yield func(string, Counts) bool) {
		if a := t.app(appID); a != nil {
			a.channels(func(s state) bool {
				return !strings.HasPrefix(s.channel.name(), prefix) || yield(s.channel.name(), s.Counts)
			})
		}
	}
}

// A state is what a channel was at one moment.
type state struct {
	shard   *shard
	channel *channel
	Counts
}

// channels yields all of an app's channels, and returns false if yield did.
func (a *app) channels(yield func(state) bool) bool {
	for i := range a.shards {
		sh := &a.shards[i]
		see := func(ch *channel) (state, bool) { return state{sh, ch, ch.counts()}, true }
		if !walk(&sh.mu, &sh.inOrder, see, yield) {
			return false
		}
	}
	return true
}

// Members yields the user ids on a presence channel with their infos, which must not be changed.
func (t *Tracker) Members(appID, channel string) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		if sh, ch, _ := t.lookup(appID, channel); ch != nil {
			ch.walkMembers(sh, func(m *member) bool { return yield(m.node.key, m.info) })
		}
	}
}

func (ch *channel) walkMembers(sh *shard, yield func(*member) bool) bool {
	if ch.members == nil {
		return true
	}
	return walk(&sh.mu, &ch.members.inOrder, func(m *member) (*member, bool) { return m, true }, yield)
}

// Sockets yields the sockets on a channel, in the order in which they came: to send a message to.
func (t *Tracker) Sockets(appID, channel string) iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		if sh, ch, _ := t.lookup(appID, channel); ch != nil {
			walk(&sh.mu, &ch.subscribers, func(sub *subscription) (*Socket, bool) { return sub.socket, true }, yield)
		}
	}
}

// Snapshot yields app ids and the events that would tell everything anew to somebody who knows nothing: for each channel that
// it is occupied, and then its members or its count.
func (t *Tracker) Snapshot() iter.Seq2[string, webhook.Event] {
	return func(yield func(string, webhook.Event) bool) {
		t.apps.Range(func(_, value any) bool {
			a := value.(*app)
			return a.channels(func(s state) bool { return a.snapshot(s, yield) })
		})
	}
}

func (a *app) snapshot(s state, yield func(string, webhook.Event) bool) bool {
	tell := func(t transition) bool { t.channel = s.channel; return yield(a.id, t.event(a.tracker.node)) }
	if !tell(transition{what: webhook.TypeChannelOccupied}) {
		return false
	}
	if s.channel.members == nil {
		return tell(transition{what: webhook.TypeSubscriptionCount, count: s.Subscribers})
	}
	return s.channel.walkMembers(s.shard, func(m *member) bool { return tell(transition{what: webhook.TypeMemberAdded, member: m}) })
}

// RemoveApp has all sockets of an app leave that were connected when it was called, and returns how many it were. When
// it returns, everything about them was emitted: then the dispatcher may forget the app. It waits for the Emitter, and
// must not be called by it. The server refuses new sockets of the app before, and closes these.
func (t *Tracker) RemoveApp(appID string) int {
	a := t.app(appID)
	if a == nil {
		return 0
	}
	left := 0
	for i := range a.shards {
		left += a.shards[i].leave()
	}
	f := newFlush()
	f.mark(a)
	f.done()
	<-f.over
	return left
}

// leave has all of a shard's sockets leave, but those that come meanwhile.
func (sh *shard) leave() (left int) {
	var end link[Socket]
	sh.mu.Lock()
	sh.connected.add(&end)
	sh.mu.Unlock()
	defer func() {
		sh.mu.Lock()
		end.remove()
		sh.mu.Unlock()
	}()
	for s := sh.oldest(&end); s != nil; s = sh.oldest(&end) {
		if _, was := s.leave(); was {
			left++
		} else {
			s.detached.Wait() // for another call of Leave
		}
	}
	return left
}

// oldest returns the first socket before end, or nil.
func (sh *shard) oldest(end *link[Socket]) *Socket {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for at := sh.connected.root.next; at != end; at = at.next {
		if at.of != nil {
			return at.of
		}
	}
	return nil
}

// Flush waits until everything that has happened so far was emitted, also what a slow Emitter has left to
// goroutines. The error is ctx's, if that ends first; nothing is lost then. An Emitter must not call it.
func (t *Tracker) Flush(ctx context.Context) error {
	f := newFlush()
	t.apps.Range(func(_, value any) bool {
		f.mark(value.(*app))
		return true
	})
	f.done()
	select {
	case <-f.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
