package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// built returns a body as a lane builds it, of events with these channels.
func built(t testing.TB, channels ...string) []byte {
	buf := make([]byte, headBytes)
	for i, channel := range channels {
		if i > 0 {
			buf = append(buf, ',')
		}
		e := ClientEvent(channel, "client-a", []byte(`{"a":[1,"}],{"]}`), "", "")
		var err error
		buf, err = e.encode(buf, clientEvent, DataRaw)
		require.NoError(t, err)
	}
	return append(buf, bodyEnd...)
}

func TestStampIsRightAligned(t *testing.T) {
	for ms, want := range map[int64]string{
		1_700_000_000_000: `{"time_ms":1700000000000,"events":[`, 946_684_800_000: `{"time_ms":946684800000,"events":[`,
		0: `{"time_ms":0,"events":[`, -1: `{"time_ms":0,"events":[`, 99_999_999_999_999: `{"time_ms":9999999999999,"events":[`,
	} {
		body := stamp(built(t, "room"), time.UnixMilli(ms))
		require.True(t, strings.HasPrefix(string(body), want+`{"name"`), "%s", body)
		require.True(t, json.Valid(body))
	}
}

// However a body is cut, the parts are all of its events, in order.
func TestCutEvents(t *testing.T) {
	names := []string{"a", `q"\,]}`, "{[", "", "é\u2028", "long " + strings.Repeat("x", 300)}
	buf := built(t, names...)
	for n := 1; n <= len(names); n++ {
		for size := 0; size < len(buf)+100; size += 50 {
			var parts []string
			for at, left := headBytes, len(names); left > 0; {
				end, events := cutEvents(buf, at, min(n, left), size)
				require.True(t, events == 1 || events <= n && end-at <= size, "%d events, %d bytes", events, end-at)
				parts = append(parts, string(buf[at:end]))
				at, left = end+1, left-events
			}
			require.Equal(t, string(buf[headBytes:]), strings.Join(parts, ",")+bodyEnd)
		}
	}
}

func TestTakeBody(t *testing.T) {
	good := stamp(built(t, "a", "b"), time.UnixMilli(1_700_000_000_000))
	buf, events, ok := takeBody(good)
	require.True(t, ok)
	require.Equal(t, 2, events)
	require.Equal(t, string(good), string(storedBody(buf)))
	require.Equal(t, string(good), string(stamp(buf, time.UnixMilli(1_700_000_000_000))))
	for _, bad := range []string{
		"", "{}", `{"time_ms":1,"events":[]}`, `{"time_ms":1,"events":[1]}`, `{"time_ms":1,"events":[{}]} `, `{"time_ms":,"events":[{}]}`,
		`{"time_ms":1,"events":[{},]}`, `{"time_ms":1,"events":[{}],"x":1}`, `{"time_ms":12345678901234,"events":[{}]}`,
		`{"time_ms": 1,"events":[{}]}`, `{"events":[{}],"time_ms":1}`, `{"time_ms":1,"events":[{}}`, `{"time_ms":1,"events":[{"a":"}]}`,
	} {
		_, _, ok := takeBody([]byte(bad))
		require.False(t, ok, bad)
	}
}

// A body that is taken is what json.Unmarshal says it is.
func FuzzTakeBody(f *testing.F) {
	f.Add([]byte(`{"time_ms":1,"events":[{"name":"a","channel":"b"},{"x":[{},"\"]"]}]}`))
	f.Add(stamp(built(f, "a", "b\\"), time.UnixMilli(1)))
	f.Fuzz(func(t *testing.T, body []byte) {
		buf, events, ok := takeBody(body)
		if !ok {
			return
		}
		var got struct {
			Events []json.RawMessage `json:"events"`
		}
		require.NoError(t, json.Unmarshal(body, &got))
		require.Len(t, got.Events, events)
		require.True(t, bytes.Equal(body, storedBody(buf)))
		at := headBytes
		for _, event := range got.Events {
			end := eventEnd(buf, at)
			require.Equal(t, string(event), string(buf[at:end]))
			at = end + 1
		}
	})
}

// Lanes are by a fixed hash: stored bodies return to the lane they came from, in every process.
func TestChannelHashIsTheSameInEveryProcess(t *testing.T) {
	require.EqualValues(t, uint64(0xecba3df2c3383c52), hashChannel(nil))
	require.EqualValues(t, uint64(0x82fc2610e9622fb5), hashChannel([]byte("presence-room")))
	lanes := map[uint64]int{}
	for i := range 1000 {
		lanes[hashChannel(fmt.Appendf(nil, "chat-%d-%d", i, i))%16]++
	}
	for lane, n := range lanes {
		require.Less(t, n, 100, "of lane %d: about 62", lane)
	}
}

// The channel is read from the encoded event as it was written there, whatever it holds.
func TestRawChannel(t *testing.T) {
	for _, channel := range []string{"room", `a"b\`, "\xff", "presence-é", `x","channel":"y`} {
		for _, t2 := range eventTypes {
			e := Event{Type: t2, Channel: channel, Event: `","channel":"no`, UserID: "u"}
			event, err := e.encode(nil, t2.set(), DataString)
			require.NoError(t, err)
			var got string
			require.NoError(t, json.Unmarshal([]byte(`"`+string(rawChannel(event))+`"`), &got))
			require.Equal(t, strings.ToValidUTF8(channel, "\uFFFD"), got)
		}
	}
}
