package jsjson

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStringsAreWrittenAsJavaScriptDoes(t *testing.T) {
	for in, want := range map[string]string{
		"":                     `""`,
		"plain":                `"plain"`,
		`q"b\s/`:               `"q\"b\\s/"`,
		"<a href='x'>&":        `"<a href='x'>&"`,
		"\b\t\n\f\r":           `"\b\t\n\f\r"`,
		"\x00\x0b\x1f\x7f":     `"\u0000\u000b\u001f` + "\x7f\"",
		"é世🌍":                  `"é世🌍"`,
		"\u2028\u2029":         "\"\u2028\u2029\"",
		"a\xffb\xc3(":          "\"a\uFFFDb\uFFFD(\"",
		"\xed\xa0\x80":         "\"\uFFFD\uFFFD\uFFFD\"", // a surrogate half in UTF-8
		"\uFFFD kept":          "\"\uFFFD kept\"",
		"cut \xe4\xb8":         "\"cut \uFFFD\uFFFD\"",
		"long \U0010FFFF\ttab": "\"long \U0010FFFF\\ttab\"",
	} {
		require.Equal(t, "before"+want, string(AppendString([]byte("before"), in)), "%q", in)
		require.Equal(t, want, string(AppendString(nil, []byte(in))), "%q", in)
	}
}

// allPlain against the table, for every byte at every place.
func TestAllPlain(t *testing.T) {
	for place := range 8 {
		for b := range 256 {
			for _, filler := range []byte{' ', '!', '#', '[', ']', 0x7f, 'a'} {
				s := bytes.Repeat([]byte{filler}, 8)
				s[place] = byte(b)
				require.Equal(t, plain[b], allPlain(load(s, 0)), "%q", s)
			}
		}
	}
}

// A byte that needs an escape is seen at every place of a string of any length.
func TestEscapesAtEveryPlace(t *testing.T) {
	for n := range 40 {
		for i := range n {
			before, after := strings.Repeat("a", i), strings.Repeat("b", n-i-1)
			require.Equal(t, `"`+before+`\n`+after+`"`, string(AppendString(nil, before+"\n"+after)))
		}
	}
}

// A Go receiver reads the same string back, up to what is not UTF-8; and strings and slices are the
// same.
func FuzzString(f *testing.F) {
	f.Add("presence-<&>\u2028\x00\xff")
	f.Fuzz(func(t *testing.T, s string) {
		written := AppendString(nil, s)
		require.Equal(t, string(written), string(AppendString(nil, []byte(s))))
		var got string
		require.NoError(t, json.Unmarshal(written, &got), "%s", written)
		require.Equal(t, string([]rune(s)), got)
		again, err := Append(nil, written)
		require.NoError(t, err)
		require.Equal(t, string(written), string(again))
	})
}

func BenchmarkAppendString(b *testing.B) {
	for name, s := range map[string]string{
		"channel": strings.Clone("presence-room-42"),
		"json":    strings.Repeat(`{"x":123,"y":456} `, 50),
		"text":    strings.Repeat("plain text without escapes, ", 40),
		"utf8":    strings.Repeat("é世🌍 abc ", 80),
	} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 4096)
			b.SetBytes(int64(len(s)))
			for b.Loop() {
				buf = AppendString(buf[:0], s)
			}
		})
	}
}
