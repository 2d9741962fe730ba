package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// What is stored begins with a version: groups of events, the record of how far they have got, letters and apps. A
// newer one was written by a later version of this package, and is not touched.
//
// A group is its version, a byte of zero, the microseconds from its first event's Emit to its publication and the
// revision of the apps that the node knew, in eight bytes each, the node's name, the endpoint that it is for (empty:
// for all), and then event after event. An event is its app, a byte for its type, the microseconds since the group's
// first, its channel and Node, and what its type has. Numbers are varints, strings and data have their length before
// them.
const (
	version        = 1
	groupHead      = 18
	maxGroupEvents = 1 << positionBits
	maxGroupBytes  = 512 << 10 // an engine takes messages of 1 MiB
)

// Errors of what cannot be read.
var (
	errNewer  = errors.New("queue: stored by a newer version of this package")
	errPoison = errors.New("queue: cannot be read")
)

// A position is an event's place in a partition: the message's sequence, and its place in there.
type position uint64

const positionBits = 12

func positionOf(seq uint64, i int) position { return position(seq<<positionBits | uint64(i)) }

func (p position) seq() uint64 { return uint64(p >> positionBits) }

// An item is an event with its app.
type item struct {
	app   string
	event webhook.Event
	after time.Duration // the group's first event
}

// types are the codes of event types, one more than their index. New ones go to the end.
var types = []webhook.EventType{
	webhook.TypeClientEvent, webhook.TypeChannelOccupied, webhook.TypeChannelVacated, webhook.TypeMemberAdded,
	webhook.TypeMemberRemoved, webhook.TypeCacheMiss, webhook.TypeSubscriptionCount,
}

func codeOf(t webhook.EventType) byte {
	for i, known := range types {
		if t == known {
			return byte(i + 1)
		}
	}
	return 0
}

func appendString[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// appendHead begins a group.
func appendHead(dst []byte, node, endpoint string) []byte {
	dst = append(dst, version, 0)
	dst = append(dst, make([]byte, groupHead-2)...)
	return appendString(appendString(dst, node), endpoint)
}

// setAge notes how long ago the group's first event was emitted.
func setAge(group []byte, age time.Duration) {
	binary.BigEndian.PutUint64(group[2:], uint64(max(0, age.Microseconds())))
}

// setApps notes which apps the node knew.
func setApps(group []byte, revision uint64) { binary.BigEndian.PutUint64(group[10:], revision) }

func appendEvent(dst []byte, app string, e *webhook.Event, after time.Duration) []byte {
	dst = append(appendString(dst, app), codeOf(e.Type))
	dst = binary.AppendVarint(dst, after.Microseconds())
	dst = appendString(appendString(dst, e.Channel), e.Node)
	switch e.Type {
	case webhook.TypeMemberAdded, webhook.TypeMemberRemoved:
		dst = appendString(dst, e.UserID)
	case webhook.TypeSubscriptionCount:
		dst = binary.AppendUvarint(dst, uint64(e.SubscriptionCount))
	case webhook.TypeClientEvent:
		dst = appendString(appendString(dst, e.Event), []byte(e.Data))
		dst = appendString(appendString(dst, e.SocketID), e.UserID)
	}
	return dst
}

// eventBytes is no less than what appendEvent adds.
func eventBytes(app string, e *webhook.Event) int {
	const lengths = 7*5 + 10 + 1
	return len(app) + len(e.Channel) + len(e.Node) + len(e.Event) + len(e.Data) + len(e.SocketID) + len(e.UserID) + lengths
}

// A group is a message of events.
type group struct {
	node     string
	endpoint string // the only one that it is for, if not empty
	age      time.Duration
	apps     uint64 // the revision that the node knew
	items    []item
}

// A scanner takes a message apart. After a fault everything it returns is empty.
type scanner struct {
	rest  []byte
	fault bool
}

func (s *scanner) uvarint() uint64 {
	v, n := binary.Uvarint(s.rest)
	return v * s.took(n)
}

func (s *scanner) varint() int64 {
	v, n := binary.Varint(s.rest)
	return v * int64(s.took(n))
}

// took moves on by n bytes and returns 1, or 0 for a fault.
func (s *scanner) took(n int) uint64 {
	if n <= 0 || n > len(s.rest) || s.fault {
		s.fault = true
		return 0
	}
	s.rest = s.rest[n:]
	return 1
}

func (s *scanner) bytes() []byte {
	n := s.uvarint()
	if s.fault || n > uint64(len(s.rest)) {
		s.fault = true
		return nil
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

func (s *scanner) string() string { return string(s.bytes()) }

// again is string where it is likely to be the one of before.
func (s *scanner) again(before string) string {
	if b := s.bytes(); string(b) != before {
		return string(b)
	}
	return before
}

// checkVersion looks at a message's first byte.
func checkVersion(b []byte) error {
	switch {
	case len(b) == 0 || b[0] == 0:
		return errPoison
	case b[0] > version:
		return fmt.Errorf("%w: version %d, this one knows %d", errNewer, b[0], version)
	}
	return nil
}

// groups are kept, as their items take more than what they are read from.
var groups = sync.Pool{New: func() any { return new(group) }}

// free has the group be used again.
func (g *group) free() {
	clear(g.items)
	*g = group{items: g.items[:0]}
	groups.Put(g)
}

func decodeGroup(b []byte) (g group, err error) {
	if err := g.decode(b); err != nil {
		return group{}, err
	}
	return g, nil
}

// decode reads a message into an empty group. After an error what the group holds means nothing.
func (g *group) decode(b []byte) error {
	if err := checkVersion(b); err != nil {
		return err
	}
	if len(b) < groupHead || b[1] != 0 {
		return errPoison
	}
	g.age = time.Duration(min(binary.BigEndian.Uint64(b[2:]), 1<<53)) * time.Microsecond
	g.apps = binary.BigEndian.Uint64(b[10:])
	s := scanner{rest: b[groupHead:]}
	g.node, g.endpoint = s.string(), s.string()
	app, node := "", ""
	for len(s.rest) > 0 && !s.fault {
		one := s.item(app, node)
		app, node = one.app, one.event.Node
		if g.items = append(g.items, one); len(g.items) > maxGroupEvents {
			s.fault = true
		}
	}
	if s.fault {
		return errPoison
	}
	return nil
}

func (s *scanner) item(app, node string) (one item) {
	one.app = s.again(app)
	code := byte(0)
	if len(s.rest) > 0 {
		code, s.rest = s.rest[0], s.rest[1:]
	}
	if code == 0 || int(code) > len(types) {
		s.fault = true
		return one
	}
	e := &one.event
	e.Type = types[code-1]
	one.after = time.Duration(max(-1<<53, min(s.varint(), 1<<53))) * time.Microsecond
	e.Channel, e.Node = s.string(), s.again(node)
	switch e.Type {
	case webhook.TypeMemberAdded, webhook.TypeMemberRemoved:
		e.UserID = s.string()
	case webhook.TypeSubscriptionCount:
		n := s.uvarint()
		if n >= 1<<(strconv.IntSize-1) {
			s.fault = true
		}
		e.SubscriptionCount = int(n)
	case webhook.TypeClientEvent:
		e.Event = s.string()
		if data := s.bytes(); len(data) > 0 {
			e.Data = append([]byte(nil), data...)
		}
		e.SocketID, e.UserID = s.string(), s.string()
	}
	return one
}
