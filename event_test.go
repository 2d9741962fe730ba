package webhook

import (
	"bytes"
	"encoding/json"
	"math"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func encode(t *testing.T, e Event, as ClientData) string {
	t.Helper()
	require.NoError(t, e.validate(e.Type.set()))
	b, err := e.encode(nil, e.Type.set(), as)
	require.NoError(t, err)
	return string(b)
}

func TestEventJSON(t *testing.T) {
	data := json.RawMessage(`{"a": 1}`)
	for _, test := range []struct {
		event Event
		want  string
	}{
		{ChannelOccupied("room"), `{"name":"channel_occupied","channel":"room"}`},
		{ChannelVacated("room"), `{"name":"channel_vacated","channel":"room"}`},
		{MemberAdded("presence-room", "7"), `{"name":"member_added","channel":"presence-room","user_id":"7"}`},
		{MemberRemoved("presence-room", "7"), `{"name":"member_removed","channel":"presence-room","user_id":"7"}`},
		{CacheMiss("cache-room"), `{"name":"cache_miss","channel":"cache-room"}`},
		{SubscriptionCount("room", 0), `{"name":"subscription_count","channel":"room","subscription_count":0}`},
		{
			ClientEvent("presence-room", "client-move", data, "1.2", "7"),
			`{"name":"client_event","channel":"presence-room","event":"client-move","data":"{\"a\": 1}","socket_id":"1.2","user_id":"7"}`,
		},
		{ // a user id goes out on presence channels only
			ClientEvent("private-room", "client-move", data, "1.2", "7"),
			`{"name":"client_event","channel":"private-room","event":"client-move","data":"{\"a\": 1}","socket_id":"1.2"}`,
		},
		{ClientEvent("private-room", "client-hi", nil, "", ""), `{"name":"client_event","channel":"private-room","event":"client-hi"}`},
	} {
		require.Equal(t, test.want, encode(t, test.event, DataString))
	}
}

// Where an event was seen is for the servers of a fleet, and in no JSON.
func TestNodeStaysHere(t *testing.T) {
	e := SubscriptionCount("room", 1)
	want := encode(t, e, DataString)
	e.Node = "node-1"
	require.Equal(t, want, encode(t, e, DataString))
	marshalled, err := json.Marshal(e)
	require.NoError(t, err)
	require.NotContains(t, string(marshalled), "ode")
}

func TestClientData(t *testing.T) {
	for _, test := range []struct {
		data, asString, raw string
	}{
		{`{"a":1}`, `"{\"a\":1}"`, `{"a":1}`},
		{`"text"`, `"text"`, `"text"`},
		{` "text" `, `"text"`, `"text"`},
		{`"\u0041\/\u00e9\ud83c\udf0d\u001F\u2028"`, "\"A/é🌍\\u001f\u2028\"", "\"A/é🌍\\u001f\u2028\""},
		{`"\ud800 \uDC00\ud800A"`, `"\ud800 \udc00\ud800A"`, `"\ud800 \udc00\ud800A"`},
		{`"\ud800\u0041"`, `"\ud800A"`, `"\ud800A"`},
		{`null`, `"null"`, `null`},
		{` [ 1 , true , false , { } , [ ] ] `, `" [ 1 , true , false , { } , [ ] ] "`, `[1,true,false,{},[]]`},
		{`{"b":1, "a" : 2, "b":3}`, `"{\"b\":1, \"a\" : 2, \"b\":3}"`, `{"b":3,"a":2}`},
		{`{"z":1,"10":2,"2":3,"01":4,"4294967295":5}`, `"{\"z\":1,\"10\":2,\"2\":3,\"01\":4,\"4294967295\":5}"`,
			`{"2":3,"10":2,"z":1,"01":4,"4294967295":5}`},
		{`[1.0,-0,1e3,1E400,-1e400,1e-7,0.000001,1e21,123456789012345678901,5e-324,1e-400]`,
			`"[1.0,-0,1e3,1E400,-1e400,1e-7,0.000001,1e21,123456789012345678901,5e-324,1e-400]"`,
			`[1,0,1000,null,null,1e-7,0.000001,1e+21,123456789012345680000,5e-324,0]`},
		{`not json`, `"not json"`, ``},
		{`"open`, `"\"open"`, ``},
	} {
		e := ClientEvent("private-a", "client-b", json.RawMessage(test.data), "", "")
		const before, after = `{"name":"client_event","channel":"private-a","event":"client-b","data":`, `}`
		require.Equal(t, before+test.asString+after, encode(t, e, DataString))
		if test.raw != "" {
			require.Equal(t, before+test.raw+after, encode(t, e, DataRaw))
			continue
		}
		_, err := e.encode(nil, e.Type.set(), DataRaw)
		require.ErrorIs(t, err, ErrInvalidEvent)
		require.ErrorContains(t, err, "data:")
	}
}

func TestInvalidEventsNameTheField(t *testing.T) {
	for field, e := range map[string]Event{
		"channel":            ChannelOccupied(""),
		"user_id":            MemberAdded("presence-a", ""),
		"event":              ClientEvent("private-a", "", nil, "", ""),
		"subscription_count": SubscriptionCount("a", -1),
		"type":               {Type: "channel_created", Channel: "a"},
	} {
		err := e.validate(e.Type.set())
		require.ErrorIs(t, err, ErrInvalidEvent)
		require.ErrorContains(t, err, "invalid event: "+field+":")
	}
}

// A receiver in JavaScript holds counts up to 2^53: a larger one it would write differently, and find the signature wrong.
func TestLargestCount(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("no int is so large")
	}
	e := SubscriptionCount("a", math.MaxInt)
	require.EqualError(t, e.validate(subscriptionCount), "webhook: invalid event: subscription_count: must be at most 9007199254740992, got 9223372036854775807")
	e.SubscriptionCount = e.SubscriptionCount>>10 + 2 // 2^53 + 1
	require.Error(t, e.validate(subscriptionCount))
	e.SubscriptionCount--
	require.Equal(t, `{"name":"subscription_count","channel":"a","subscription_count":9007199254740992}`, encode(t, e, DataString))
}

// fuzzEvent builds a valid event of any type out of whatever the fuzzer has.
func fuzzEvent(kind uint8, channel, name, data, socket, user string) Event {
	return Event{
		Type: eventTypes[int(kind)%len(eventTypes)], Channel: "c" + channel, Event: "e" + name, Data: json.RawMessage(data),
		SocketID: socket, UserID: "u" + user, SubscriptionCount: len(data),
	}
}

// Whatever the strings hold, a Go receiver reads the same strings back, up to what is not UTF-8.
func FuzzEventRoundTrip(f *testing.F) {
	f.Add(uint8(0), "presence-<&>", "client-\u2028", "{\"a\":\"\x00\"}", "1.2", "\xff")
	f.Add(uint8(3), "presence-é🌍", "", "", "", "\x7f\\\"")
	f.Fuzz(func(t *testing.T, kind uint8, channel, name, data, socket, user string) {
		e := fuzzEvent(kind, channel, name, data, socket, user)
		body, err := e.encode(nil, e.Type.set(), DataString)
		require.NoError(t, err)
		var got struct {
			Channel string `json:"channel"`
			Event   string `json:"event"`
			Data    string `json:"data"`
			User    string `json:"user_id"`
		}
		require.NoError(t, json.Unmarshal(body, &got), "%s", body)
		require.Equal(t, string([]rune(e.Channel)), got.Channel)
		if e.Type == TypeClientEvent {
			require.Equal(t, string([]rune(e.Event)), got.Event)
			want := string([]rune(data))
			if s := bytes.TrimSpace(e.Data); json.Valid(s) && s[0] == '"' {
				require.NoError(t, json.Unmarshal(s, &want))
			}
			require.Equal(t, want, got.Data)
		}
	})
}

// Promise 7: JSON.stringify(JSON.parse(body)) is the body, asked of a real JavaScript engine.
func TestBodiesSurviveJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node here")
	}
	strs := []string{"plain", "<a>&'\"\\/", "\x00\b\t\n\f\r\x1f\x7f\u0080", "\u2028\u2029\ufeff", "é世🌍\U0010FFFF", "\xff\xc3("}
	datas := []string{
		`{"a":1}`, `"\ud800x\udc00"`, `{"__proto__":1,"10":1,"9":2,"a":{"b":[ ]},"a":3}`, `[1.10,1e3,-0,1e999,1e-7,0.1e-6]`,
		`[123456789012345678,1e20,1e21,1.7976931348623157e308,5e-324,4.35,0.000001234]`, `"\/\u003c\u2028\u001F"`,
		"\"\xff\"", ` { "x" : "\"" } `, `{"4294967294":1,"4294967295":2,"-1":3,"1.5":4,"007":5,"0":6,"":7}`,
		`[` + strings.Repeat(`{"k":`, 50) + `null` + strings.Repeat(`}`, 50) + `]`,
	}
	var bodies bytes.Buffer
	lines := 0
	for kind := range eventTypes {
		for _, s := range strs {
			for _, data := range datas {
				for _, as := range []ClientData{DataString, DataRaw} {
					e := fuzzEvent(uint8(kind), s, s, data, s, s)
					bodies.WriteString(encode(t, e, as) + "\n")
					lines++
				}
			}
		}
	}
	cmd := exec.Command(node, "-e", `
		const lines = require('fs').readFileSync(0, 'utf8').split('\n').slice(0, -1);
		for (const line of lines) {
			const again = JSON.stringify(JSON.parse(line));
			if (again !== line) { console.log(line + '\n' + again); process.exit(1); }
		}
		console.log(lines.length);`)
	cmd.Stdin = &bodies
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var got int
	require.NoError(t, json.Unmarshal(out, &got))
	require.Equal(t, lines, got)
}

func BenchmarkEncode(b *testing.B) {
	for name, e := range map[string]Event{
		"member_added": MemberAdded(strings.Clone("presence-room-42"), strings.Clone("user-4711")),
		"client_event": ClientEvent("private-room", "client-move", bytes.Repeat([]byte(`{"x":123,"y":456} `), 50), "123.456", ""),
	} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 4096)
			for b.Loop() {
				buf, _ = e.encode(buf[:0], e.Type.set(), DataString)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}
