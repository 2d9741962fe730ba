package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook/webhooktest"
)

var churnFor = flag.Duration("churn", 2*time.Second, "how long TestChurn goes on")

// Thirty sockets join and leave channels at random; they say goodbye, vanish or are reset, and others come in their
// place. What the webhooks tell of each channel can be true from the beginning to the end.
func TestChurn(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	s := startServer(t, a)
	s.paces = paces{messages: pace{1e6, 1e6}, subscriptions: pace{1e6, 1e6}}
	ctx, cancel := context.WithTimeout(t.Context(), *churnFor)
	defer cancel()
	var all sync.WaitGroup
	lives, faults := make([]int, 30), make([]error, 30)
	for i := range lives {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for ctx.Err() == nil && faults[i] == nil {
				faults[i] = churn(random, s.url, a, fmt.Sprint("user", i%7))
				lives[i]++
			}
		})
	}
	all.Wait()
	for i, fault := range faults {
		require.NoError(t, fault)
		require.Positive(t, lives[i])
	}
	s.closeSockets()
	require.NoError(t, s.tracker.Flush(t.Context()))
	require.NoError(t, s.dispatcher.Close(t.Context()))
	events := receiver.Events()
	t.Logf("%d events", len(events))
	require.Greater(t, len(events), 1000)
	require.NoError(t, webhooktest.CheckStory(receiver.Deliveries(), webhooktest.StoryOptions{Ended: true}))
	for range s.tracker.Channels(a.ID, "") {
		require.Fail(t, "a ghost")
	}
}

// A visitor is a client that listens to nothing but its id.
type visitor struct {
	raw *net.TCPConn // under the websocket
	ws  *websocket.Conn
	id  string
}

func visit(ctx context.Context, url string) (*visitor, error) {
	v := &visitor{}
	dialer := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			v.raw = c.(*net.TCPConn)
		}
		return c, err
	}}}
	var err error
	v.ws, _, err = websocket.Dial(ctx, strings.Replace(url, "http", "ws", 1)+"/app/key?protocol=7", &websocket.DialOptions{HTTPClient: dialer})
	if err != nil {
		return nil, err
	}
	_, frame, err := v.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	var m message
	var data string
	var established struct {
		SocketID string `json:"socket_id"`
	}
	err = errors.Join(json.Unmarshal(frame, &m), json.Unmarshal(m.Data, &data), json.Unmarshal([]byte(data), &established))
	v.id = established.SocketID
	return v, err
}

// listen takes what comes, until the socket is closed.
func (v *visitor) listen() {
	for {
		if _, _, err := v.ws.Read(context.Background()); err != nil {
			return
		}
	}
}

// end says goodbye, vanishes, or is reset.
func (v *visitor) end(random *rand.Rand) {
	switch random.IntN(3) {
	case 0:
		_ = v.ws.Close(websocket.StatusNormalClosure, "")
	case 1:
		_ = v.raw.SetLinger(0)
	}
	_ = v.ws.CloseNow()
}

// churn is the life of one socket. The server may close it before it ends.
func churn(random *rand.Rand, url string, a app, as string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := visit(ctx, url)
	if err != nil {
		return err
	}
	var listening sync.WaitGroup
	listening.Go(v.listen)
	for range random.IntN(30) {
		m := message{Event: "client-hello", Channel: churned[random.IntN(len(churned))], Data: object(as)}
		switch random.IntN(5) {
		case 0, 1, 2:
			m = message{Event: "pusher:subscribe", Data: object(a.subscription(v.id, m.Channel, as))}
		case 3:
			m = message{Event: "pusher:unsubscribe", Data: object(subscription{Channel: m.Channel})}
		}
		if v.ws.Write(ctx, websocket.MessageText, m.encode()) != nil {
			break
		}
	}
	v.end(random)
	listening.Wait()
	return nil
}

// churned are few, so that they are vacated often.
var churned = []string{"news", "private-a", "private-encrypted-a", "cache-a", "presence-a", "presence-b", "presence-cache-a"}
