package webhook_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

func TestFilter(t *testing.T) {
	for _, test := range []struct {
		prefix, suffix, channel string
		want                    bool
	}{
		{"", "", "anything", true},
		{"private-", "", "private-a", true},
		{"private-", "", "presence-a", false},
		{"", "-eu", "room-eu", true},
		{"", "-eu", "room-us", false},
		{"private-", "-eu", "private-room-eu", true},
		{"private-", "-eu", "private-room-us", false},
		{"private-", "-eu", "presence-room-eu", false},
		{"ab", "bc", "abc", true}, // prefix and suffix may overlap, as in JavaScript
		{"abc", "abc", "abc", true},
		{"abcd", "", "abc", false},
		{"\xff", "", "\xffroom", true}, // bytes, not what becomes of them in JSON
		{"\xff", "", "\uFFFDroom", false},
	} {
		f := webhook.Filter{ChannelNameStartsWith: test.prefix, ChannelNameEndsWith: test.suffix}
		require.Equal(t, test.want, f.Match(test.channel), "%+v on %q", f, test.channel)
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("ab", "bc", "abc")
	f.Fuzz(func(t *testing.T, prefix, suffix, channel string) {
		filter := webhook.Filter{ChannelNameStartsWith: prefix, ChannelNameEndsWith: suffix}
		want := strings.Index(channel, prefix) == 0 && len(channel) >= len(suffix) && channel[len(channel)-len(suffix):] == suffix
		require.Equal(t, want, filter.Match(channel))
		require.True(t, filter.Match(prefix+channel+suffix))
	})
}

// routingApp has three endpoints; two of its webhooks share one of them.
func routingApp() webhook.App {
	app := testApp("app")
	app.Webhooks = []webhook.Webhook{
		{URL: "http://localhost/a", EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}},
		{URL: "http://localhost/a", EventTypes: []webhook.EventType{webhook.TypeMemberAdded, webhook.TypeChannelOccupied},
			Filter: webhook.Filter{ChannelNameStartsWith: "presence-"}},
		{URL: "http://localhost/a", EventTypes: []webhook.EventType{webhook.TypeChannelVacated}, Headers: map[string]string{"X-Team": "b"}},
		{URL: "http://localhost/c", EventTypes: []webhook.EventType{webhook.TypeChannelVacated}, Filter: webhook.Filter{ChannelNameEndsWith: "-eu"}},
	}
	return app
}

func TestRouting(t *testing.T) {
	for _, test := range []struct {
		event webhook.Event
		want  []string // X-Team and URL of each delivery
	}{
		{webhook.ChannelOccupied("room"), []string{" http://localhost/a"}},
		{webhook.ChannelOccupied("presence-room"), []string{" http://localhost/a"}}, // wanted twice, sent once
		{webhook.MemberAdded("presence-room", "1"), []string{" http://localhost/a"}},
		{webhook.MemberAdded("room", "1"), nil},
		{webhook.ChannelVacated("room"), []string{"b http://localhost/a"}},
		{webhook.ChannelVacated("room-eu"), []string{"b http://localhost/a", " http://localhost/c"}},
		{webhook.CacheMiss("cache-room"), nil},
	} {
		sent := &recorder{}
		d := newDispatcher(t, webhook.Config{Apps: []webhook.App{routingApp()}, Sender: sent})
		require.Equal(t, test.want != nil, d.Wants("app", test.event.Type, test.event.Channel))
		emit(t, d, "app", test.event)
		closeNow(t, d)
		var got []string
		for _, delivery := range sent.deliveries() {
			require.Equal(t, 1, delivery.Events)
			got = append(got, delivery.Header.Get("X-Team")+" "+delivery.URL)
		}
		require.ElementsMatch(t, test.want, got, "%+v", test.event)
		require.EqualValues(t, len(test.want), d.Stats().Queued)
	}
}

func TestWantsKnowsNothingOfOthers(t *testing.T) {
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{routingApp()}, Sender: &recorder{}})
	require.False(t, d.Wants("other", webhook.TypeChannelOccupied, "room"))
	require.False(t, d.Wants("app", "unknown", "room"))
	require.Zero(t, testing.AllocsPerRun(100, func() { d.Wants("app", webhook.TypeChannelOccupied, "presence-room") }))
}
