package main

import (
	"encoding/json"
	"maps"
	"slices"
)

// A channel has at least one subscriber: it comes with the first and goes with the last. The hub's lock
// guards it.
type channel struct {
	name    string
	sockets map[*conn]string   // and the user behind each, on a presence channel
	members map[string]*member // by user id; nil unless it is a presence channel
}

// A member is a user on a presence channel, with however many sockets.
type member struct {
	info    json.RawMessage // as the first socket gave it
	sockets int
}

// A user is what channel_data says about who subscribes.
type user struct {
	ID   userID          `json:"user_id"`
	Info json.RawMessage `json:"user_info,omitempty"`
}

// A userID may come as a string or a number; it is a string everywhere else.
type userID string

func (id *userID) UnmarshalJSON(data []byte) error {
	if data[0] != '"' {
		var number json.Number
		err := json.Unmarshal(data, &number)
		*id = userID(number)
		return err
	}
	return json.Unmarshal(data, (*string)(id))
}

// join adds a socket, and reports whether it is the first of a presence channel's user.
func (ch *channel) join(c *conn, u user) bool {
	ch.sockets[c] = string(u.ID)
	if ch.members == nil {
		return false
	}
	m := ch.members[string(u.ID)]
	if m == nil {
		m = &member{info: u.Info}
		ch.members[string(u.ID)] = m
	}
	m.sockets++
	return m.sockets == 1
}

// part removes a socket, and reports whose last it was; "" if the user is still there or never was.
func (ch *channel) part(c *conn) string {
	id := ch.sockets[c]
	delete(ch.sockets, c)
	m := ch.members[id]
	if m == nil {
		return ""
	}
	if m.sockets--; m.sockets > 0 {
		return ""
	}
	delete(ch.members, id)
	return id
}

// broadcast sends a frame to all but one socket, which may be nil.
func (ch *channel) broadcast(frame []byte, except *conn) {
	for c := range ch.sockets {
		if c != except {
			c.send(frame)
		}
	}
}

// succeeded is the answer to a subscription. On a presence channel it lists the members.
func (ch *channel) succeeded() []byte {
	data := struct {
		Presence any `json:"presence,omitempty"`
	}{}
	if ch.members != nil {
		hash := make(map[string]json.RawMessage, len(ch.members))
		for id, m := range ch.members {
			hash[id] = m.info
		}
		data.Presence = map[string]any{
			"ids": slices.Sorted(maps.Keys(hash)), "hash": hash, "count": len(hash),
		}
	}
	return message{Event: "pusher_internal:subscription_succeeded", Channel: ch.name, Data: text(data)}.encode()
}
