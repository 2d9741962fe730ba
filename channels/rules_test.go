package channels_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// What is told, and what the server answers its clients from, step by step.
func TestRules(t *testing.T) {
	type c = channels.Change
	counts := func(subscribers, members int) channels.Counts {
		return channels.Counts{Subscribers: subscribers, Members: members}
	}
	for _, kind := range []struct{ name, prefix string }{
		{"public", ""}, {"private", "private-"}, {"encrypted", "private-encrypted-"}, {"cache", "cache-"},
		{"private cache", "private-cache-"}, {"encrypted cache", "private-encrypted-cache-"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			out := &recorder{}
			tracker := channels.New(out, channels.Options{})
			one, two := connect(t, tracker, "app", "1.1"), connect(t, tracker, "app", "1.2")
			name := kind.prefix + "a"
			require.Equal(t, c{Channel: name, First: true, Counts: counts(1, 0)}, subscribe(t, one, name, ""))
			require.Equal(t, []string{"channel_occupied " + name, "subscription_count " + name + " 1"}, out.told("app"))
			require.Equal(t, c{Channel: name, Counts: counts(2, 0)}, subscribe(t, two, name, "a member is ignored"))
			require.Equal(t, []string{"subscription_count " + name + " 2"}, out.told("app"))
			require.Equal(t, c{Channel: name, Counts: counts(1, 0)}, unsubscribe(t, one, name))
			require.Equal(t, []string{"subscription_count " + name + " 1"}, out.told("app"))
			require.Equal(t, []c{{Channel: name, Last: true}}, two.Leave())
			require.Equal(t, []string{"subscription_count " + name + " 0", "channel_vacated " + name}, out.told("app"))
		})
	}
	for _, name := range []string{"presence-a", "presence-cache-a"} {
		t.Run(name, func(t *testing.T) {
			out := &recorder{}
			tracker := channels.New(out, channels.Options{})
			ada, tab, bob := connect(t, tracker, "app", "1.1"), connect(t, tracker, "app", "1.2"), connect(t, tracker, "app", "1.3")
			require.Equal(t, c{Channel: name, UserID: "ada", First: true, Member: true, Counts: counts(1, 1)}, subscribe(t, ada, name, "ada"))
			require.Equal(t, []string{"channel_occupied " + name, "member_added " + name + " ada"}, out.told("app"))
			require.Equal(t, c{Channel: name, UserID: "ada", Counts: counts(2, 1)}, subscribe(t, tab, name, "ada"))
			require.Empty(t, out.told("app"), "a second socket of the same user")
			require.Equal(t, c{Channel: name, UserID: "bob", Member: true, Counts: counts(3, 2)}, subscribe(t, bob, name, "bob"))
			require.Equal(t, []string{"member_added " + name + " bob"}, out.told("app"))
			require.Equal(t, c{Channel: name, UserID: "ada", Counts: counts(2, 2)}, unsubscribe(t, ada, name))
			require.Empty(t, out.told("app"), "ada has a socket there still")
			require.Equal(t, []c{{Channel: name, UserID: "ada", Member: true, Counts: counts(1, 1)}}, tab.Leave())
			require.Equal(t, []string{"member_removed " + name + " ada"}, out.told("app"))
			require.Equal(t, []c{{Channel: name, UserID: "bob", Member: true, Last: true}}, bob.Leave())
			require.Equal(t, []string{"member_removed " + name + " bob", "channel_vacated " + name}, out.told("app"))
		})
	}
}

func TestClientEvents(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	s := connect(t, tracker, "app", "1.1")
	for name, allowed := range map[string]bool{
		"private-a": true, "presence-a": true, "private-cache-a": true, "presence-cache-a": true, "private-cache-encrypted-a": true,
		"a": false, "cache-a": false, "private-encrypted-a": false, "private-encrypted-cache-a": false, "privateer": false,
	} {
		require.Equal(t, map[bool]error{true: channels.ErrNotSubscribed, false: channels.ErrNotAllowed}[allowed],
			s.ClientEvent(name, "client-x", nil), name)
		subscribe(t, s, name, "ada")
		out.told("app")
		if !allowed {
			require.Equal(t, channels.ErrNotAllowed, s.ClientEvent(name, "client-x", nil), name)
			require.Empty(t, out.told("app"))
			continue
		}
		require.NoError(t, s.ClientEvent(name, "client-x", json.RawMessage(`{"n":1}`)), name)
		user := map[bool]string{true: "ada"}[name[:3] == "pre"]
		require.Equal(t, []string{"client_event " + name + ` client-x {"n":1} 1.1 ` + user}, out.told("app"))
	}
	require.Equal(t, channels.ErrNotAllowed, s.ClientEvent("private-a", "x", nil), "a name that clients may not use")
	out.unwanted = true
	require.NoError(t, s.ClientEvent("private-a", "client-x", nil))
	require.Empty(t, out.told("app"), "nobody wants it")
	s.Leave()
	require.Equal(t, channels.ErrGone, s.ClientEvent("private-a", "client-x", nil))
}

// An event that has to wait must not change with its caller's buffer.
func TestClientEventsAreCopied(t *testing.T) {
	entered, goOn := make(chan bool), make(chan bool)
	out := &recorder{before: func(_ string, e webhook.Event) error {
		if e.Event == "client-slow" {
			entered <- true
			<-goOn
		}
		return nil
	}}
	tracker := channels.New(out, channels.Options{})
	s := connect(t, tracker, "app", "1.1")
	subscribe(t, s, "private-a", "")
	out.told("app")
	slow := make(chan error)
	go func() { slow <- s.ClientEvent("private-a", "client-slow", nil) }()
	receive(t, entered)
	data := []byte(`"old"`)
	require.NoError(t, s.ClientEvent("private-a", "client-x", data))
	copy(data, `"new"`)
	close(goOn)
	require.NoError(t, receive(t, slow))
	require.Equal(t, []string{"client_event private-a client-slow  1.1 ", `client_event private-a client-x "old" 1.1 `}, out.told("app"))
}

func TestCacheMiss(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	tracker.CacheMiss("app", "cache-a") // no such app
	s := connect(t, tracker, "app", "1.1")
	for name, cached := range map[string]bool{
		"cache-a": true, "private-cache-a": true, "private-encrypted-cache-a": true, "presence-cache-a": true,
		"a": false, "private-a": false, "presence-a": false, "a-cache-a": false, "encrypted-cache-a": false,
	} {
		tracker.CacheMiss("app", name)
		require.Empty(t, out.told("app"), "%s is vacant", name)
		subscribe(t, s, name, "ada")
		out.told("app")
		tracker.CacheMiss("app", name)
		require.Equal(t, map[bool][]string{true: {"cache_miss " + name}, false: {}}[cached], out.told("app"))
	}
}

func TestErrors(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	s := connect(t, tracker, "app", "1.1")
	require.Equal(t, "1.1", s.ID())
	for _, test := range []struct {
		name string
		do   func() error
		want error
	}{
		{"an id that is live", func() error { _, err := tracker.Connect("app", "1.1"); return err }, channels.ErrConnected},
		{"not on the channel", func() error { _, err := s.Unsubscribe("a"); return err }, channels.ErrNotSubscribed},
		{"on the channel", func() error { subscribe(t, s, "a", ""); _, err := s.Subscribe("a", channels.Member{}); return err }, channels.ErrSubscribed},
		{"no name", func() error { _, err := s.Subscribe("", channels.Member{}); return err }, webhook.ErrInvalidEvent},
		{"no user", func() error { _, err := s.Subscribe("presence-a", channels.Member{}); return err }, webhook.ErrInvalidEvent},
		{"subscribe when gone", func() error { s.Leave(); _, err := s.Subscribe("b", channels.Member{}); return err }, channels.ErrGone},
		{"unsubscribe when gone", func() error { _, err := s.Unsubscribe("a"); return err }, channels.ErrGone},
	} {
		t.Run(test.name, func(t *testing.T) { require.ErrorIs(t, test.do(), test.want) })
	}
	_, err := tracker.Connect("", "1.1")
	require.EqualError(t, err, "channels: app id: must not be empty")
	_, err = tracker.Connect("app", "")
	require.EqualError(t, err, "channels: socket id: must not be empty")
	require.Nil(t, s.Leave(), "a second time")
	require.Equal(t, []string{"channel_occupied a", "subscription_count a 1", "subscription_count a 0", "channel_vacated a"}, out.told("app"))
	connect(t, tracker, "app", "1.1") // the id is free
	connect(t, tracker, "other", "1.1")
}

// A socket leaves in the order in which it joined.
func TestLeaveKeepsTheOrderOfJoining(t *testing.T) {
	for _, many := range []int{3, 100} { // without and with an index
		out := &recorder{}
		tracker := channels.New(out, channels.Options{})
		s := connect(t, tracker, "app", "1.1")
		var want []string
		for i := range many {
			name := string(rune('a' + i))
			subscribe(t, s, name, "")
			if i%3 == 1 {
				unsubscribe(t, s, name)
				subscribe(t, s, name, "")
			}
			want = append(want, "subscription_count "+name+" 0", "channel_vacated "+name)
		}
		out.told("app")
		changes := s.Leave()
		require.Len(t, changes, many)
		require.Equal(t, want, out.told("app"))
	}
}

func TestQueries(t *testing.T) {
	tracker := channels.New(&recorder{}, channels.Options{Node: "node-1"})
	one, two, three := connect(t, tracker, "app", "1.1"), connect(t, tracker, "app", "1.2"), connect(t, tracker, "other", "1.3")
	info := json.RawMessage(`{"name":"Ada"}`)
	_, err := one.Subscribe("presence-a", channels.Member{UserID: "ada", Info: info})
	require.NoError(t, err)
	copy(info, "xxxxxxx")
	_, err = two.Subscribe("presence-a", channels.Member{UserID: "ada", Info: json.RawMessage(`{"name":"A second tab"}`)})
	require.NoError(t, err)
	subscribe(t, one, "news", "")
	subscribe(t, three, "news", "")

	require.Equal(t, channels.Counts{Subscribers: 2, Members: 1}, tracker.Counts("app", "presence-a"))
	require.Zero(t, tracker.Counts("app", "vacant"))
	require.Zero(t, tracker.Counts("nobody", "news"))
	require.Equal(t, map[string]channels.Counts{"presence-a": {Subscribers: 2, Members: 1}, "news": {Subscribers: 1}}, maps.Collect(tracker.Channels("app", "")))
	require.Equal(t, map[string]channels.Counts{"news": {Subscribers: 1}}, maps.Collect(tracker.Channels("app", "ne")))
	require.Equal(t, map[string]json.RawMessage{"ada": json.RawMessage(`{"name":"Ada"}`)}, maps.Collect(tracker.Members("app", "presence-a")))
	require.Empty(t, maps.Collect(tracker.Members("app", "news")))
	require.Empty(t, maps.Collect(tracker.Members("app", "vacant")))
	require.Equal(t, []*channels.Socket{one, two}, slices.Collect(tracker.Sockets("app", "presence-a")))
	require.Empty(t, slices.Collect(tracker.Sockets("nobody", "presence-a")))

	told := make(map[string][]string)
	for appID, e := range tracker.Snapshot() {
		require.Equal(t, "node-1", e.Node)
		told[appID] = append(told[appID], short(e))
	}
	require.Equal(t, []string{"channel_occupied news", "subscription_count news 1"}, told["other"])
	require.ElementsMatch(t, []string{"channel_occupied news", "subscription_count news 1", "channel_occupied presence-a", "member_added presence-a ada"}, told["app"])
}

func TestNodeIsInEveryEvent(t *testing.T) {
	nodes := make(map[string]int)
	out := &recorder{before: func(_ string, e webhook.Event) error { nodes[e.Node]++; return nil }}
	for _, node := range []string{"node-1", "", ""} {
		tracker := channels.New(out, channels.Options{Node: node})
		s := connect(t, tracker, "app", "1.1")
		subscribe(t, s, "presence-a", "ada")
		require.NoError(t, s.ClientEvent("presence-a", "client-x", nil))
		s.Leave()
	}
	require.Equal(t, 5, nodes["node-1"])
	require.Len(t, nodes, 3, "a new one at each start")
	require.NotContains(t, nodes, "")
}

// What the Emitter refuses is a gap, and everything else goes on.
func TestRejected(t *testing.T) {
	out := &recorder{before: func(_ string, e webhook.Event) error {
		switch e.Type {
		case webhook.TypeChannelOccupied:
			return errRefused
		case webhook.TypeSubscriptionCount:
			panic("a fault of the Emitter")
		}
		return nil
	}}
	var told []string
	tracker := channels.New(out, channels.Options{Node: "n", Rejected: func(appID string, e webhook.Event, err error) {
		require.Equal(t, "n", e.Node)
		told = append(told, appID+": "+short(e)+": "+err.Error())
		panic("a fault of Rejected")
	}})
	s := connect(t, tracker, "app", "1.1")
	require.Equal(t, channels.Change{Channel: "a", First: true, Counts: channels.Counts{Subscribers: 1}}, subscribe(t, s, "a", ""))
	s.Leave()
	require.Equal(t, []string{"channel_vacated a"}, out.told("app"))
	require.Equal(t, []string{
		"app: channel_occupied a: refused",
		"app: subscription_count a 1: channels: panic in the Emitter: a fault of the Emitter",
		"app: subscription_count a 0: channels: panic in the Emitter: a fault of the Emitter",
	}, told)
}
