package main

import (
	"encoding/json"
	"regexp"
	"strings"
)

// Pusher's codes, of pusher:error messages and of closed sockets, as in "Error Codes" of
// https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/. The hundreds tell a client
// what to do: 40xx do not come back, 41xx come back after a while, 42xx come back at once, 43xx stay.
const (
	codeLimit               = -1 // Pusher has none: told as null
	codeUnknownApp          = 4001
	codeAppDisabled         = 4003
	codeOverQuota           = 4004
	codeUnsupportedProtocol = 4007
	codeUnauthorized        = 4009
	codeTooSlow             = 4100
	codeReconnect           = 4200
	codePongTimeout         = 4201
	codeClientEvent         = 4301 // Pusher's for the rate; soketi's for whatever else is wrong with one
)

// A message is one frame of protocol 7, in either direction.
type message struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	UserID  string          `json:"user_id,omitempty"` // a client event's sender, on presence channels
}

// encode returns the frame. Every Data in this program is valid JSON, so it cannot fail.
func (m message) encode() []byte {
	frame, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return frame
}

// object is the data of those messages that carry it as it is, which are few.
func object(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// text is the data of most messages: JSON inside a JSON string.
func text(v any) json.RawMessage { return object(string(object(v))) }

// A fault is what a client did wrong. Code is 0 or less where Pusher has none.
type fault struct {
	code    int
	message string
}

func (f *fault) encode() []byte {
	data := struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
	}{Message: f.message}
	if f.code > 0 {
		data.Code = &f.code
	}
	return message{Event: "pusher:error", Data: object(data)}.encode()
}

var channelName = regexp.MustCompile(`^[A-Za-z0-9_\-=@,.;]+$`)

func validChannel(name string) bool {
	return len(name) <= maxChannelName && channelName.MatchString(name)
}

// A channel's name says what it is: private-, presence-, and each of them or neither with cache-.

func isPresence(channel string) bool { return strings.HasPrefix(channel, "presence-") }

// isPrivate reports whether a subscription needs a signature.
func isPrivate(channel string) bool {
	return strings.HasPrefix(channel, "private-") || isPresence(channel)
}

func isCache(channel string) bool {
	return strings.HasPrefix(channel, "cache-") || strings.HasPrefix(channel, "private-cache-") ||
		strings.HasPrefix(channel, "presence-cache-") || strings.HasPrefix(channel, "private-encrypted-cache-")
}

// takesClientEvents reports whether clients may send to each other here. What a client sends to an encrypted
// channel would not be encrypted.
func takesClientEvents(channel string) bool {
	return isPrivate(channel) && !strings.HasPrefix(channel, "private-encrypted-")
}
