package channels

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pusherhooks/webhook"
)

// What a channel is, its name says: https://pusher.com/docs/channels/using_channels/channels/#channel-naming-conventions.

// isPresence reports whether a channel has members: https://pusher.com/docs/channels/using_channels/presence-channels/.
func isPresence(channel string) bool { return strings.HasPrefix(channel, "presence-") }

// takesClientEvents reports whether clients may send events to each other on a channel: on private and presence channels
// (https://pusher.com/docs/channels/using_channels/events/#triggering-client-events), but not on encrypted ones
// (https://pusher.com/docs/channels/using_channels/encrypted-channels/: a server's library encrypts, and pusher-js refuses
// to trigger a client event there).
func takesClientEvents(channel string) bool {
	return isPresence(channel) || strings.HasPrefix(channel, "private-") && !strings.HasPrefix(channel, "private-encrypted-")
}

// isClientEvent reports whether an event's name is one that clients may use:
// https://pusher.com/docs/channels/using_channels/events/#triggering-client-events.
func isClientEvent(event string) bool { return strings.HasPrefix(event, "client-") }

// isCache reports whether a channel's last event is remembered. The cache is combined with each of the other kinds:
// https://pusher.com/docs/channels/using_channels/cache-channels/.
func isCache(channel string) bool {
	for _, kind := range [...]string{"", "private-", "private-encrypted-", "presence-"} {
		if rest, ok := strings.CutPrefix(channel, kind); ok && strings.HasPrefix(rest, "cache-") {
			return true
		}
	}
	return false
}

// A Member is who subscribes to a presence channel. On other channels it is ignored.
type Member struct {
	UserID string          // of user_id in channel_data, must not be empty on a presence channel
	Info   json.RawMessage // of user_info; a member's first socket counts. It is copied
}

// Counts are those of a channel on this node.
type Counts struct {
	Subscribers int // sockets
	Members     int // users, of a presence channel
}

// A Change is what one socket's coming or going changed on a channel of this node: what a server answers its clients from.
type Change struct {
	Channel string
	UserID  string // of the socket, on a presence channel
	First   bool   // it came, and the channel was vacant
	Last    bool   // it left, and the channel is vacant now
	Member  bool   // a user came with the first of their sockets, or left with the last
	Counts         // afterwards
}

// A channel has at least one subscriber: it comes with the first and goes with the last. Its shard's lock guards it.
type channel struct {
	node        node[channel] // its key is the channel's name
	link        link[channel] // in its shard
	subscribers list[subscription]
	count       int
	members     *members // nil unless it is a presence channel
}

// A subscription is a socket on a channel. 64 bytes: there are more of them than of anything else.
type subscription struct {
	link          link[subscription] // in its channel
	socket        *Socket
	channel       *channel
	member        *member
	before, after *subscription // of the same socket, in the order of joining; guarded by its lock
}

// members are the users on a presence channel, in the order of coming.
type members struct {
	byID    table[member]
	inOrder list[member]
}

// A member is a user on a presence channel, with however many sockets.
type member struct {
	node    node[member] // its key is the user's id
	link    link[member]
	sockets int
	info    json.RawMessage // never changed
}

// validate says what is wrong with a subscription, in the form of webhook.Dispatcher's errors.
func validate(channel string, m Member) error {
	switch {
	case channel == "":
		return fmt.Errorf("%w: channel: must not be empty", webhook.ErrInvalidEvent)
	case isPresence(channel) && m.UserID == "":
		return fmt.Errorf("%w: user_id: must not be empty on a presence channel", webhook.ErrInvalidEvent)
	}
	return nil
}

// newChannel keeps nothing of the name that it is given, which may be a part of something larger.
func newChannel(hash uint64, name string) *channel {
	ch := &channel{}
	ch.node = node[channel]{hash: hash, key: strings.Clone(name), of: ch}
	ch.link.of = ch
	ch.subscribers.init()
	if isPresence(name) {
		ch.members = &members{}
		ch.members.inOrder.init()
	}
	return ch
}

func (ch *channel) name() string { return ch.node.key }

func (ch *channel) counts() Counts {
	c := Counts{Subscribers: ch.count}
	if ch.members != nil {
		c.Members = ch.members.byID.count
	}
	return c
}

// join adds a subscription, and reports whether it is the first of a presence channel's user.
func (ch *channel) join(sub *subscription, m Member, hash func(string) uint64) (added bool) {
	sub.channel = ch
	ch.subscribers.add(&sub.link)
	ch.count++
	if ch.members == nil {
		return false
	}
	sub.member, added = ch.members.join(m, hash(m.UserID))
	return added
}

// part removes a subscription, and reports whether it was the last of a presence channel's user.
func (ch *channel) part(sub *subscription) (removed bool) {
	sub.link.remove()
	ch.count--
	return sub.member != nil && ch.members.part(sub.member)
}

func (all *members) join(m Member, hash uint64) (u *member, added bool) {
	if u = all.byID.find(hash, m.UserID); u == nil {
		u, added = &member{info: bytes.Clone(m.Info)}, true
		u.node = node[member]{hash: hash, key: strings.Clone(m.UserID), of: u}
		u.link.of = u
		all.byID.insert(&u.node)
		all.inOrder.add(&u.link)
	}
	u.sockets++
	return u, added
}

func (all *members) part(u *member) (removed bool) {
	if u.sockets--; u.sockets > 0 {
		return false
	}
	all.byID.remove(&u.node)
	u.link.remove()
	return true
}
