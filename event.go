package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pusherhooks/webhook/internal/jsjson"
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

// EventTypes returns all known types, for a webhook that asks for every event.
func EventTypes() []EventType { return slices.Clone(eventTypes) }

// A typeSet has one bit for each event type; a single event's type is a set of one. Emit compares types several
// times, and bits are cheaper to compare than names.
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

// name returns the name of the one type in a set.
func (t typeSet) name() EventType {
	i := slices.IndexFunc(eventTypes, func(name EventType) bool { return name.set() == t })
	return eventTypes[i]
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
	// verifies the signature gets the same bytes. Data that is not valid JSON, or is nested deeper than 64
	// levels, is ErrInvalidEvent.
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

	// At is when it happened. What becomes too old, and Delivery.CreatedAt, count from it; timing rules take the time
	// between two events from it where both have one. Zero, or later than now: when it is emitted. It is no part of a
	// webhook.
	At time.Time `json:"-"`

	// Node is the process that saw it, where there are several: see channels.Options. It is no part of a webhook.
	Node string `json:"-"`
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

// Validate returns ErrInvalidEvent, wrapped with the field and the fault, for an event that no Dispatcher takes: for who
// takes events now and emits them later. It does not look at sizes, nor at the data of a client_event: what may be
// there is up to a Config.
func (e *Event) Validate() error { return e.validate(e.Type.set()) }

// when returns e.At by the monotonic clock, or zero.
func (e *Event) when() time.Time {
	if e.At.IsZero() {
		return e.At
	}
	now := time.Now()
	return now.Add(-max(0, now.Sub(e.At)))
}

// validate checks what is cheap to check on every event, wanted or not. t is the event's type, as it is in the
// functions below. Data is checked by encode.
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
		if int64(e.SubscriptionCount) > maxCount {
			return invalidEvent("subscription_count: must be at most %d, got %d", int64(maxCount), e.SubscriptionCount)
		}
	default:
		return invalidEvent("type: unknown %q, known are %s", string(e.Type), knownTypes())
	}
	if e.Channel == "" {
		return invalidEvent("channel: must not be empty")
	}
	return nil
}

// maxCount is 2^53: JavaScript would write a larger number differently.
const maxCount = 1 << 53

// presencePrefix is what a presence channel's name starts with.
const presencePrefix = "presence-"

// eventStarts has how an event of each type begins, by the number of the type's bit.
var eventStarts = func() (starts [8]string) {
	for _, t := range eventTypes {
		starts[bits.TrailingZeros8(uint8(t.set()))] = `{"name":"` + string(t) + `","channel":`
	}
	return starts
}()

// start is how an event of type t begins: up to its channel.
func (t typeSet) start() string { return eventStarts[bits.TrailingZeros8(uint8(t))] }

// encode appends a validated event of type t to dst, in the key order of JavaScript servers: name, channel, event,
// data, socket_id, user_id, subscription_count. Names are the same as in Pusher's documentation. It fails only
// over a client_event's data.
func (e *Event) encode(dst []byte, t typeSet, data ClientData) ([]byte, error) {
	dst = append(dst, t.start()...)
	dst = jsjson.AppendString(dst, e.Channel)
	switch t {
	case memberAdded, memberRemoved:
		dst = append(dst, `,"user_id":`...)
		dst = jsjson.AppendString(dst, e.UserID)
	case subscriptionCount:
		dst = append(dst, `,"subscription_count":`...)
		dst = strconv.AppendInt(dst, int64(e.SubscriptionCount), 10)
	case clientEvent:
		var err error
		if dst, err = e.encodeClientEvent(dst, data); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

// encodeClientEvent appends the fields that only a client_event has.
func (e *Event) encodeClientEvent(dst []byte, data ClientData) ([]byte, error) {
	dst = append(dst, `,"event":`...)
	dst = jsjson.AppendString(dst, e.Event)
	if len(e.Data) > 0 {
		var err error
		dst = append(dst, `,"data":`...)
		if dst, err = encodeData(dst, e.Data, data); err != nil {
			return dst, err
		}
	}
	if e.SocketID != "" {
		dst = append(dst, `,"socket_id":`...)
		dst = jsjson.AppendString(dst, e.SocketID)
	}
	if e.UserID != "" && strings.HasPrefix(e.Channel, presencePrefix) {
		dst = append(dst, `,"user_id":`...)
		dst = jsjson.AppendString(dst, e.UserID)
	}
	return dst, nil
}

func encodeData(dst []byte, data json.RawMessage, as ClientData) ([]byte, error) {
	if as == DataRaw {
		dst, err := jsjson.Append(dst, data)
		if err != nil {
			return dst, invalidEvent("data: must be valid JSON with DataRaw, %d levels deep at the most", jsjson.MaxDepth)
		}
		return dst, nil
	}
	if s := bytes.Trim(data, " \t\r\n"); len(s) > 0 && s[0] == '"' && json.Valid(s) {
		return jsjson.Append(dst, s)
	}
	return jsjson.AppendString(dst, []byte(data)), nil
}

// largestEscape is how many bytes one of a string may become: \u001f.
const largestEscape = 6

// encodeBuffers hold events between their encoding and their copy into batches.
var encodeBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, 1024)) }}

// encoded encodes a valid event of type t, unless it is larger than most bytes. The caller returns the buffer to
// encodeBuffers.
func (e *Event) encoded(t typeSet, data ClientData, most int) (*[]byte, error) {
	if len(e.Channel) > most { // it would only be encoded to be refused
		return nil, invalidEvent("channel: has %d bytes, MaxEventBytes is %d", len(e.Channel), most)
	}
	if t == clientEvent && len(e.Data) > largestEscape*most { // raw data can shrink: escapes are longer than characters
		return nil, invalidEvent("data: has %d bytes, MaxEventBytes is %d", len(e.Data), most)
	}
	buf := encodeBuffers.Get().(*[]byte)
	event, err := e.encode((*buf)[:0], t, data)
	*buf = event
	if err == nil && len(event) > most {
		err = invalidEvent("the event has %d bytes, MaxEventBytes is %d", len(event), most)
	}
	if err != nil {
		encodeBuffers.Put(buf)
		return nil, err
	}
	return buf, nil
}

func knownTypes() string {
	names := make([]string, len(eventTypes))
	for i, t := range eventTypes {
		names[i] = string(t)
	}
	return strings.Join(names, ", ")
}
