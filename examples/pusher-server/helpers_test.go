package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

var allTypes = []webhook.EventType{
	webhook.TypeClientEvent, webhook.TypeChannelOccupied, webhook.TypeChannelVacated, webhook.TypeMemberAdded,
	webhook.TypeMemberRemoved, webhook.TypeCacheMiss, webhook.TypeSubscriptionCount,
}

// testApp is an app whose webhooks all go to receiver.
func testApp(receiver *webhooktest.Receiver) app {
	a := app{App: webhook.App{ID: "app", Key: "key", Secret: "secret"}, EnableClientMessages: true, MaxClientEventsPerSecond: -1}
	if receiver != nil {
		a.Webhooks = []webhook.Webhook{{URL: receiver.URL, EventTypes: allTypes}}
		receiver.Accept(a.App)
	}
	return a
}

// newReceiver is to be called before startServer, so that it outlives the server.
func newReceiver(t *testing.T) *webhooktest.Receiver {
	receiver := webhooktest.NewReceiver()
	t.Cleanup(receiver.Close)
	return receiver
}

type testServer struct {
	*server
	dispatcher *webhook.Dispatcher
	url        string
}

func startServer(t *testing.T, apps ...app) *testServer {
	t.Helper()
	var cfg webhook.Config
	for _, a := range apps {
		cfg.Apps = append(cfg.Apps, a.App)
	}
	dispatcher, err := webhook.New(cfg)
	require.NoError(t, err)
	s := newServer(apps, dispatcher, slog.New(slog.DiscardHandler))
	mux := http.NewServeMux()
	s.routes(mux)
	web := httptest.NewServer(mux)
	t.Cleanup(func() {
		web.Close()
		s.closeSockets()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = dispatcher.Close(ctx)
	})
	return &testServer{server: s, dispatcher: dispatcher, url: web.URL}
}

// A client speaks the protocol frame by frame.
type client struct {
	t  *testing.T
	ws *websocket.Conn
	id string
}

func (s *testServer) dial(t *testing.T, query string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+"/app/"+query, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &client{t: t, ws: ws}
}

func (s *testServer) connect(t *testing.T) *client {
	t.Helper()
	c := s.dial(t, "key?protocol=7")
	var established struct {
		SocketID        string `json:"socket_id"`
		ActivityTimeout int    `json:"activity_timeout"`
	}
	decodeText(t, c.until("pusher:connection_established"), &established)
	require.Regexp(t, socketID, established.SocketID)
	c.id = established.SocketID
	return c
}

// decodeText takes apart the data of most messages: JSON inside a JSON string.
func decodeText(t *testing.T, m message, v any) {
	t.Helper()
	var inner string
	require.NoError(t, json.Unmarshal(m.Data, &inner))
	require.NoError(t, json.Unmarshal([]byte(inner), v))
}

func (c *client) send(event, channel string, data any) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	require.NoError(c.t, c.ws.Write(ctx, websocket.MessageText, message{Event: event, Channel: channel, Data: object(data)}.encode()))
}

// until reads up to the next message with this event.
func (c *client) until(event string) message {
	c.t.Helper()
	for {
		m, err := c.read()
		require.NoError(c.t, err, "waiting for %s", event)
		if m.Event == event {
			return m
		}
	}
}

func (c *client) read() (message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var m message
	_, frame, err := c.ws.Read(ctx)
	if err == nil {
		err = json.Unmarshal(frame, &m)
	}
	return m, err
}

// closed reads up to the end and returns its code.
func (c *client) closed() int {
	for {
		if _, err := c.read(); err != nil {
			return int(websocket.CloseStatus(err))
		}
	}
}

// subscription is what a client sends that was authorized by its backend.
func (a *app) subscription(socketID, channel, as string) subscription {
	s := subscription{Channel: channel}
	if isPresence(channel) {
		s.ChannelData = string(object(user{ID: userID(as)}))
	}
	if isPrivate(channel) {
		s.Auth = a.channelAuth(socketID, channel, s.ChannelData)
	}
	return s
}

// join subscribes, as user where the channel wants one, and waits for the answer.
func (c *client) join(a app, channel, as string) message {
	c.t.Helper()
	c.send("pusher:subscribe", "", a.subscription(c.id, channel, as))
	return c.until("pusher_internal:subscription_succeeded")
}

func (c *client) errorCode() int {
	c.t.Helper()
	var data struct {
		Code *int `json:"code"`
	}
	require.NoError(c.t, json.Unmarshal(c.until("pusher:error").Data, &data))
	if data.Code == nil {
		return 0
	}
	return *data.Code
}
