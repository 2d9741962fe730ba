package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/pusherhooks/webhook/channels"
)

const (
	writeTimeout = 5 * time.Second // for a frame
	closeGrace   = time.Second     // for the last frames and the closing handshake
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
	queued atomic.Int64  // bytes in outbox
	heard  chan struct{} // the client said something

	once   sync.Once
	closed chan struct{} // by close, which sets the reason first
	reason fault

	socket   *channels.Socket
	channels map[string]userID // that it is on, as whom on a presence channel; guarded by hub.mu

	limiter limiter // the reader's own
}

func newConn(ws *websocket.Conn, h *hub, t timing, p paces) *conn {
	ws.SetReadLimit(maxFrame)
	ctx, cancel := context.WithCancel(context.Background())
	return &conn{
		id: fmt.Sprintf("%d.%d", rand.Uint64N(1e10), rand.Uint64N(1e10)),
		ws: ws, hub: h, timing: t, ctx: ctx, cancel: cancel,
		outbox:   make(chan []byte, outboxSize),
		heard:    make(chan struct{}, 1),
		closed:   make(chan struct{}),
		channels: make(map[string]userID),
		limiter:  newLimiter(p, &h.app),
	}
}

// send queues a frame. A client that doesn't keep up is dropped: nobody waits for it.
func (c *conn) send(frame []byte) {
	if c.queued.Add(int64(len(frame))) <= outboxBytes {
		select {
		case c.outbox <- frame:
			return
		default:
		}
	}
	c.queued.Add(-int64(len(frame)))
	c.close(fault{codeTooSlow, "The socket did not take its messages in time"})
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
	if err := c.hub.connect(c); err != nil { // another socket has drawn the same id
		refuse(c.ws, &fault{codeReconnect, err.Error()})
		c.cancel()
		return
	}
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
		if !c.pause(c.handle(frame)) {
			break
		}
	}
	c.close(fault{int(websocket.StatusNormalClosure), ""})
	c.hub.leave(c)
	<-written
	c.cancel()
}

// pause lets a while pass before more is read, and reports whether the socket is still alive.
func (c *conn) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-c.closed:
		return false
	}
}

// handle does what a client asks, and returns how long to wait before more is read.
func (c *conn) handle(frame []byte) time.Duration {
	var m message
	var f *fault
	passedOn := false
	switch err := json.Unmarshal(frame, &m); {
	case err != nil:
		f = &fault{0, "Invalid message: it must be a JSON object with an event"}
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
		passedOn = f == nil
	default:
		f = &fault{0, fmt.Sprintf("Unsupported event %.200q", m.Event)}
	}
	if f != nil {
		c.send(f.encode())
	}
	return c.limiter.took(m.Event, passedOn)
}

func (c *conn) subscribe(data json.RawMessage) *fault {
	var s subscription
	if err := json.Unmarshal(data, &s); err != nil {
		return &fault{0, "Invalid pusher:subscribe: its data must be an object"}
	}
	f := c.hub.subscribe(c, s)
	if f != nil && f.code != 0 && validChannel(s.Channel) {
		kind, status := "AuthError", 401
		if f.code == codeLimit {
			kind, status = "LimitReached", codeOverQuota // as soketi says it
		}
		// pusher:error is for the socket; this one reaches those who listen on the channel.
		c.send(message{Event: "pusher:subscription_error", Channel: s.Channel, Data: object(map[string]any{
			"type": kind, "error": f.message, "status": status,
		})}.encode())
	}
	return f
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
	defer c.queued.Add(-int64(len(frame)))
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
