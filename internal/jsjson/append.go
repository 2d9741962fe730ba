package jsjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how many arrays and objects may be inside each other.
const MaxDepth = 64

var (
	errInvalid = errors.New("not valid JSON")
	errTooDeep = fmt.Errorf("nested deeper than %d levels", MaxDepth)
)

// Append appends what JSON.stringify(JSON.parse(src)) gives. It fails if src is not valid JSON or
// nested deeper than MaxDepth; dst then comes back as it was. Whatever src holds, time and memory
// are at most a small multiple of what a flat array of the same size takes.
func Append(dst, src []byte) ([]byte, error) {
	if depth(src) > MaxDepth {
		return dst, errTooDeep
	}
	if !json.Valid(src) {
		return dst, errInvalid
	}
	n := normalizers.Get().(*normalizer)
	dst = n.append(dst, src)
	if len(src) <= maxKept {
		normalizers.Put(n)
	}
	return dst, nil
}

// depth returns how deep src is nested if it is valid, which it need not be.
func depth(src []byte) int {
	level, deepest, quoted := 0, 0, false
	for i := 0; i < len(src); i++ {
		switch c := src[i]; {
		case c == '\\':
			i++ // what is escaped may be a quote
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// A normalizer walks over one valid JSON value and writes it as JavaScript would. It is used again,
// for the memory that it has.
type normalizer struct {
	src []byte
	pos int

	open  []member // of the objects that are being read, the innermost last
	jumps []jump   // in the objects that JavaScript orders otherwise
	text  []byte   // what the jumps lead through

	digits             []byte // of a number
	num, den, quo, rem big.Int
}

// maxKept is the size of the largest source whose normalizer is used again: those of larger ones
// have too much memory to keep.
const maxKept = 1 << 20

var normalizers = sync.Pool{New: func() any { return new(normalizer) }}

func (n *normalizer) append(dst, src []byte) []byte {
	n.src, n.pos, n.jumps = src, 0, n.jumps[:0]
	start := len(dst)
	dst = n.value(dst)
	n.src = nil
	if len(n.jumps) > 0 {
		dst = n.follow(dst, start)
	}
	return dst
}

// next skips white space and returns the byte after it without consuming it.
func (n *normalizer) next() byte {
	for isSpace(n.src[n.pos]) {
		n.pos++
	}
	return n.src[n.pos]
}

func isSpace(b byte) bool {
	return b == ' ' || b == '\t' || b == '\n' || b == '\r'
}

func (n *normalizer) value(dst []byte) []byte {
	switch n.next() {
	case '{':
		return n.object(dst)
	case '[':
		return n.array(dst)
	case '"':
		return n.string(dst)
	case 't', 'n':
		return n.copy(dst, 4)
	case 'f':
		return n.copy(dst, 5)
	}
	return n.number(dst)
}

func (n *normalizer) copy(dst []byte, count int) []byte {
	n.pos += count
	return append(dst, n.src[n.pos-count:n.pos]...)
}

func (n *normalizer) array(dst []byte) []byte {
	n.pos++ // '['
	dst = append(dst, '[')
	for first := true; n.next() != ']'; first = false {
		if !first {
			n.pos++ // ','
			dst = append(dst, ',')
		}
		dst = n.value(dst)
	}
	n.pos++
	return append(dst, ']')
}

// object writes the members as they come, and notes for later how to put them into order.
func (n *normalizer) object(dst []byte) []byte {
	brace, first := len(dst), len(n.open)
	n.pos++ // '{'
	dst = append(dst, '{')
	for n.next() != '}' {
		if len(n.open) > first {
			n.pos++ // ','
			dst = append(dst, ',')
			n.next()
		}
		m := member{start: len(dst)}
		dst = n.string(dst)
		m.colon = len(dst)
		n.next()
		n.pos++ // ':'
		dst = append(dst, ':')
		dst = n.value(dst)
		m.end = len(dst)
		n.open = append(n.open, m)
	}
	n.pos++
	n.arrange(dst, brace, n.open[first:])
	n.open = n.open[:first]
	return append(dst, '}')
}

// string rewrites a JSON string: every escape that is not needed becomes the character itself. A
// lone surrogate has no UTF-8 form and stays an escape, as in JavaScript.
func (n *normalizer) string(dst []byte) []byte {
	n.pos++ // '"'
	dst = append(dst, '"')
	for {
		start := n.pos
		for n.src[n.pos] != '"' && n.src[n.pos] != '\\' {
			n.pos++
		}
		dst = appendChars(dst, n.src[start:n.pos])
		if n.src[n.pos] == '"' {
			n.pos++
			return append(dst, '"')
		}
		dst = n.escape(dst)
	}
}

func (n *normalizer) escape(dst []byte) []byte {
	switch c := n.src[n.pos+1]; c {
	case 'u':
		return n.escapedRune(dst)
	case '/':
		n.pos += 2
		return append(dst, c)
	}
	return n.copy(dst, 2)
}

// escapedRune rewrites a \u escape, or two that are one character.
func (n *normalizer) escapedRune(dst []byte) []byte {
	r := n.hex(n.pos)
	n.pos += 6
	if utf16.IsSurrogate(r) {
		if n.src[n.pos] == '\\' && n.src[n.pos+1] == 'u' {
			if pair := utf16.DecodeRune(r, n.hex(n.pos)); pair != utf8.RuneError {
				n.pos += 6
				return utf8.AppendRune(dst, pair)
			}
		}
		return fmt.Appendf(dst, `\u%04x`, r)
	}
	if r < utf8.RuneSelf {
		return appendEscaped(dst, byte(r))
	}
	return utf8.AppendRune(dst, r)
}

// hex reads the four digits of the \u escape at pos.
func (n *normalizer) hex(pos int) rune {
	r, _ := strconv.ParseUint(string(n.src[pos+2:pos+6]), 16, 16) // valid JSON has digits there
	return rune(r)
}
