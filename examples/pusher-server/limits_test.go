package main

import (
	"crypto/md5"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// One socket that subscribes and unsubscribes as fast as it can is read at its pace, and so are its webhooks.
func TestTogglingAChannelIsPaced(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	s := startServer(t, a)
	s.paces.subscriptions = pace{perSecond: 20, burst: 10}
	c, other := s.connect(t), s.connect(t)
	began := time.Now()
	go func() { // until the test ends
		for {
			for _, event := range []string{"pusher:subscribe", "pusher:unsubscribe"} {
				frame := message{Event: event, Data: object(subscription{Channel: "news"})}.encode()
				if c.ws.Write(t.Context(), websocket.MessageText, frame) != nil {
					return
				}
			}
		}
	}()
	for n := range 20 { // the second half of it comes when it may
		c.until("pusher_internal:subscription_succeeded")
		if n < 8 {
			other.join(a, fmt.Sprint("room", n), "") // nobody else waits
		}
	}
	require.Greater(t, time.Since(began), time.Second)
	elapsed := time.Since(began).Seconds()
	most := 10 + 20*elapsed + 2 // messages, of which each is two events
	require.LessOrEqual(t, float64(s.dispatcher.Stats().Emitted-16), 2*most)
}

// Whatever a client sends too much of, its socket is read no faster, and nothing of it is lost.
func TestMessagesArePaced(t *testing.T) {
	s := startServer(t, testApp(nil))
	s.paces.messages = pace{perSecond: 100, burst: 10}
	c := s.connect(t)
	began := time.Now()
	for range 40 {
		c.send("pusher:ping", "", "")
	}
	for range 40 {
		c.until("pusher:pong")
	}
	require.Greater(t, time.Since(began), 250*time.Millisecond)
}

// A page with many channels gets them all, without an error.
func TestManyChannelsAtOnce(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	s.paces.subscriptions = pace{perSecond: 100, burst: 10}
	c := s.connect(t)
	for n := range 50 {
		c.send("pusher:subscribe", "", subscription{Channel: fmt.Sprint("room", n)})
	}
	for range 50 {
		c.until("pusher_internal:subscription_succeeded")
	}
}

// Pusher: ten client events a second for each connection, and 4301 for those beyond.
func TestClientEventsAreLimited(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	a.MaxClientEventsPerSecond = 0
	s := startServer(t, a)
	c, other := s.connect(t), s.connect(t)
	for _, client := range []*client{c, other} {
		client.join(a, "private-a", "")
	}
	began := time.Now()
	for range 25 {
		c.send("client-a", "private-a", "x")
	}
	c.send("pusher:ping", "", "")
	rejected := 0
	for m := (message{}); m.Event != "pusher:pong"; {
		var err error
		m, err = c.read()
		require.NoError(t, err)
		if m.Event == "pusher:error" {
			require.JSONEq(t, `{"code":4301,"message":"Client event rejected due to rate limit"}`, string(m.Data))
			rejected++
		}
	}
	refilled := int(10 * time.Since(began).Seconds())
	require.GreaterOrEqual(t, rejected, 25-10-refilled)
	require.LessOrEqual(t, rejected, 15)
	other.send("client-b", "private-a", "") // has ten of its own
	c.until("client-b")
	passed := 0
	for m := (message{}); m.Event != "client-b"; {
		m = message{}
		events := receiver.Events()
		passed = 0
		for _, e := range events {
			if e.Name == webhook.TypeClientEvent {
				passed++
				m.Event = e.Event
			}
		}
		if m.Event != "client-b" {
			_, err := receiver.Wait(len(events)+1, patience)
			require.NoError(t, err)
		}
	}
	require.Equal(t, 25-rejected+1, passed, "webhooks of those that were passed on, and of no others")
}

func TestSocketsOfAnApp(t *testing.T) {
	a := testApp(nil)
	a.MaxConnections = 2
	b := app{App: webhook.App{ID: "other", Key: "other", Secret: "secret"}, MaxConnections: -1}
	s := startServer(t, a, b)
	first := s.connect(t)
	s.connect(t)
	third := s.dial(t, "key?protocol=7")
	require.Equal(t, 4004, third.errorCode())
	require.Equal(t, 4004, third.closed())
	s.dial(t, "other?protocol=7").until("pusher:connection_established")
	require.NoError(t, first.ws.Close(websocket.StatusNormalClosure, ""))
	require.Eventually(t, func() bool { return s.hasRoom("key") }, patience, time.Millisecond)
	s.connect(t)
}

func (s *testServer) hasRoom(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byKey[key]
	return limitSockets(&h.app, s.open[h]) == nil
}

func TestChannelNames(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	c := s.connect(t)
	c.join(a, strings.Repeat("x", 164), "")
	c.join(a, "private-"+strings.Repeat("x", 164-len("private-")), "")
	c.join(a, "Az09_-=@,.;", "")
	for _, name := range []string{
		"", strings.Repeat("x", 165), "private-" + strings.Repeat("x", 164), "no spaces", "no/slash", "no:colon", "no#hash", "ümlaut", "line\n", "nul\x00",
	} {
		c.send("pusher:subscribe", "", subscription{Channel: name})
		require.Equal(t, codeUnauthorized, c.errorCode(), "%q", name)
	}
}

// A presence channel has 100 members; a member's second socket is none.
func TestMembersOfAPresenceChannel(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	for n := range maxMembers {
		s.connect(t).join(a, "presence-a", fmt.Sprint("user", n))
	}
	s.connect(t).join(a, "presence-a", "user7")
	c := s.connect(t)
	data := string(object(user{ID: "one too many"}))
	c.send("pusher:subscribe", "", subscription{Channel: "presence-a", ChannelData: data, Auth: a.channelAuth(c.id, "presence-a", data)})
	m := c.until("pusher:subscription_error")
	require.Equal(t, "presence-a", m.Channel)
	require.JSONEq(t, `{"type":"LimitReached","status":4004,"error":"A presence channel can have 100 members"}`, string(m.Data))
	require.Equal(t, 0, c.errorCode())
	c.join(a, "presence-b", "one too many")
}

func TestSizeOfAMember(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	for _, test := range []struct {
		name string
		user user
		want string
	}{
		{"largest", user{ID: userID(strings.Repeat("ü", 128)), Info: object(strings.Repeat("x", 1022))}, ""},
		{"user_id", user{ID: userID(strings.Repeat("x", 129))}, "user_id has 128 characters at the most"},
		{"user_info", user{ID: "ada", Info: object(strings.Repeat("x", 1023))}, "user_info has 1024 bytes at the most"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := s.connect(t)
			data := string(object(test.user))
			c.send("pusher:subscribe", "", subscription{Channel: "presence-a", ChannelData: data, Auth: a.channelAuth(c.id, "presence-a", data)})
			if test.want == "" {
				c.until("pusher_internal:subscription_succeeded")
				return
			}
			require.Contains(t, string(c.until("pusher:error").Data), test.want)
		})
	}
}

func TestChannelsOfASocket(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	s.paces = paces{messages: pace{1e6, 1e6}, subscriptions: pace{1e6, 1e6}}
	c := s.connect(t)
	for n := range maxSubscriptions {
		c.join(a, fmt.Sprint("room", n), "")
	}
	c.send("pusher:subscribe", "", subscription{Channel: "news"})
	require.Contains(t, string(c.until("pusher:subscription_error").Data), "LimitReached")
	c.send("pusher:unsubscribe", "", subscription{Channel: "room1"})
	c.join(a, "news", "")
}

func TestNoRoomForASubscription(t *testing.T) {
	for _, test := range []struct {
		name                   string
		own, occupied, members int
		vacant, newMember      bool
		want                   string
	}{
		{name: "room for all", own: maxSubscriptions - 1, occupied: maxChannels - 1, members: maxMembers - 1, vacant: true, newMember: true},
		{name: "the socket's channels", own: maxSubscriptions, want: "A socket"},
		{name: "the app's channels", occupied: maxChannels, vacant: true, want: "The app"},
		{name: "one that is there already", occupied: maxChannels},
		{name: "members", members: maxMembers, newMember: true, want: "A presence channel"},
		{name: "a member's second socket", members: maxMembers},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := limitSubscription(test.own, test.occupied, test.members, test.vacant, test.newMember)
			if test.want == "" {
				require.Nil(t, f)
				return
			}
			require.Contains(t, f.message, test.want)
		})
	}
}

func TestFrameThatIsTooLong(t *testing.T) {
	s := startServer(t, testApp(nil))
	c := s.connect(t)
	c.send("pusher:ping", "", strings.Repeat("x", maxFrame-100))
	c.until("pusher:pong")
	c.send("pusher:ping", "", strings.Repeat("x", maxFrame))
	require.Equal(t, int(websocket.StatusMessageTooBig), c.closed())
}

// What waits for a socket is bounded in bytes too: the lists of presence channels are long.
func TestOutboxIsBoundedInBytes(t *testing.T) {
	s := startServer(t, testApp(nil))
	s.connect(t)
	var slow *conn
	s.mu.Lock()
	for c := range s.conns {
		slow = c
	}
	s.mu.Unlock()
	sent := 0
	frame := object(strings.Repeat("x", 1<<20))
	for n := 0; n < outboxSize; n++ {
		slow.send(frame) // which nobody reads
		select {
		case <-slow.closed:
			require.Equal(t, codeTooSlow, slow.reason.code)
			require.LessOrEqual(t, slow.queued.Load(), int64(outboxBytes))
			return
		default:
			sent++
		}
	}
	require.Fail(t, "it was never closed", "%d frames", sent)
}

// Every channel that is not public needs its signature, and the encrypted ones are not public.
func TestChannelsThatNeedASignature(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	c, other := s.connect(t), s.connect(t)
	for _, channel := range []string{"private-a", "presence-a", "private-cache-a", "presence-cache-a", "private-encrypted-a", "private-encrypted-cache-a"} {
		data := ""
		if isPresence(channel) {
			data = `{"user_id":"ada"}`
		}
		genuine := a.channelAuth(c.id, channel, data)
		for _, auth := range []string{
			"", ":", a.Key, a.Key + ":", genuine[:len(genuine)-1], genuine + "0", strings.ToUpper(genuine),
			"other" + strings.TrimPrefix(genuine, a.Key), a.channelAuth(other.id, channel, data), a.channelAuth(c.id, channel+"b", data),
		} {
			c.send("pusher:subscribe", "", subscription{Channel: channel, Auth: auth, ChannelData: data})
			require.Equal(t, codeUnauthorized, c.errorCode(), "%s %q", channel, auth)
		}
		c.send("pusher:subscribe", "", subscription{Channel: channel, Auth: genuine, ChannelData: data})
		c.until("pusher_internal:subscription_succeeded")
	}
}

func TestBucket(t *testing.T) {
	start := time.Now()
	b := bucket{pace: pace{perSecond: 10, burst: 3}, left: 3, at: start}
	for range 3 {
		require.True(t, b.allow(start))
	}
	require.False(t, b.allow(start.Add(99*time.Millisecond)))
	require.True(t, b.allow(start.Add(200*time.Millisecond)))
	b.take(start.Add(200 * time.Millisecond))
	require.Zero(t, b.wait())
	b.take(start.Add(200 * time.Millisecond))
	require.InDelta(t, 100*time.Millisecond, b.wait(), float64(time.Millisecond))
	b.fill(start.Add(time.Hour))
	require.Equal(t, 3.0, b.left, "never more than the burst")
}

// Nobody but the app's backend can have a body read: a caller without its signature is answered before it sends one.
func TestUnsignedCallsAreAnsweredUnread(t *testing.T) {
	s := startServer(t, testApp(nil))
	body, send := io.Pipe()
	defer send.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/apps/app/events?auth_key=key", body)
	require.NoError(t, err)
	request.ContentLength = maxCall
	answer, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
}

// A backend's calls, over HTTP: its signature, a fresh timestamp and the body's checksum are all needed.
func TestSignedCalls(t *testing.T) {
	a := testApp(nil)
	s := startServer(t, a)
	call := func(body, signedBody string, age time.Duration, secret webhook.Secret) int {
		sum := md5.Sum([]byte(signedBody))
		query := fmt.Sprintf("auth_key=key&auth_timestamp=%d&auth_version=1.0&body_md5=%x", time.Now().Add(-age).Unix(), sum)
		signature := webhook.Sign(secret, []byte("POST\n/apps/app/events\n"+query))
		answer, err := http.Post(s.url+"/apps/app/events?"+query+"&auth_signature="+signature, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer answer.Body.Close()
		return answer.StatusCode
	}
	event := func(channel string, data int) string {
		return string(object(map[string]string{"name": "e", "channel": channel, "data": strings.Repeat("x", data)}))
	}
	good := event("news", maxEventData)
	for _, test := range []struct {
		name             string
		body, signedBody string
		age              time.Duration
		secret           webhook.Secret
		want             int
	}{
		{"genuine", good, good, 0, a.Secret, http.StatusOK},
		{"old", good, good, maxClockSkew - time.Minute, a.Secret, http.StatusOK},
		{"too old", good, good, maxClockSkew + time.Minute, a.Secret, http.StatusUnauthorized},
		{"from the future", good, good, -maxClockSkew - time.Minute, a.Secret, http.StatusUnauthorized},
		{"another body", event("other", 1), good, 0, a.Secret, http.StatusUnauthorized},
		{"another secret", good, good, 0, "other", http.StatusUnauthorized},
		{"data too long", event("news", maxEventData+1), event("news", maxEventData+1), 0, a.Secret, http.StatusRequestEntityTooLarge},
		{"channel's name too long", event(strings.Repeat("x", 165), 1), event(strings.Repeat("x", 165), 1), 0, a.Secret, http.StatusBadRequest},
		{"a body that is too long", strings.Repeat(" ", maxCall+1), strings.Repeat(" ", maxCall+1), 0, a.Secret, http.StatusRequestEntityTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, call(test.body, test.signedBody, test.age, test.secret))
		})
	}
}
