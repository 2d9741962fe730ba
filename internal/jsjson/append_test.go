package jsjson

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func normalize(t *testing.T, src string) string {
	t.Helper()
	got, err := Append(nil, []byte(src))
	require.NoError(t, err, "%s", src)
	return string(got)
}

func TestAppend(t *testing.T) {
	for src, want := range map[string]string{
		`null`:   `null`,
		`-0`:     `0`,
		`"text"`: `"text"`,
		" [ 1 , true , false , { } , [ ] ]\r\n\t ":            `[1,true,false,{},[]]`,
		`"\u0041\/\u00e9\ud83c\udf0d\u001F\u2028"`:            "\"A/é🌍\\u001f\u2028\"",
		`"\"\\\b\f\n\r\t\u0022\u005c\u0008\u000a\u000b/"`:     `"\"\\\b\f\n\r\t\"\\\b\n\u000b/"`,
		`"\ud800 \uDC00\ud800A"`:                              `"\ud800 \udc00\ud800A"`,
		`"\ud800\u0041\ud800\ud83c\udf0d\udc00"`:              `"\ud800A\ud800🌍\udc00"`,
		"\"\xff\xe4\xb8\\n\xc3\"":                             "\"\uFFFD\uFFFD\uFFFD\\n\uFFFD\"",
		`[1.0,-0,1e3,1E400,-1e400,1e-7,0.000001,1e21]`:        `[1,0,1000,null,null,1e-7,0.000001,1e+21]`,
		`[123456789012345678901,-5e-324,1e-400]`:              `[123456789012345680000,-5e-324,0]`,
		`{"b":1, "a" : 2, "b":3}`:                             `{"b":3,"a":2}`,
		`{"a":1,"\u0061":2,"\ud800":3,"\uD800":4}`:            `{"a":2,"\ud800":4}`,
		`{"__proto__":1,"b":2,"__proto__":{"c":3}}`:           `{"__proto__":{"c":3},"b":2}`,
		`{"z":1,"10":2,"2":3,"01":4,"4294967295":5}`:          `{"2":3,"10":2,"z":1,"01":4,"4294967295":5}`,
		`{"-1":1,"1.5":2,"":3,"4294967294":4,"0":5}`:          `{"0":5,"4294967294":4,"-1":1,"1.5":2,"":3}`,
		`{"b":{"1":0,"0":[{"1":2,"0":3}]},"0":{"b":0,"b":1}}`: `{"0":{"b":1},"b":{"0":[{"0":3,"1":2}],"1":0}}`,
		`{"a":{"1":0,"0":0},"a":{"3":{"5":0,"4":0},"2":0}}`:   `{"a":{"2":0,"3":{"4":0,"5":0}}}`,
		`[{"1":0,"0":{}},{"a":{"1":0,"0":0},"a":{}},{"a":0}]`: `[{"0":{},"1":0},{"a":{}},{"a":0}]`,
	} {
		require.Equal(t, want, normalize(t, src), "%s", src)
	}
}

func nested(start, inner, end string, depth int) string {
	return strings.Repeat(start, depth) + inner + strings.Repeat(end, depth)
}

// What fails leaves dst as it was.
func TestAppendErrors(t *testing.T) {
	for src, want := range map[string]error{
		``:                                       errInvalid,
		`{"a":}`:                                 errInvalid,
		`"open`:                                  errInvalid,
		`"\`:                                     errInvalid,
		`1 2`:                                    errInvalid,
		`]]]`:                                    errInvalid,
		nested(`[`, ``, `]`, MaxDepth+1):         errTooDeep,
		nested(`{"a":`, `[]`, `}`, MaxDepth):     errTooDeep,
		nested(`["\\",`, `"]"`, `]`, MaxDepth+1): errTooDeep,
		nested(`[`, ``, ``, 1_000_000):           errTooDeep,
	} {
		dst := make([]byte, 0, 100)
		got, err := Append(append(dst, "before"...), []byte(src))
		require.ErrorIs(t, err, want)
		require.Equal(t, "before", string(got))
		require.Equal(t, make([]byte, 94), got[6:100])
	}
}

func TestAppendTakesMaxDepth(t *testing.T) {
	for _, src := range []string{
		nested(`[`, ``, `]`, MaxDepth),
		nested(`{"a":`, `"[[{{\"[["`, `}`, MaxDepth),
		`[` + strings.Repeat(`[],{},`, MaxDepth) + `"` + strings.Repeat(`[`, MaxDepth) + `"]`,
	} {
		require.Equal(t, src, normalize(t, src))
	}
}

// Calls reuse memory, of each other and of the caller.
func TestAppendReusesMemory(t *testing.T) {
	first, second := `{"b":[{"1":0,"0":"x"}],"a":1,"b":[{"1":0,"0":"y"}]}`, `{"9":{"1":0,"0":1},"8":2.5}`
	both, err := Append([]byte("before"), []byte(first))
	require.NoError(t, err)
	both, err = Append(both, []byte(second))
	require.NoError(t, err)
	require.Equal(t, `before{"b":[{"0":"y","1":0}],"a":1}{"8":2.5,"9":{"0":1,"1":0}}`, string(both))
}

// Normalising keeps the meaning, and a second pass changes nothing.
func FuzzAppend(f *testing.F) {
	f.Add([]byte(` {"b" : [1.50, -0, 1e999], "10":"\ud83c\udf0d", "9" : null, "b":true} `))
	f.Add([]byte(`"\ud800\u0000\/"`))
	f.Add([]byte(`{"a":{"1":{"3":5e-324,"2":0},"0":[{"":1,"":{"1":0,"0":0}}]},"a":{"1":0,"0":0}}`))
	f.Add([]byte(nested(`{"1":[`, `12345678901234567890.5e-310`, `],"0":0}`, MaxDepth/2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := Append([]byte("before"), data)
		if depth(data) > MaxDepth || !json.Valid(data) {
			require.Error(t, err)
			require.Equal(t, "before", string(once))
			return
		}
		require.NoError(t, err)
		once, found := bytes.CutPrefix(once, []byte("before"))
		require.True(t, found)
		require.True(t, json.Valid(once), "%s", once)
		require.Equal(t, string(once), normalize(t, string(once)))
		if bytes.Contains(bytes.ToLower(data), []byte(`\ud`)) {
			return // Go reads every lone surrogate as U+FFFD, and so takes different names for the same
		}
		var before, after any
		if json.Unmarshal(data, &before) == nil { // or a number is out of range, which became null
			require.NoError(t, json.Unmarshal(once, &after))
			require.Equal(t, before, after)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for name, src := range map[string]string{
		"event": `{"x":123,"y":456.5,"user":{"id":"abc","name":"Zoë \"Z\""},"tags":["a","b"],"ok":true}`,
		"flat":  array(costSize, `1`),
		"jumps": array(costSize, `{"1":0,"0":0}`),
	} {
		b.Run(name, func(b *testing.B) {
			src, buf := []byte(src), make([]byte, 0, 2*costSize)
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = Append(buf[:0], src)
			}
		})
	}
}
