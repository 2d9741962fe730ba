package channels

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync"

	"github.com/pusherhooks/webhook"
)

// What Connect and a Socket's methods return. Nothing has changed then, and nothing is told.
var (
	// ErrConnected: a live socket of the app has this id.
	ErrConnected = errors.New("channels: socket is connected already")
	// ErrSubscribed: the socket is on the channel.
	ErrSubscribed = errors.New("channels: socket is subscribed already")
	// ErrNotSubscribed: the socket is not on the channel.
	ErrNotSubscribed = errors.New("channels: socket is not subscribed")
	// ErrNotAllowed: the channel takes no client events, or the event's name does not begin with client-.
	ErrNotAllowed = errors.New("channels: client event is not allowed")
	// ErrGone: the socket has left.
	ErrGone = errors.New("channels: socket is gone")
)

// A Socket is one client's connection. Its methods may be called concurrently, also with Leave.
type Socket struct {
	// Value is the server's own, such as its connection, for when Sockets yields the socket. Set it before the socket
	// subscribes, and leave it then.
	Value any

	app      *app
	node     node[Socket] // its key is the socket's id; as link, of a shard
	link     link[Socket]
	detached sync.WaitGroup // until it has left its channels

	mu          sync.Mutex // taken before a shard's
	gone        bool       // and what follows is Leave's alone
	first, last *subscription
	count       int
	peak        int // of count, since index was made
	index       map[*channel]*subscription
}

// indexFrom is with how many channels a socket gets an index. Fewer are found faster without.
const indexFrom = 16

// ID returns the id that Connect was given.
func (s *Socket) ID() string { return s.node.key }

// Subscribe puts the socket on a channel, and tells channel_occupied if it is the first one there
// (https://pusher.com/docs/channels/server_api/webhooks/#channel-existence-events), then member_added if it is its user's
// first on a presence channel (https://pusher.com/docs/channels/server_api/webhooks/#presence-events; for the first of several
// tabs only: https://pusher.com/docs/channels/using_channels/presence-channels/), or on every other channel subscription_count
// (https://pusher.com/docs/channels/server_api/webhooks/#subscription-count-events: not on presence channels). The server
// has authorized the subscription before. Nothing of the arguments is kept.
//
// Its errors are ErrSubscribed, ErrGone, webhook.ErrInvalidEvent (an empty channel name, or user id on a
// presence channel; the error says which) and webhook.ErrQueueFull: the Emitter is so slow that more than a hundred
// thousand events wait for it.
func (s *Socket) Subscribe(channel string, m Member) (Change, error) {
	if err := validate(channel, m); err != nil {
		return Change{}, err
	}
	var e emission
	e.begin(s.app, 1)
	change, err := s.subscribe(&e, channel, m)
	e.run(patience)
	return change, err
}

func (s *Socket) subscribe(e *emission, name string, m Member) (Change, error) {
	sub := &subscription{socket: s}
	sub.link.of = sub
	hash := s.app.tracker.hash(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return Change{}, ErrGone
	}
	change, err := s.join(e, sub, hash, name, m)
	if err == nil {
		s.append(sub)
	}
	return change, err
}

// join is what happens to the channel.
func (s *Socket) join(e *emission, sub *subscription, hash uint64, name string, m Member) (Change, error) {
	sh := s.app.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ch := sh.byName.find(hash, name)
	switch {
	case ch != nil && s.find(ch) != nil:
		return Change{}, ErrSubscribed
	case sh.line.full(0):
		return Change{}, errSlow
	}
	first := ch == nil
	if first {
		ch = newChannel(hash, name)
		sh.byName.insert(&ch.node)
		sh.inOrder.add(&ch.link)
		e.enter(sh, transition{what: webhook.TypeChannelOccupied, channel: ch})
	}
	added := ch.join(sub, m, s.app.tracker.hash)
	if added {
		e.enter(sh, transition{what: webhook.TypeMemberAdded, channel: ch, member: sub.member})
	} else if ch.members == nil {
		e.enter(sh, transition{what: webhook.TypeSubscriptionCount, channel: ch, count: ch.count})
	}
	return sub.change(first, false, added), nil
}

// change describes what became of a subscription. The shard's lock is held.
func (sub *subscription) change(first, last, member bool) Change {
	c := Change{Channel: sub.channel.name(), First: first, Last: last, Member: member, Counts: sub.channel.counts()}
	if sub.member != nil {
		c.UserID = sub.member.node.key
	}
	return c
}

// Unsubscribe takes the socket off a channel. It tells member_removed or subscription_count, as Subscribe does, and at
// last channel_vacated if nobody is left (https://pusher.com/docs/channels/server_api/webhooks/#channel-existence-events).
// Its errors are ErrNotSubscribed and ErrGone.
func (s *Socket) Unsubscribe(channel string) (Change, error) {
	var e emission
	e.begin(s.app, 1)
	change, err := s.unsubscribe(&e, channel)
	e.run(patience)
	return change, err
}

func (s *Socket) unsubscribe(e *emission, name string) (Change, error) {
	hash := s.app.tracker.hash(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return Change{}, ErrGone
	}
	sh := s.app.shard(hash)
	sh.mu.Lock()
	sub := s.on(sh, hash, name)
	if sub == nil {
		sh.mu.Unlock()
		return Change{}, ErrNotSubscribed
	}
	change := sub.part(e, sh)
	sh.mu.Unlock()
	s.remove(sub)
	return change, nil
}

// on returns the socket's subscription to a channel, or nil. Both locks are held.
func (s *Socket) on(sh *shard, hash uint64, name string) *subscription {
	if ch := sh.byName.find(hash, name); ch != nil {
		return s.find(ch)
	}
	return nil
}

// part ends a subscription. The shard's lock is held.
func (sub *subscription) part(e *emission, sh *shard) Change {
	ch := sub.channel
	removed := ch.part(sub)
	if removed {
		e.enter(sh, transition{what: webhook.TypeMemberRemoved, channel: ch, member: sub.member})
	} else if ch.members == nil {
		e.enter(sh, transition{what: webhook.TypeSubscriptionCount, channel: ch, count: ch.count})
	}
	last := ch.count == 0
	if last {
		sh.byName.remove(&ch.node)
		ch.link.remove()
		e.enter(sh, transition{what: webhook.TypeChannelVacated, channel: ch})
	}
	return sub.change(false, last, removed)
}

// Leave takes the socket off all of its channels, in the order in which it joined them, and tells what Unsubscribe would.
// It is for a socket that is closed: from now on every method returns ErrGone, and the id is free when Leave returns. It
// holds no lock for longer than one channel takes, so others may see the socket on some of its channels still; they see
// it on none before the first event is emitted. A second Leave does nothing, and does not wait for the first.
func (s *Socket) Leave() []Change {
	changes, _ := s.leave()
	return changes
}

// leave also reports whether the socket was there.
func (s *Socket) leave() ([]Change, bool) {
	s.mu.Lock()
	sub, count := s.first, s.count
	if s.gone {
		s.mu.Unlock()
		return nil, false
	}
	s.gone, s.first, s.last, s.index = true, nil, nil, nil
	s.mu.Unlock()

	var changes []Change
	var e emission
	e.begin(s.app, count)
	if count > 0 {
		changes = make([]Change, 0, count)
	}
	for ; sub != nil; sub = sub.after {
		sh := s.app.shard(sub.channel.node.hash)
		sh.mu.Lock()
		changes = append(changes, sub.part(&e, sh))
		sh.mu.Unlock()
	}
	s.app.disconnect(s)
	defer s.app.retire() // also if user code ends the goroutine
	e.run(patience)
	return changes, true
}

// ClientEvent tells client_event: a client has sent an event to the others on a channel
// (https://pusher.com/docs/channels/server_api/webhooks/#client-events). The server has checked its size and rate, and passes it
// on itself. data is JSON as the client sent it; nothing of the arguments is kept. The user's id is sent on presence
// channels. Nothing is told if the Emitter does not want it. If the Emitter hangs and a megabyte waits for it already, the
// event goes to Options.Rejected with webhook.ErrQueueFull.
//
// Its errors are ErrGone, ErrNotAllowed (the channel is public or encrypted, or the event's name does not begin with
// client-: https://pusher.com/docs/channels/using_channels/events/#triggering-client-events) and ErrNotSubscribed.
func (s *Socket) ClientEvent(channel, event string, data json.RawMessage) error {
	wanted := takesClientEvents(channel) && isClientEvent(event) && s.app.wants(webhook.TypeClientEvent, channel)
	var n *note
	if wanted { // copied before a lock is held
		n = &note{event: strings.Clone(event), data: bytes.Clone(data), socketID: s.ID()}
	}
	var e emission
	e.begin(s.app, 1)
	sub, err := s.clientEvent(&e, channel, event, n)
	e.run(patience)
	if sub != nil {
		t := sub.clientEvent(n)
		s.app.reject(t.event(s.app.tracker.node), errSlow)
	}
	return err
}

// clientEvent returns the subscription if there was no room for its event. n is nil if nobody wants it.
func (s *Socket) clientEvent(e *emission, name, event string, n *note) (refused *subscription, err error) {
	hash := s.app.tracker.hash(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone:
		return nil, ErrGone
	case !takesClientEvents(name) || !isClientEvent(event):
		return nil, ErrNotAllowed
	}
	sh := s.app.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sub := s.on(sh, hash, name)
	switch {
	case sub == nil:
		return nil, ErrNotSubscribed
	case n == nil:
		return nil, nil
	case sh.line.full(len(n.data)):
		return sub, nil
	}
	e.enter(sh, sub.clientEvent(n))
	return nil, nil
}

func (sub *subscription) clientEvent(n *note) transition {
	return transition{what: webhook.TypeClientEvent, channel: sub.channel, member: sub.member, note: n}
}

// find returns the socket's subscription to a channel, or nil. s.mu is held, as in what follows.
func (s *Socket) find(ch *channel) *subscription {
	if s.index != nil {
		return s.index[ch]
	}
	for sub := s.first; sub != nil; sub = sub.after {
		if sub.channel == ch {
			return sub
		}
	}
	return nil
}

func (s *Socket) append(sub *subscription) {
	sub.before = s.last
	if s.last == nil {
		s.first = sub
	} else {
		s.last.after = sub
	}
	s.last = sub
	s.count++
	s.peak = max(s.peak, s.count)
	if s.index != nil {
		s.index[sub.channel] = sub
	} else if s.count >= indexFrom {
		s.reindex()
	}
}

func (s *Socket) remove(sub *subscription) {
	if sub.before == nil {
		s.first = sub.after
	} else {
		sub.before.after = sub.after
	}
	if sub.after == nil {
		s.last = sub.before
	} else {
		sub.after.before = sub.before
	}
	sub.before, sub.after = nil, nil
	s.count--
	delete(s.index, sub.channel)
	if s.index != nil && s.count < s.peak/4 {
		s.reindex()
	}
}

// reindex makes a new index for what is left: a map does not give its memory back.
func (s *Socket) reindex() {
	s.index, s.peak = nil, s.count
	if s.count < indexFrom {
		return
	}
	s.index = make(map[*channel]*subscription, s.count)
	for sub := s.first; sub != nil; sub = sub.after {
		s.index[sub.channel] = sub
	}
}
