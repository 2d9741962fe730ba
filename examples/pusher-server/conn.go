package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// The limits of one socket, this server's own where Pusher names none.
const (
	outboxSize       = 256 // frames
	readLimit        = 64 << 10
	maxSubscriptions = 1000
	writeTimeout     = 5 * time.Second
	closeGrace       = time.Second // for the last frames and the closing handshake
)

// Timing is how long a silent socket is believed to be alive.
type timing struct {
	activity time.Duration // of silence before the server asks; also told to the client, which asks too
	pong     time.Duration // for the answer
}

// Pusher's own figures.
var pusherTiming = timing{activity: 120 * time.Second, pong: 30 * time.Second}

// A conn is one client's socket. Its reader (serve) and its writer (write) are a goroutine each; anybody may
// call send and close, which never wait.
type conn struct {
	id     string
	ws     *websocket.Conn
	hub    *hub
	timing timing

	ctx    context.Context // ends a while after close, and with it all reading and writing
	cancel context.CancelFunc

	outbox chan []byte
	heard  chan struct{} // the client said something

	once   sync.Once
	closed chan struct{} // by close, which sets the reason first
	reason fault

	channels map[string]*channel // guarded by hub.mu

	second    time.Time // the start of the second in which
	perSecond int       // so many client events came: the reader's own
}

func newConn(ws *websocket.Conn, h *hub, t timing) *conn {
	ws.SetReadLimit(readLimit)
	ctx, cancel := context.WithCancel(context.Background())
	return &conn{
		id: fmt.Sprintf("%d.%d", rand.Uint64N(1e10), rand.Uint64N(1e10)),
		ws: ws, hub: h, timing: t, ctx: ctx, cancel: cancel,
		outbox:   make(chan []byte, outboxSize),
		heard:    make(chan struct{}, 1),
		closed:   make(chan struct{}),
		channels: make(map[string]*channel),
	}
}

// send queues a frame. A client that doesn't keep up is dropped: nobody waits for it.
func (c *conn) send(frame []byte) {
	select {
	case c.outbox <- frame:
	default:
		c.close(fault{codeTooSlow, "The socket did not take its messages in time"})
	}
}

// close ends the socket: what is queued and the reason go out first, if the client takes them at once. The
// first reason counts.
func (c *conn) close(reason fault) {
	c.once.Do(func() {
		c.reason = reason
		close(c.closed)
		time.AfterFunc(closeGrace, c.cancel)
	})
}

// serve speaks with the client until the socket is closed by either side, then takes it out of its channels.
func (c *conn) serve() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	c.send(message{Event: "pusher:connection_established", Data: text(map[string]any{
		"socket_id": c.id, "activity_timeout": int(c.timing.activity.Seconds()),
	})}.encode())
	for {
		_, frame, err := c.ws.Read(c.ctx)
		if err != nil {
			break
		}
		select {
		case c.heard <- struct{}{}:
		default:
		}
		c.handle(frame)
	}
	c.close(fault{int(websocket.StatusNormalClosure), ""})
	c.hub.leave(c)
	<-written
	c.cancel()
}

func (c *conn) handle(frame []byte) {
	var m message
	if err := json.Unmarshal(frame, &m); err != nil {
		c.send((&fault{0, "Invalid message: it must be a JSON object with an event"}).encode())
		return
	}
	var f *fault
	switch {
	case m.Event == "pusher:ping":
		c.send(message{Event: "pusher:pong", Data: object(struct{}{})}.encode())
	case m.Event == "pusher:pong": // it was heard, and that is all
	case m.Event == "pusher:subscribe":
		f = c.subscribe(m.Data)
	case m.Event == "pusher:unsubscribe":
		var s subscription
		if json.Unmarshal(m.Data, &s) == nil {
			c.hub.unsubscribe(c, s.Channel)
		}
	case strings.HasPrefix(m.Event, "client-"):
		f = c.hub.clientEvent(c, m)
	default:
		f = &fault{0, fmt.Sprintf("Unsupported event %.200q", m.Event)}
	}
	if f != nil {
		c.send(f.encode())
	}
}

func (c *conn) subscribe(data json.RawMessage) *fault {
	var s subscription
	if err := json.Unmarshal(data, &s); err != nil {
		return &fault{0, "Invalid pusher:subscribe: its data must be an object"}
	}
	f := c.hub.subscribe(c, s)
	if f != nil && f.code == codeUnauthorized && validChannel(s.Channel) {
		// pusher:error is for the socket; this one reaches those who listen on the channel.
		c.send(message{Event: "pusher:subscription_error", Channel: s.Channel, Data: object(map[string]any{
			"type": "AuthError", "error": f.message, "status": 401,
		})}.encode())
	}
	return f
}

// allowClientEvent is the rate limit of client events.
func (c *conn) allowClientEvent(now time.Time) bool {
	limit := c.hub.app.MaxClientEventsPerSecond
	if limit == 0 {
		limit = 10
	}
	if now.Sub(c.second) >= time.Second {
		c.second, c.perSecond = now, 0
	}
	c.perSecond++
	return limit < 0 || c.perSecond <= limit
}

// write sends what is queued, asks a silent client whether it is there, and closes the socket in the end.
func (c *conn) write() {
	silence := time.NewTimer(c.timing.activity)
	defer silence.Stop()
	asked := false
	for {
		select {
		case frame := <-c.outbox:
			if !c.writeFrame(frame) {
				return
			}
		case <-c.heard:
			asked = false
			silence.Reset(c.timing.activity)
		case <-silence.C:
			if asked {
				c.close(fault{codePongTimeout, "Pong reply not received in time"})
				continue
			}
			asked = true
			silence.Reset(c.timing.pong)
			c.send(message{Event: "pusher:ping", Data: object(struct{}{})}.encode())
		case <-c.closed:
			c.finish()
			return
		}
	}
}

// writeFrame reports whether the client took it. If not, the websocket library has closed the socket.
func (c *conn) writeFrame(frame []byte) bool {
	ctx, cancel := context.WithTimeout(c.ctx, writeTimeout)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, frame) == nil
}

// finish sends what was queued before close, and closes the socket with the reason.
func (c *conn) finish() {
	for len(c.outbox) > 0 {
		if !c.writeFrame(<-c.outbox) {
			return
		}
	}
	_ = c.ws.Close(websocket.StatusCode(c.reason.code), c.reason.message)
}
