package webhook

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// A webhook's body is {"time_ms":1700000000000,"events":[{…},{…}]}, without white space. It is built in a buffer
// whose head is written last, right-aligned, when the body is stamped: until 2286 a time has 13 digits at most,
// and in the year 2000, where synctest's clock begins, it has 12.
const (
	bodyStart     = `{"time_ms":`
	bodyEvents    = `,"events":[`
	bodyEnd       = `]}`
	timeDigits    = 13
	headBytes     = len(bodyStart) + timeDigits + len(bodyEvents) // where the first event begins
	envelopeBytes = headBytes + len(bodyEnd)
)

// stamp writes the head into buf and returns the body, which ends where buf ends.
func stamp(buf []byte, at time.Time) []byte {
	var digits [20]byte
	ms := strconv.AppendInt(digits[:0], min(max(at.UnixMilli(), 0), 9_999_999_999_999), 10)
	start := timeDigits - len(ms)
	n := start + copy(buf[start:], bodyStart)
	n += copy(buf[n:], ms)
	copy(buf[n:], bodyEvents)
	return buf[start:]
}

// takeBody copies a body that was stored into a buffer like those that are built here, and counts its events. ok
// is false if it is not a body of this library's form.
func takeBody(body []byte) (buf []byte, events int, ok bool) {
	digits, found := bytes.CutPrefix(body, []byte(bodyStart))
	rest := bytes.TrimLeft(digits, "0123456789")
	head := len(body) - len(rest) + len(bodyEvents)
	if !found || head > headBytes || len(digits) == len(rest) || !bytes.HasPrefix(rest, []byte(bodyEvents)) || !json.Valid(body) {
		return nil, 0, false
	}
	buf = make([]byte, headBytes-head, headBytes-head+len(body))
	buf = append(buf, body...)
	for at := headBytes; at < len(buf); events++ {
		end := eventEnd(buf, at)
		if buf[at] != '{' || end == len(buf) {
			return nil, 0, false
		}
		if at = end + 1; buf[end] == ']' {
			return buf, events + 1, string(buf[end:]) == bodyEnd
		}
	}
	return nil, 0, false
}

// storedBody is the body of a buffer that takeBody has made, as it was.
func storedBody(buf []byte) []byte { return buf[bytes.IndexByte(buf, '{'):] }

// eventEnd returns where the event ends that begins at buf[at]: at the comma or the bracket behind it. Strings are
// skipped, whatever they hold.
func eventEnd(buf []byte, at int) int {
	depth := 0
	for ; at < len(buf); at++ {
		switch buf[at] {
		case '"':
			for at++; at < len(buf) && buf[at] != '"'; at++ {
				if buf[at] == '\\' {
					at++
				}
			}
		case '{', '[':
			depth++
		case '}':
			depth--
		case ']':
			if depth == 0 {
				return at
			}
			depth--
		case ',':
			if depth == 0 {
				return at
			}
		}
	}
	return len(buf)
}

// cutEvents returns where the first n events from buf[at] on end, or as many of them as have size bytes together,
// but one at least; and how many they are.
func cutEvents(buf []byte, at, n, size int) (end, events int) {
	for next := at; events < n; next = end + 1 {
		after := eventEnd(buf, next)
		if events > 0 && after-at > size {
			break
		}
		end = after
		events++
		if buf[end] != ',' {
			break
		}
	}
	return end, events
}

// rawChannel returns the channel of an encoded event as it is written there. Lanes are chosen by it, so that a
// body that was stored finds the lane that its events had.
func rawChannel(event []byte) []byte {
	const before = `","channel":"`
	at := bytes.Index(event, []byte(before))
	if at < 0 {
		return nil
	}
	channel := event[at+len(before):]
	for i := 0; i < len(channel); i++ {
		switch channel[i] {
		case '\\':
			i++
		case '"':
			return channel[:i]
		}
	}
	return nil
}

// hashChannel is FNV-1a, mixed so that all bits count. It is the same in every process: stored bodies return to the
// lane that they came from. An app that makes its channels collide slows down nobody else.
func hashChannel(channel []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range channel {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	return h ^ h>>33
}
