package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

func TestRefusedSockets(t *testing.T) {
	off := app{App: webhook.App{ID: "off", Key: "off", Secret: "secret"}, Enabled: new(bool)}
	s := startServer(t, testApp(nil), off)
	for query, code := range map[string]int{
		"nobody?protocol=7": codeUnknownApp,
		"off?protocol=7":    codeAppDisabled,
		"key?protocol=8":    codeUnsupportedProtocol,
		"key":               codeUnsupportedProtocol,
	} {
		c := s.dial(t, query)
		require.Equal(t, code, c.errorCode(), query)
		require.Equal(t, code, c.closed(), query)
	}
}

func TestSilentSocketIsAskedThenClosed(t *testing.T) {
	s := startServer(t, testApp(nil))
	s.timing = timing{activity: 30 * time.Millisecond, pong: 30 * time.Millisecond}
	c := s.connect(t)
	c.until("pusher:ping")
	c.send("pusher:pong", "", struct{}{}) // it is alive, and is asked again later
	c.until("pusher:ping")
	require.Equal(t, codePongTimeout, c.closed())
}

func TestPing(t *testing.T) {
	s := startServer(t, testApp(nil))
	c := s.connect(t)
	c.send("pusher:ping", "", struct{}{})
	c.until("pusher:pong")
}

func TestRejectedMessages(t *testing.T) {
	a := testApp(nil)
	a.MaxClientEventsPerSecond = 2 // of which the one to private-b below is one
	s := startServer(t, a)
	c := s.connect(t)
	for _, wrong := range []subscription{
		{Channel: ""}, {Channel: "no spaces"}, {Channel: strings.Repeat("x", maxChannelName+1)},
		{Channel: "private-a"}, {Channel: "private-a", Auth: a.channelAuth(c.id, "private-b", "")},
		{Channel: "presence-a", Auth: a.channelAuth(c.id, "presence-a", "")},
		{Channel: "presence-a", Auth: a.channelAuth(c.id, "presence-a", `{"user_id":""}`), ChannelData: `{"user_id":""}`},
		{Channel: "presence-a", Auth: a.channelAuth(c.id, "presence-a", `{"user_id":"x"}`), ChannelData: `{"user_id":"y"}`},
	} {
		c.send("pusher:subscribe", "", wrong)
		require.Equal(t, codeUnauthorized, c.errorCode(), "%+v", wrong)
	}
	c.join(a, "news", "")
	c.send("pusher:subscribe", "", subscription{Channel: "news"})
	require.Zero(t, c.errorCode(), "subscribed twice")
	c.join(a, "private-a", "")
	for _, channel := range []string{"news", "private-b", "private-encrypted-a", ""} {
		c.send("client-a", channel, "")
		require.Equal(t, codeClientEvent, c.errorCode(), channel)
	}
	c.send("client-a", "private-a", strings.Repeat("x", maxEventData))
	require.Equal(t, codeClientEvent, c.errorCode(), "too large")
	c.send("client-a", "private-a", "")
	c.send("client-a", "private-a", "")
	require.Equal(t, codeClientEvent, c.errorCode(), "too many")
	c.send("pusher:signin", "", "")
	require.Zero(t, c.errorCode())
}

func TestPresenceIDsMayBeNumbers(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	s := startServer(t, a)
	c := s.connect(t)
	data := `{"user_id":42,"user_info":{"name":"Ada"}}`
	c.send("pusher:subscribe", "", subscription{Channel: "presence-a", ChannelData: data, Auth: a.channelAuth(c.id, "presence-a", data)})
	var answer struct {
		Presence struct {
			IDs   []string                         `json:"ids"`
			Hash  map[string]struct{ Name string } `json:"hash"`
			Count int                              `json:"count"`
		} `json:"presence"`
	}
	decodeText(t, c.until("pusher_internal:subscription_succeeded"), &answer)
	require.Equal(t, []string{"42"}, answer.Presence.IDs)
	require.Equal(t, "Ada", answer.Presence.Hash["42"].Name)
	require.Equal(t, 1, answer.Presence.Count)
	events, err := receiver.Wait(2, patience)
	require.NoError(t, err)
	require.Equal(t, "42", events[1].UserID)
}

// A socket that takes nothing is dropped, and neither the publisher nor anybody else waits for it.
func TestSlowSocketHoldsUpNobody(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	fast, slow := s.connect(t), s.connect(t)
	fast.join(a, "news", "")
	slow.join(a, "news", "") // and reads nothing from here on
	h := s.byID["app"]
	data := strings.Repeat("x", maxEventData)
	published := 0
	for ; h.tracker.Counts("app", "news").Subscribers == 2; published++ { // until the system's buffers and the outbox are full
		h.publish(message{Event: "filler", Channel: "news", Data: object(data)}, fast.id)
	}
	require.Greater(t, published, outboxSize)
	h.publish(message{Event: "last", Channel: "news", Data: object("")}, "")
	fast.until("last")
}

// Whatever many sockets do at once, the webhooks of each channel tell a story that can be true.
func TestWebhooksTellWhatHappenedInOrder(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	s := startServer(t, a)
	var clients sync.WaitGroup
	for i := range 12 {
		c, as := s.connect(t), fmt.Sprint("user", i%4)
		clients.Go(func() {
			for range 10 {
				c.join(a, "presence-a", as)
				c.join(a, "private-cache-b", "")
				c.send("client-a", "presence-a", as)
				for _, channel := range []string{"private-cache-b", "presence-a"} {
					c.send("pusher:unsubscribe", "", subscription{Channel: channel})
				}
			}
			c.send("pusher:ping", "", struct{}{})
			c.until("pusher:pong") // and so the server has seen it all
		})
	}
	clients.Wait()
	ctx := t.Context()
	require.NoError(t, s.dispatcher.Flush(ctx))
	require.NoError(t, webhooktest.CheckStory(receiver.Deliveries(), webhooktest.StoryOptions{Ended: true}))
	clientEvents := 0
	for _, e := range receiver.Events() {
		if e.Name == webhook.TypeClientEvent {
			clientEvents++
		}
	}
	require.Equal(t, 120, clientEvents)
}

func TestClosedSocketsLeaveTheirChannels(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	s := startServer(t, a)
	c := s.connect(t)
	c.join(a, "presence-a", "ada")
	s.closeSockets() // returns when everybody has left
	require.NoError(t, s.dispatcher.Close(t.Context()))
	var names []webhook.EventType
	for _, e := range receiver.Events() {
		names = append(names, e.Name)
	}
	require.Equal(t, []webhook.EventType{
		webhook.TypeChannelOccupied, webhook.TypeMemberAdded, webhook.TypeMemberRemoved, webhook.TypeChannelVacated,
	}, names)
	require.Equal(t, codeReconnect, c.closed())
	require.Equal(t, codeReconnect, s.dial(t, "key?protocol=7").closed(), "too late")
}

func TestCacheIsBounded(t *testing.T) {
	s := startServer(t, testApp(nil))
	h := s.byID["app"]
	for i := range cacheLimit + 10 {
		h.publish(message{Event: "e", Channel: fmt.Sprint("cache-", i), Data: object("")}, "")
	}
	require.Len(t, h.cache, cacheLimit)
	require.Contains(t, h.cache, fmt.Sprint("cache-", cacheLimit+9))
}
