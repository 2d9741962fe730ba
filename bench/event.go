package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Every contender gets the same event, "a user joined a room", with strings made at run time: a compiler that
// knows them would encode them beforehand.
const (
	eventType  = "member_added"
	eventNames = 1024 // rooms and users; a power of two
)

// The app of every contender that signs as Pusher does.
const (
	appKey    = "app-key"
	appSecret = "a-secret-of-thirty-two-characters"
)

// source holds the strings of the events.
type source struct {
	channels, users [eventNames]string
}

func newSource() *source {
	s := &source{}
	for i := range eventNames {
		s.channels[i] = fmt.Sprintf("presence-room-%04d", i)
		s.users[i] = fmt.Sprintf("user-%06d", i*7)
	}
	return s
}

func (s *source) event(i int) (channel, user string) {
	return s.channels[i%eventNames], s.users[i%eventNames]
}

// appendEvent is the least that encoding an event takes: no routing, no limits, nothing kept.
func appendEvent(dst []byte, channel, user string) []byte {
	dst = append(dst, `{"name":"`+eventType+`","channel":`...)
	dst = appendString(dst, channel)
	dst = append(dst, `,"user_id":`...)
	dst = appendString(dst, user)
	return append(dst, '}')
}

// appendString checks s for characters that JSON escapes, as anything has to that encodes strings of others.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x80 || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendBatch encodes a whole request body of n events, the i-th and those that follow.
func appendBatch(dst []byte, s *source, i, n int) []byte {
	dst = append(dst, `{"time_ms":`...)
	dst = strconv.AppendInt(dst, time.Now().UnixMilli(), 10)
	dst = append(dst, `,"events":[`...)
	for j := range n {
		if j > 0 {
			dst = append(dst, ',')
		}
		dst = appendEvent(dst, s.channels[(i+j)%eventNames], s.users[(i+j)%eventNames])
	}
	return append(dst, `]}`...)
}
