package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// An EventType names what happened on a channel. The names are Pusher's, see
// https://pusher.com/docs/channels/server_api/webhooks/.
type EventType string

// The event types a webhook can ask for.
const (
	TypeClientEvent       EventType = "client_event"       // a client sent an event on a private or presence channel
	TypeChannelOccupied   EventType = "channel_occupied"   // a channel got its first subscriber
	TypeChannelVacated    EventType = "channel_vacated"    // a channel lost its last subscriber
	TypeMemberAdded       EventType = "member_added"       // a user joined a presence channel
	TypeMemberRemoved     EventType = "member_removed"     // a user left a presence channel
	TypeCacheMiss         EventType = "cache_miss"         // a client subscribed to a cache channel that holds no event
	TypeSubscriptionCount EventType = "subscription_count" // the number of a channel's subscribers changed
)

// eventTypes lists every known type, in the order in which errors name them.
var eventTypes = []EventType{
	TypeClientEvent, TypeChannelOccupied, TypeChannelVacated, TypeMemberAdded,
	TypeMemberRemoved, TypeCacheMiss, TypeSubscriptionCount,
}

// A typeSet has one bit for each event type. A single event's type is a set of one: to compare bits is cheaper
// than to compare names, and Emit does it several times.
type typeSet uint8

const (
	clientEvent typeSet = 1 << iota
	channelOccupied
	channelVacated
	memberAdded
	memberRemoved
	cacheMiss
	subscriptionCount
)

// set returns the set that holds only t, or the empty set for an unknown type.
func (t EventType) set() typeSet {
	switch t {
	case TypeClientEvent:
		return clientEvent
	case TypeChannelOccupied:
		return channelOccupied
	case TypeChannelVacated:
		return channelVacated
	case TypeMemberAdded:
		return memberAdded
	case TypeMemberRemoved:
		return memberRemoved
	case TypeCacheMiss:
		return cacheMiss
	case TypeSubscriptionCount:
		return subscriptionCount
	}
	return 0
}

// ClientData says how the data of a client_event is written into the webhook.
type ClientData int

const (
	// DataString writes data as a JSON string that holds the client's JSON, as Pusher does and as its
	// server libraries expect (pusher-http-go refuses a whole webhook over data that is an object). Data
	// that is a JSON string already stays that string; data that is no JSON at all is sent as text.
	DataString ClientData = iota

	// DataRaw writes the client's JSON value itself, as soketi does. The value is written the way
	// JavaScript's JSON.stringify would write it, so that a receiver that re-serialises the body before it
	// verifies the signature gets the same bytes. Data that is not valid JSON is ErrInvalidEvent.
	DataRaw
)

// An Event is something that happened on a channel of an app. The constructors, one for each type, set the
// fields that the type has; the others are ignored.
type Event struct {
	Type    EventType
	Channel string

	Event    string          // client_event: the event's name
	Data     json.RawMessage // client_event: the client's data, left out when empty
	SocketID string          // client_event: the sender's socket, left out when empty
	UserID   string          // member_added, member_removed; client_event: sent on presence channels only

	SubscriptionCount int // subscription_count
}

// ChannelOccupied is the event of a channel that got its first subscriber.
func ChannelOccupied(channel string) Event {
	return Event{Type: TypeChannelOccupied, Channel: channel}
}

// ChannelVacated is the event of a channel that lost its last subscriber.
func ChannelVacated(channel string) Event {
	return Event{Type: TypeChannelVacated, Channel: channel}
}

// MemberAdded is the event of a user who joined a presence channel, with the first of their sockets.
func MemberAdded(channel, userID string) Event {
	return Event{Type: TypeMemberAdded, Channel: channel, UserID: userID}
}

// MemberRemoved is the event of a user who left a presence channel, with the last of their sockets.
func MemberRemoved(channel, userID string) Event {
	return Event{Type: TypeMemberRemoved, Channel: channel, UserID: userID}
}

// ClientEvent is the event of a client that sent event with data. The user's id is sent only for presence
// channels, as Pusher does, so a server may pass what it has.
func ClientEvent(channel, event string, data json.RawMessage, socketID, userID string) Event {
	return Event{Type: TypeClientEvent, Channel: channel, Event: event, Data: data, SocketID: socketID, UserID: userID}
}

// CacheMiss is the event of a client that subscribed to a cache channel without a cached event.
func CacheMiss(channel string) Event {
	return Event{Type: TypeCacheMiss, Channel: channel}
}

// SubscriptionCount is the event of a channel whose number of subscribers changed.
func SubscriptionCount(channel string, count int) Event {
	return Event{Type: TypeSubscriptionCount, Channel: channel, SubscriptionCount: count}
}

// ErrInvalidEvent is what Emit returns, wrapped with the field and the fault, for an event that cannot be
// sent. Test with errors.Is.
var ErrInvalidEvent = errors.New("webhook: invalid event")

func invalidEvent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidEvent, fmt.Sprintf(format, args...))
}

// validate checks what is cheap to check on every event, wanted or not. t is the event's type, as it is in the
// functions below. Data is checked by append.
func (e *Event) validate(t typeSet) error {
	switch t {
	case channelOccupied, channelVacated, cacheMiss: // the channel is all they have
	case memberAdded, memberRemoved:
		if e.UserID == "" {
			return invalidEvent("user_id: must not be empty for %s", string(e.Type))
		}
	case clientEvent:
		if e.Event == "" {
			return invalidEvent("event: a client_event needs the event's name")
		}
	case subscriptionCount:
		if e.SubscriptionCount < 0 {
			return invalidEvent("subscription_count: must not be negative, got %d", e.SubscriptionCount)
		}
	default:
		return invalidEvent("type: unknown %q, known are %s", string(e.Type), knownTypes())
	}
	if e.Channel == "" {
		return invalidEvent("channel: must not be empty")
	}
	return nil
}

// size is the number of bytes of the event's own strings.
func (e *Event) size() int {
	return len(e.Channel) + len(e.Event) + len(e.Data) + len(e.SocketID) + len(e.UserID)
}

// presencePrefix is what a presence channel's name starts with.
const presencePrefix = "presence-"

// eventStarts has how an event of each type begins, by the number of the type's bit.
var eventStarts = func() (starts [8]string) {
	for _, t := range eventTypes {
		starts[bits.TrailingZeros8(uint8(t.set()))] = `{"name":"` + string(t) + `","channel":"`
	}
	return starts
}()

// start is how an event of type t begins: up to its channel.
func (t typeSet) start() string { return eventStarts[bits.TrailingZeros8(uint8(t))] }

// append encodes a validated event at the end of dst, in the key order of JavaScript servers: name, channel,
// event, data, socket_id, user_id, subscription_count. Names are the same as in Pusher's documentation.
func (e *Event) append(dst []byte, t typeSet, data ClientData) ([]byte, error) {
	dst = append(dst, t.start()...)
	dst = appendChars(dst, e.Channel)
	dst = append(dst, '"')
	switch t {
	case memberAdded, memberRemoved:
		dst = append(dst, `,"user_id":`...)
		dst = appendString(dst, e.UserID)
	case subscriptionCount:
		dst = append(dst, `,"subscription_count":`...)
		dst = strconv.AppendInt(dst, int64(e.SubscriptionCount), 10)
	case clientEvent:
		var err error
		if dst, err = e.appendClientEvent(dst, data); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

// An event is plain if it has a channel and perhaps a user, and nothing in them needs escaping. appendPlain
// encodes it by copying.
const (
	plainUser = `","user_id":"`
	plainEnd  = `"}`
)

// plainSize returns the number of bytes that appendPlain adds, 0 if the event is not plain.
func (e *Event) plainSize(t typeSet) int {
	size := len(t.start()) + len(e.Channel) + len(plainEnd)
	switch t {
	case clientEvent, subscriptionCount:
		return 0
	case memberAdded, memberRemoved:
		if !isPlain(e.UserID) {
			return 0
		}
		size += len(plainUser) + len(e.UserID)
	}
	if !isPlain(e.Channel) {
		return 0
	}
	return size
}

func (e *Event) appendPlain(dst []byte, t typeSet) []byte {
	dst = append(dst, t.start()...)
	dst = append(dst, e.Channel...)
	if t == memberAdded || t == memberRemoved {
		dst = append(dst, plainUser...)
		dst = append(dst, e.UserID...)
	}
	return append(dst, plainEnd...)
}

// appendClientEvent appends the fields that only a client_event has.
func (e *Event) appendClientEvent(dst []byte, data ClientData) ([]byte, error) {
	dst = append(dst, `,"event":`...)
	dst = appendString(dst, e.Event)
	if len(e.Data) > 0 {
		var err error
		dst = append(dst, `,"data":`...)
		if dst, err = appendData(dst, e.Data, data); err != nil {
			return dst, err
		}
	}
	if e.SocketID != "" {
		dst = append(dst, `,"socket_id":`...)
		dst = appendString(dst, e.SocketID)
	}
	if e.UserID != "" && strings.HasPrefix(e.Channel, presencePrefix) {
		dst = append(dst, `,"user_id":`...)
		dst = appendString(dst, e.UserID)
	}
	return dst, nil
}

func appendData(dst []byte, data json.RawMessage, as ClientData) ([]byte, error) {
	if as == DataRaw {
		if !json.Valid(data) {
			return dst, invalidEvent("data: must be valid JSON with DataRaw")
		}
		return appendJSON(dst, data), nil
	}
	if s := trimSpace(data); len(s) > 0 && s[0] == '"' && json.Valid(s) {
		return appendJSON(dst, s), nil
	}
	return appendString(dst, []byte(data)), nil
}

func knownTypes() string {
	names := make([]string, len(eventTypes))
	for i, t := range eventTypes {
		names[i] = string(t)
	}
	return strings.Join(names, ", ")
}
