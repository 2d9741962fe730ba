package main

import (
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// A hub holds the channels of one app. One lock guards them all; nothing that is done under it waits for
// anybody: a socket has its own outbox, and Dispatcher.Emit neither blocks nor does I/O.
//
// Emitting under the lock is what makes the webhooks of a channel tell its story in order.
type hub struct {
	app        app
	dispatcher *webhook.Dispatcher

	mu       sync.Mutex
	channels map[string]*channel
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

func newHub(a app, d *webhook.Dispatcher) *hub {
	return &hub{app: a, dispatcher: d, channels: make(map[string]*channel), cache: make(map[string]cached)}
}

// emit hands an event to the library. There is nothing to do about an error here, with the lock held:
// Hooks.Rejected counts it (see webhookConfig).
func (h *hub) emit(e webhook.Event) { _ = h.dispatcher.Emit(h.app.ID, e) }

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
	if c.channels[s.Channel] != nil {
		return &fault{0, "Existing subscription to channel " + s.Channel}
	}
	ch := h.channels[s.Channel]
	if f := h.limit(c, ch, u); f != nil {
		return f
	}
	if ch == nil {
		ch = &channel{name: s.Channel, sockets: make(map[*conn]string)}
		if isPresence(ch.name) {
			ch.members = make(map[string]*member)
		}
		h.channels[ch.name] = ch
		h.emit(webhook.ChannelOccupied(ch.name))
	}
	c.channels[ch.name] = ch
	first := ch.join(c, u)
	c.send(ch.succeeded())
	if first {
		ch.broadcast(message{Event: "pusher_internal:member_added", Channel: ch.name, Data: text(u)}.encode(), c)
		h.emit(webhook.MemberAdded(ch.name, string(u.ID)))
	}
	h.counted(ch)
	if isCache(ch.name) {
		h.replay(c, ch)
	}
	return nil
}

// limit says why there is no room for a subscription to a channel, which is nil if it is vacant.
func (h *hub) limit(c *conn, ch *channel, u user) *fault {
	if ch == nil {
		return limitSubscription(len(c.channels), len(h.channels), 0, true, false)
	}
	known := ch.members == nil || ch.members[string(u.ID)] != nil
	return limitSubscription(len(c.channels), len(h.channels), len(ch.members), false, !known)
}

// counted tells the number of subscribers, except where the members are told: Pusher does not count those.
func (h *hub) counted(ch *channel) {
	if isPresence(ch.name) {
		return
	}
	n := len(ch.sockets)
	data := text(map[string]int{"subscription_count": n})
	ch.broadcast(message{Event: "pusher_internal:subscription_count", Channel: ch.name, Data: data}.encode(), nil)
	h.emit(webhook.SubscriptionCount(ch.name, n))
}

// replay gives a new subscriber the last event of a cache channel, or tells everybody that there is none.
func (h *hub) replay(c *conn, ch *channel) {
	if last, ok := h.cache[ch.name]; ok && time.Now().Before(last.expires) {
		c.send(last.frame)
		return
	}
	c.send(message{Event: "pusher:cache_miss", Channel: ch.name}.encode())
	h.emit(webhook.CacheMiss(ch.name))
}

func (h *hub) unsubscribe(c *conn, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ch := c.channels[name]; ch != nil {
		h.part(c, ch)
	}
}

// leave unsubscribes a closed socket from everything.
func (h *hub) leave(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ch := range c.channels {
		h.part(c, ch)
	}
}

// part takes a socket out of a channel. h.mu is held.
func (h *hub) part(c *conn, ch *channel) {
	delete(c.channels, ch.name)
	if gone := ch.part(c); gone != "" {
		data := text(user{ID: userID(gone)})
		ch.broadcast(message{Event: "pusher_internal:member_removed", Channel: ch.name, Data: data}.encode(), nil)
		h.emit(webhook.MemberRemoved(ch.name, gone))
	}
	h.counted(ch)
	if len(ch.sockets) == 0 {
		delete(h.channels, ch.name)
		h.emit(webhook.ChannelVacated(ch.name))
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
	ch := c.channels[m.Channel]
	if ch == nil {
		return &fault{codeClientEvent, "Client events need a subscription to channel " + m.Channel}
	}
	m.UserID = ch.sockets[c]
	ch.broadcast(m.encode(), c)
	h.emit(webhook.ClientEvent(ch.name, m.Event, m.Data, c.id, m.UserID))
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
	ch := h.channels[m.Channel]
	if ch == nil {
		return
	}
	for c := range ch.sockets {
		if c.id != exceptSocket {
			c.send(frame)
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

// A channelInfo is one entry of GET /channels.
type channelInfo struct {
	UserCount         int `json:"user_count,omitempty"`
	SubscriptionCount int `json:"subscription_count,omitempty"`
}

// occupied lists the channels whose name starts with prefix.
func (h *hub) occupied(prefix string) map[string]channelInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make(map[string]channelInfo)
	for name, ch := range h.channels {
		if strings.HasPrefix(name, prefix) {
			list[name] = channelInfo{UserCount: len(ch.members), SubscriptionCount: len(ch.sockets)}
		}
	}
	return list
}
