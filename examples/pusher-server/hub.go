package main

import (
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pusherhooks/webhook/channels"
)

// A hub is one app's side of the server. The tracker knows who is on which channel, and emits the webhooks. The hub's
// lock orders what clients are told about a channel; nothing that is done under it waits for anybody: a socket has its
// own outbox, and Dispatcher.Emit neither blocks nor does I/O.
type hub struct {
	app     app
	tracker *channels.Tracker

	mu       sync.Mutex
	occupied int               // channels
	cache    map[string]cached // by channel, which may be vacant
}

// A cached event is the last one published to a cache channel.
type cached struct {
	frame   []byte
	expires time.Time
}

// Pusher remembers a cached event for half an hour. The bound on their number is this server's own.
const (
	cacheFor   = 30 * time.Minute
	cacheLimit = 10_000
)

func newHub(a app, t *channels.Tracker) *hub {
	return &hub{app: a, tracker: t, cache: make(map[string]cached)}
}

// connect makes a socket known.
func (h *hub) connect(c *conn) (err error) {
	if c.socket, err = h.tracker.Connect(h.app.ID, c.id); err == nil {
		c.socket.Value = c
	}
	return err
}

// A subscription is the data of pusher:subscribe.
type subscription struct {
	Channel     string `json:"channel"`
	Auth        string `json:"auth"`
	ChannelData string `json:"channel_data"`
}

// authorize checks a subscription and returns its user, who has an id on presence channels only.
func (h *hub) authorize(c *conn, s subscription) (user, *fault) {
	var u user
	if !validChannel(s.Channel) {
		return u, &fault{codeUnauthorized, fmt.Sprintf("Invalid channel name %.200q", s.Channel)}
	}
	if !isPrivate(s.Channel) {
		return u, nil
	}
	data := s.ChannelData
	if !isPresence(s.Channel) {
		data = "" // signed on presence channels only
	}
	if !hmac.Equal([]byte(s.Auth), []byte(h.app.channelAuth(c.id, s.Channel, data))) {
		return u, &fault{codeUnauthorized, "Invalid signature for channel " + s.Channel}
	}
	if isPresence(s.Channel) && (json.Unmarshal([]byte(data), &u) != nil || u.ID == "") {
		return u, &fault{codeUnauthorized, "Invalid channel_data for channel " + s.Channel + ": it needs a user_id"}
	}
	return u, limitUser(u)
}

func (h *hub) subscribe(c *conn, s subscription) *fault {
	u, f := h.authorize(c, s)
	if f != nil {
		return f
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, twice := c.channels[s.Channel]; twice {
		return &fault{0, "Existing subscription to channel " + s.Channel}
	}
	if f := h.limit(c, s.Channel, u); f != nil {
		return f
	}
	change, err := c.socket.Subscribe(s.Channel, channels.Member{UserID: string(u.ID), Info: u.Info})
	if err != nil {
		return &fault{0, "Subscription to channel " + s.Channel + " failed"}
	}
	c.channels[s.Channel] = u.ID
	if change.First {
		h.occupied++
	}
	c.send(h.succeeded(s.Channel))
	if change.Member {
		h.broadcast(message{Event: "pusher_internal:member_added", Channel: s.Channel, Data: text(u)}, c)
	}
	h.counted(change)
	if isCache(s.Channel) {
		h.replay(c, s.Channel)
	}
	return nil
}

// limit says why there is no room for a subscription.
func (h *hub) limit(c *conn, channel string, u user) *fault {
	now := h.tracker.Counts(h.app.ID, channel)
	stranger := now.Members >= maxMembers // looked for only where it matters
	if stranger {
		for id := range h.tracker.Members(h.app.ID, channel) {
			stranger = stranger && id != string(u.ID)
		}
	}
	return limitSubscription(len(c.channels), h.occupied, now.Members, now.Subscribers == 0, stranger)
}

// succeeded is the answer to a subscription. On a presence channel it lists the members.
func (h *hub) succeeded(channel string) []byte {
	data := struct {
		Presence any `json:"presence,omitempty"`
	}{}
	if isPresence(channel) {
		hash := maps.Collect(h.tracker.Members(h.app.ID, channel))
		data.Presence = map[string]any{
			"ids": slices.Sorted(maps.Keys(hash)), "hash": hash, "count": len(hash),
		}
	}
	return message{Event: "pusher_internal:subscription_succeeded", Channel: channel, Data: text(data)}.encode()
}

// counted tells the number of subscribers, except where the members are told: Pusher does not count those.
func (h *hub) counted(change channels.Change) {
	if !isPresence(change.Channel) {
		data := text(map[string]int{"subscription_count": change.Subscribers})
		h.broadcast(message{Event: "pusher_internal:subscription_count", Channel: change.Channel, Data: data}, nil)
	}
}

// replay gives a new subscriber the last event of a cache channel, or tells everybody that there is none.
func (h *hub) replay(c *conn, channel string) {
	if last, ok := h.cache[channel]; ok && time.Now().Before(last.expires) {
		c.send(last.frame)
		return
	}
	c.send(message{Event: "pusher:cache_miss", Channel: channel}.encode())
	h.tracker.CacheMiss(h.app.ID, channel)
}

func (h *hub) unsubscribe(c *conn, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if change, err := c.socket.Unsubscribe(name); err == nil {
		delete(c.channels, name)
		h.parted(change)
	}
}

// leave unsubscribes a closed socket from everything.
func (h *hub) leave(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, change := range c.socket.Leave() {
		h.parted(change)
	}
}

// parted tells those who are still there.
func (h *hub) parted(change channels.Change) {
	if change.Last {
		h.occupied--
	}
	if change.Member {
		data := text(user{ID: userID(change.UserID)})
		h.broadcast(message{Event: "pusher_internal:member_removed", Channel: change.Channel, Data: data}, nil)
	}
	h.counted(change)
}

// broadcast sends a message to all but one socket of a channel, which may be nil.
func (h *hub) broadcast(m message, except *conn) {
	frame := m.encode()
	for s := range h.tracker.Sockets(h.app.ID, m.Channel) {
		if c := s.Value.(*conn); c != except {
			c.send(frame)
		}
	}
}

// clientEvent passes an event on from one client to the others.
func (h *hub) clientEvent(c *conn, m message) *fault {
	switch {
	case !h.app.EnableClientMessages:
		return &fault{codeClientEvent, "The app does not have client events enabled"}
	case !takesClientEvents(m.Channel):
		return &fault{codeClientEvent, "Client events are for private and presence channels"}
	case len(m.Event) > maxEventName || len(m.Data) > maxEventData:
		return &fault{codeClientEvent, fmt.Sprintf("A client event has %d bytes of data at the most", maxEventData)}
	case !c.limiter.allowClientEvent():
		return &fault{codeClientEvent, "Client event rejected due to rate limit"}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.socket.ClientEvent(m.Channel, m.Event, m.Data) != nil {
		return &fault{codeClientEvent, "Client events need a subscription to channel " + m.Channel}
	}
	m.UserID = string(c.channels[m.Channel])
	h.broadcast(m, c)
	return nil
}

// publish sends an event of the app's backend to a channel, except to the socket that caused it.
func (h *hub) publish(m message, exceptSocket string) {
	frame := m.encode()
	h.mu.Lock()
	defer h.mu.Unlock()
	if isCache(m.Channel) {
		h.remember(m.Channel, frame)
	}
	for s := range h.tracker.Sockets(h.app.ID, m.Channel) {
		if s.ID() != exceptSocket {
			s.Value.(*conn).send(frame)
		}
	}
}

// remember caches a channel's last event. A full cache forgets what has expired, or else any one.
func (h *hub) remember(channel string, frame []byte) {
	now := time.Now()
	if _, known := h.cache[channel]; !known && len(h.cache) >= cacheLimit {
		for name, last := range h.cache {
			if now.After(last.expires) {
				delete(h.cache, name)
			}
		}
		for name := range h.cache {
			if len(h.cache) < cacheLimit {
				break
			}
			delete(h.cache, name)
		}
	}
	h.cache[channel] = cached{frame: frame, expires: now.Add(cacheFor)}
}
