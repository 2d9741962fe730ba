package webhook

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Bodies are written byte for byte as JavaScript's JSON.stringify would write them, because receivers in
// JavaScript parse a body and serialise it again before they verify its signature. encoding/json differs in
// what it escapes, so strings are written here.

const hexDigits = "0123456789abcdef"

// plain marks the bytes that stand for themselves inside a JSON string: ASCII without the control
// characters, the quote and the backslash.
var plain = func() (t [256]bool) {
	for b := 0x20; b < utf8.RuneSelf; b++ {
		t[b] = b != '"' && b != '\\'
	}
	return t
}()

// isPlain reports whether all of s is plain.
func isPlain(s string) bool {
	n := len(s)
	if n < 8 {
		for i := range n {
			if !plain[s[i]] {
				return false
			}
		}
		return true
	}
	for i := 0; i < n-8; i += 8 {
		if !allPlain(load(s, i)) {
			return false
		}
	}
	return allPlain(load(s, n-8)) // the rest, and some of it twice
}

// appendString appends s as a JSON string.
func appendString[S []byte | string](dst []byte, s S) []byte {
	dst = append(dst, '"')
	dst = appendChars(dst, s)
	return append(dst, '"')
}

// appendChars appends what stands between the quotes of s as a JSON string. Invalid UTF-8 becomes U+FFFD, byte by
// byte, as in a Go range loop.
func appendChars[S []byte | string](dst []byte, s S) []byte {
	start, i := 0, 0
	for {
		for i+8 <= len(s) && allPlain(load(s, i)) {
			i += 8
		}
		for i < len(s) && plain[s[i]] {
			i++
		}
		if i == len(s) {
			return append(dst, s[start:]...)
		}
		if s[i] >= utf8.RuneSelf {
			r, n := decodeRune(s[i:])
			if r != utf8.RuneError || n != 1 {
				i += n
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\uFFFD"...)
		} else {
			dst = append(dst, s[start:i]...)
			dst = appendEscaped(dst, s[i])
		}
		i++
		start = i
	}
}

// load reads eight bytes at i; the compiler makes one instruction of it.
func load[S []byte | string](s S, i int) uint64 {
	return uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
		uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
}

// allPlain reports whether all of eight bytes are plain. Scanning takes most of the time of encoding an event,
// and eight bytes at a time halve it (BenchmarkEncode). Each test sets the high bit of a byte that fails it;
// a borrow from the byte below may set it too, but only where that byte has failed itself.
func allPlain(x uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := x^('"'*ones), x^('\\'*ones)
	return (x|(x-0x20*ones)|(quote-ones)&^quote|(backslash-ones)&^backslash)&high == 0
}

func decodeRune[S []byte | string](s S) (rune, int) {
	// At most UTFMax bytes are converted, which the compiler does without allocating.
	return utf8.DecodeRuneInString(string(s[:min(len(s), utf8.UTFMax)]))
}

// appendEscaped appends an ASCII character the way JSON.stringify does: escaped only where it must be.
func appendEscaped(dst []byte, b byte) []byte {
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\b':
		return append(dst, `\b`...)
	case '\t':
		return append(dst, `\t`...)
	case '\n':
		return append(dst, `\n`...)
	case '\f':
		return append(dst, `\f`...)
	case '\r':
		return append(dst, `\r`...)
	}
	if b < 0x20 {
		return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&0xf])
	}
	return append(dst, b)
}

// appendJSON appends what JSON.stringify(JSON.parse(src)) gives. src must be valid JSON.
func appendJSON(dst, src []byte) []byte {
	n := normalizer{src: src}
	return n.value(dst)
}

// A normalizer walks over one valid JSON value and writes it as JavaScript would.
type normalizer struct {
	src []byte
	pos int
}

// next skips white space and returns the byte after it without consuming it.
func (n *normalizer) next() byte {
	for isSpace(n.src[n.pos]) {
		n.pos++
	}
	return n.src[n.pos]
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

// A member is a name and a value of an object, already written: dst[start:end], the name up to colon.
type member struct {
	start, colon, end int
}

func (n *normalizer) object(dst []byte) []byte {
	n.pos++ // '{'
	dst = append(dst, '{')
	first := len(dst)
	var members []member
	for n.next() != '}' {
		if len(members) > 0 {
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
		members = append(members, m)
	}
	n.pos++
	dst = reorder(dst, first, members)
	return append(dst, '}')
}

// reorder puts the members written from first on into the order in which JavaScript enumerates them: names
// that are array indices by number, then the others as they came. Of equal names the last value counts, at
// the place of the first.
func reorder(dst []byte, first int, members []member) []byte {
	seen := make(map[string]int, len(members))
	kept := make([]member, 0, len(members))
	ordered := true
	for _, m := range members {
		name := string(dst[m.start:m.colon])
		if i, dup := seen[name]; dup {
			kept[i], ordered = m, false
			continue
		}
		if _, index := arrayIndex(name); index {
			ordered = false
		}
		seen[name] = len(kept)
		kept = append(kept, m)
	}
	if ordered {
		return dst
	}
	slices.SortStableFunc(kept, func(a, b member) int {
		x, xIndex := arrayIndex(string(dst[a.start:a.colon]))
		y, yIndex := arrayIndex(string(dst[b.start:b.colon]))
		switch {
		case xIndex && yIndex:
			return cmp.Compare(x, y)
		case xIndex:
			return -1
		case yIndex:
			return 1
		}
		return 0
	})
	written := bytes.Clone(dst)
	dst = dst[:first]
	for i, m := range kept {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, written[m.start:m.end]...)
	}
	return dst
}

// arrayIndex reports whether a quoted name is a canonical array index: 0 to 2^32-2, without leading zeros.
func arrayIndex(quoted string) (uint32, bool) {
	digits := quoted[1 : len(quoted)-1]
	i, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || i == math.MaxUint32 || (len(digits) > 1 && digits[0] == '0') {
		return 0, false
	}
	return uint32(i), true
}

// number writes a number as JavaScript does: the shortest form that reads back as the same float64, with an
// exponent below 1e-6 and from 1e21 on. -0 is 0, and what is too large for a float64 is null.
func (n *normalizer) number(dst []byte) []byte {
	start := n.pos
	for n.pos < len(n.src) && isNumber(n.src[n.pos]) {
		n.pos++
	}
	f, err := strconv.ParseFloat(string(n.src[start:n.pos]), 64)
	if err != nil {
		return append(dst, "null"...)
	}
	if f == 0 {
		return append(dst, '0')
	}
	if abs := math.Abs(f); abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	at := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if e := at + bytes.IndexByte(dst[at:], 'e'); dst[e+2] == '0' { // Go pads the exponent to two digits
		dst = slices.Delete(dst, e+2, e+3)
	}
	return dst
}

func isNumber(b byte) bool {
	return b >= '0' && b <= '9' || b == '-' || b == '+' || b == '.' || b == 'e' || b == 'E'
}

// string rewrites a JSON string: every escape that is not needed becomes the character itself. A lone
// surrogate has no UTF-8 form and stays an escape, as in JavaScript.
func (n *normalizer) string(dst []byte) []byte {
	n.pos++ // '"'
	dst = append(dst, '"')
	for {
		start := n.pos
		for plain[n.src[n.pos]] {
			n.pos++
		}
		dst = append(dst, n.src[start:n.pos]...)
		switch b := n.src[n.pos]; {
		case b == '"':
			n.pos++
			return append(dst, '"')
		case b == '\\':
			dst = n.escape(dst)
		default: // valid JSON holds no control characters, so this is UTF-8 or a broken byte
			r, size := utf8.DecodeRune(n.src[n.pos:])
			n.pos += size
			dst = utf8.AppendRune(dst, r)
		}
	}
}

func (n *normalizer) escape(dst []byte) []byte {
	c := n.src[n.pos+1]
	if c != 'u' {
		n.pos += 2
		return appendEscaped(dst, unescape(c))
	}
	r := n.hex(n.pos)
	n.pos += 6
	if utf16.IsSurrogate(r) {
		if n.src[n.pos] == '\\' && n.src[n.pos+1] == 'u' {
			if pair := utf16.DecodeRune(r, n.hex(n.pos)); pair != utf8.RuneError {
				n.pos += 6
				return utf8.AppendRune(dst, pair)
			}
		}
		return append(dst, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&0xf], hexDigits[r>>4&0xf], hexDigits[r&0xf])
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

// unescape gives the character of a one-letter escape.
func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 't':
		return '\t'
	case 'n':
		return '\n'
	case 'f':
		return '\f'
	case 'r':
		return '\r'
	}
	return c // the quote, the backslash, the slash
}

func isSpace(b byte) bool {
	return b == ' ' || b == '\t' || b == '\n' || b == '\r'
}

func trimSpace(b []byte) []byte {
	return bytes.Trim(b, " \t\r\n")
}
