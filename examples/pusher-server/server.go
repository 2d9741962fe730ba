package main

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync"

	"github.com/coder/websocket"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// A server accepts the sockets and the API calls of all apps.
type server struct {
	byKey, byID map[string]*hub
	tracker     *channels.Tracker
	timing      timing
	paces       paces
	log         *slog.Logger

	mu      sync.Mutex
	closing bool
	conns   map[*conn]bool
	open    map[*hub]int   // how many of them are whose
	served  sync.WaitGroup // of conns
}

func newServer(apps []app, out webhook.Emitter, log *slog.Logger) *server {
	s := &server{
		byKey: make(map[string]*hub), byID: make(map[string]*hub), tracker: channels.New(out, channels.Options{}),
		timing: pusherTiming, paces: defaultPaces, log: log,
		conns: make(map[*conn]bool), open: make(map[*hub]int),
	}
	for _, a := range apps {
		h := newHub(a, s.tracker)
		s.byKey[a.Key], s.byID[a.ID] = h, h
	}
	return s
}

func (s *server) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /app/{key}", s.serveSocket)
	mux.HandleFunc("POST /apps/{id}/events", s.signed(postEvent))
	mux.HandleFunc("POST /apps/{id}/batch_events", s.signed(postBatch))
	mux.HandleFunc("GET /apps/{id}/channels", s.signed(getChannels))
	mux.HandleFunc("GET /apps/{id}/channels/{name}", s.signed(getChannel))
	mux.HandleFunc("GET /apps/{id}/channels/{name}/users", s.signed(getUsers))
}

func (s *server) serveSocket(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // of the origin: a key is public, and any page may use it
	})
	if err != nil {
		return // Accept has answered
	}
	h := s.byKey[r.PathValue("key")]
	if f := admit(h, r.URL.Query().Get("protocol")); f != nil {
		refuse(ws, f)
		return
	}
	c := newConn(ws, h, s.timing, s.paces)
	if f := s.enter(c); f != nil {
		refuse(ws, f)
		return
	}
	defer s.exit(c)
	s.log.Debug("socket opened", "app", h.app.ID, "socket", c.id)
	c.serve()
	s.log.Debug("socket closed", "app", h.app.ID, "socket", c.id, "code", c.reason.code)
}

// admit says why a client cannot come in, if it cannot.
func admit(h *hub, protocol string) *fault {
	switch version, err := strconv.Atoi(protocol); {
	case h == nil:
		return &fault{codeUnknownApp, "App key is not known here"}
	case h.app.disabled():
		return &fault{codeAppDisabled, "The app is disabled"}
	case err != nil || version < 5 || version > 7: // these speak alike
		return &fault{codeUnsupportedProtocol, "Unsupported protocol version, this is 7"}
	}
	return nil
}

// refuse tells a client why and closes its socket, which never took part in anything.
func refuse(ws *websocket.Conn, f *fault) {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	_ = ws.Write(ctx, websocket.MessageText, f.encode())
	_ = ws.Close(websocket.StatusCode(f.code), f.message)
}

// enter counts a socket in, or says why it cannot.
func (s *server) enter(c *conn) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return &fault{codeReconnect, "The server is shutting down"}
	}
	if f := limitSockets(&c.hub.app, s.open[c.hub]); f != nil {
		return f
	}
	s.conns[c] = true
	s.open[c.hub]++
	s.served.Add(1)
	return nil
}

func (s *server) exit(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.open[c.hub]--
	s.served.Done()
}

// closeSockets turns everybody out, telling them to come back at once (to another server), and returns when
// the last has left its channels: a little more than closeGrace at the most.
func (s *server) closeSockets() {
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		c.close(fault{codeReconnect, "The server is shutting down"})
	}
	s.mu.Unlock()
	s.served.Wait()
}
