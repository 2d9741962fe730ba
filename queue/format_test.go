package queue

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// events has one of each type, with all that it may have.
var events = []webhook.Event{
	webhook.ClientEvent("presence-c", "client-x", json.RawMessage(`{"a":[1,"\u0000"]}`), "1.2", "u"),
	webhook.ChannelOccupied("c\x00\xff"), webhook.ChannelVacated("ü"), webhook.MemberAdded("c", "u"), webhook.MemberRemoved("c", "*.>"),
	webhook.CacheMiss("cache-c"), webhook.SubscriptionCount("c", math.MaxInt32),
}

func TestAGroupComesBackAsItWas(t *testing.T) {
	b := appendHead(nil, "node", "0a1b2c3d")
	var want []item
	for i, e := range events {
		e.Node = fmt.Sprint("n", i%2)
		one := item{app: `a.*> `, event: e, after: time.Duration(i-2) * time.Millisecond}
		before := len(b)
		b = appendEvent(b, one.app, &one.event, one.after)
		require.LessOrEqual(t, len(b)-before, eventBytes(one.app, &one.event))
		want = append(want, one)
	}
	setAge(b, 1234*time.Microsecond)
	g, err := decodeGroup(b)
	require.NoError(t, err)
	require.Equal(t, group{node: "node", endpoint: "0a1b2c3d", age: 1234 * time.Microsecond, items: want}, g)
	for n := range b {
		if g, err := decodeGroup(b[:n]); err == nil {
			require.Less(t, len(g.items), len(events), "cut after %d bytes", n)
		}
	}
}

func TestEveryTypeHasACode(t *testing.T) {
	for _, known := range webhook.EventTypes() {
		require.NotZero(t, codeOf(known), known)
	}
	require.Len(t, types, len(webhook.EventTypes()))
}

func TestANewerVersionIsNotPoison(t *testing.T) {
	for name, decode := range map[string]func([]byte) error{
		"group":  func(b []byte) error { _, err := decodeGroup(b); return err },
		"record": func(b []byte) error { _, err := decodeRecord(b); return err },
		"letter": func(b []byte) error { _, _, err := decodeLetter(b); return err },
		"app":    func(b []byte) error { _, _, err := decodeApp(b); return err },
	} {
		require.ErrorIs(t, decode([]byte{version + 1, 'x'}), errNewer, name)
		require.ErrorIs(t, decode([]byte{0, 'x'}), errPoison, name)
		require.ErrorIs(t, decode([]byte{version, 'x'}), errPoison, name)
		require.ErrorIs(t, decode(nil), errPoison, name)
	}
}

func FuzzGroup(f *testing.F) {
	b := appendHead(nil, "node", "")
	for i := range events {
		b = appendEvent(b, "app", &events[i], time.Second)
	}
	f.Add(b)
	f.Add(appendHead(nil, "", "endpoint"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := decodeGroup(b)
		if err != nil {
			require.Empty(t, g.items)
			return
		}
		again := appendHead(nil, g.node, g.endpoint)
		setAge(again, g.age)
		setApps(again, g.apps)
		for i := range g.items {
			again = appendEvent(again, g.items[i].app, &g.items[i].event, g.items[i].after)
		}
		same, err := decodeGroup(again)
		require.NoError(t, err)
		require.Equal(t, g, same)
	})
}

func FuzzRecord(f *testing.F) {
	b, _ := (&record{Stream: "s", Owner: "o", Next: 9, Pend: map[string]position{"e": 5}, Held: []position{3}}).encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := r.encode()
		require.NoError(t, err)
		same, err := decodeRecord(again)
		require.NoError(t, err)
		require.Equal(t, r.floor(), same.floor())
	})
}

func FuzzLetter(f *testing.F) {
	b, _ := encodeLetter(note{App: "a", Endpoint: "e", Reason: "r"}, appendHead(nil, "", ""))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, group, err := decodeLetter(b)
		if err != nil {
			return
		}
		again, err := encodeLetter(n, group)
		require.NoError(t, err)
		same, rest, err := decodeLetter(again)
		require.NoError(t, err)
		require.Equal(t, n, same)
		require.Equal(t, string(group), string(rest))
	})
}

func TestAnAppComesBackWithItsSecrets(t *testing.T) {
	want := webhook.App{ID: `a.*> `, Key: "k", Secret: "s", Webhooks: []webhook.Webhook{{URL: "https://u:p@h.test/?q=1", EventTypes: webhook.EventTypes(),
		Filter: webhook.Filter{ChannelNameStartsWith: "a", ChannelNameEndsWith: "b"}, Headers: map[string]string{"Authorization": "x"}}}}
	b, err := encodeApp(&want)
	require.NoError(t, err)
	got, _, err := decodeApp(b)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// What a delivery's body says is encoded the same again, so a replayed event is the one that was given up.
func TestEventsOfABody(t *testing.T) {
	body := `{"time_ms":1,"events":[{"name":"client_event","channel":"presence-c","event":"e","data":"{\"a\":1}","socket_id":"1.2","user_id":"u"},` +
		`{"name":"subscription_count","channel":"c","subscription_count":0}]}`
	got, err := eventsOf(&webhook.Delivery{Body: []byte(body)})
	require.NoError(t, err)
	require.Equal(t, []webhook.Event{webhook.ClientEvent("presence-c", "e", json.RawMessage(`"{\"a\":1}"`), "1.2", "u"), webhook.SubscriptionCount("c", 0)}, got)
}
