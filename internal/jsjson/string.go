// Package jsjson writes JSON byte for byte as JavaScript's JSON.stringify does. Receivers in
// JavaScript parse a webhook's body and serialise it again before they verify its signature, and
// encoding/json differs in what it escapes, in how it writes numbers and in the order of an
// object's members.
package jsjson

import (
	"strings"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// plain marks the bytes that stand for themselves inside a JSON string: ASCII without the control
// characters, the quote and the backslash.
var plain = func() (t [256]bool) {
	for b := 0x20; b < utf8.RuneSelf; b++ {
		t[b] = b != '"' && b != '\\'
	}
	return t
}()

// AppendString appends s as a JSON string, quotes included. Invalid UTF-8 becomes U+FFFD, byte by
// byte, as in a Go range loop.
func AppendString[S []byte | string](dst []byte, s S) []byte {
	dst = append(dst, '"')
	dst = appendChars(dst, s)
	return append(dst, '"')
}

// appendChars appends what stands between the quotes of s as a JSON string.
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

// allPlain reports whether all of eight bytes are plain. Scanning takes most of the time of
// encoding an event, and eight bytes at a time halve it (BenchmarkAppendString). Each test sets the
// high bit of a byte that fails it; a borrow from the byte below may set it too, but only where
// that byte has failed itself.
func allPlain(x uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := x^('"'*ones), x^('\\'*ones)
	return (x|(x-0x20*ones)|(quote-ones)&^quote|(backslash-ones)&^backslash)&high == 0
}

func decodeRune[S []byte | string](s S) (rune, int) {
	// At most UTFMax bytes are converted, which the compiler does without allocating.
	return utf8.DecodeRuneInString(string(s[:min(len(s), utf8.UTFMax)]))
}

// appendEscaped appends an ASCII character, escaped only where it must be.
func appendEscaped(dst []byte, b byte) []byte {
	switch {
	case b == '"' || b == '\\':
		return append(dst, '\\', b)
	case b >= 0x20:
		return append(dst, b)
	}
	if i := strings.IndexByte("\b\t\n\f\r", b); i >= 0 {
		return append(dst, '\\', "btnfr"[i])
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&0xf])
}
