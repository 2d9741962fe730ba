package main

import (
	"crypto/rand"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// The demo's app has a fixed name, and a secret that is new at every start.
const demoID, demoKey = "demo", "demo-key"

// keptBatches is how many webhooks a page that is opened later still gets to see.
const keptBatches = 100

//go:embed page
var page embed.FS

// A demo is an app with everything around it: the backend that receives its webhooks and authorises its
// clients, and a page that shows both sides. The backend listens on a port of its own, so that the webhooks
// take the way they always take, and arrive when the server itself no longer accepts anything.
type demo struct {
	app      app
	hub      *hub
	pusherJS string
	log      *slog.Logger
	backend  *http.Server

	mu      sync.Mutex
	batches []batch // the last ones
	changed chan struct{}
}

// A batch is one webhook, as the backend received it.
type batch struct {
	N        int             `json:"n"` // counted from 1
	ID       string          `json:"id"`
	Received time.Time       `json:"received"`
	Bytes    int             `json:"bytes"`
	Body     json.RawMessage `json:"body"`
}

func newDemo(pusherJS string, log *slog.Logger) (*demo, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &demo{pusherJS: pusherJS, log: log, changed: make(chan struct{})}
	d.app = app{
		App: webhook.App{
			ID: demoID, Key: demoKey, Secret: webhook.Secret(rand.Text()),
			Webhooks: []webhook.Webhook{{
				URL: fmt.Sprintf("http://%s/demo/webhooks", listener.Addr()),
				EventTypes: []webhook.EventType{
					webhook.TypeChannelOccupied, webhook.TypeChannelVacated, webhook.TypeMemberAdded,
					webhook.TypeMemberRemoved, webhook.TypeClientEvent, webhook.TypeCacheMiss,
					webhook.TypeSubscriptionCount,
				},
			}},
		},
		EnableClientMessages: true, MaxClientEventsPerSecond: 50,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /demo/webhooks", d.receive)
	d.backend = &http.Server{Handler: mux, ReadTimeout: callTime, IdleTimeout: time.Minute}
	go func() { _ = d.backend.Serve(listener) }() // until close
	if _, err := os.Stat(pusherJS); err != nil {
		log.Warn("the page needs pusher-js: run \"npm ci --prefix e2e\" in the example's folder, or name the file with -pusher-js", "error", err)
	}
	return d, nil
}

func (d *demo) close() { _ = d.backend.Close() }

// routes adds what the page needs, from where the page comes.
func (d *demo) routes(mux *http.ServeMux) {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	mux.Handle("GET /", withPolicy(http.FileServerFS(files)))
	mux.HandleFunc("GET /pusher.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, d.pusherJS) })
	mux.HandleFunc("POST /demo/auth", d.authorize)
	mux.HandleFunc("POST /demo/publish", d.publish)
	mux.HandleFunc("GET /demo/webhooks", d.stream)
}

// withPolicy lets the page load nothing from anywhere else.
func withPolicy(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; connect-src 'self' ws:; img-src 'self' data:; frame-ancestors 'none'")
		h.ServeHTTP(w, r)
	})
}

// receive is what every backend does with a webhook: verify, take, answer 200.
func (d *demo) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	if err := webhook.Verify(d.app.Key, d.app.Secret, r.Header, body); err != nil {
		d.log.Warn("demo: webhook refused", "error", err)
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	d.take(batch{ID: r.Header.Get("Webhook-Id"), Received: time.Now(), Bytes: len(body), Body: body})
}

// take keeps a batch for the pages, unless it came before: its first answer may have got lost.
func (d *demo) take(b batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b.N = 1
	if n := len(d.batches); n > 0 {
		b.N = d.batches[n-1].N + 1
	}
	if slices.ContainsFunc(d.batches, func(old batch) bool { return old.ID == b.ID }) {
		return
	}
	if len(d.batches) == keptBatches {
		d.batches = slices.Delete(d.batches, 0, 1)
	}
	d.batches = append(d.batches, b)
	close(d.changed)
	d.changed = make(chan struct{})
}

// after returns the batches behind number n, and a channel that is closed when there are more.
func (d *demo) after(n int) ([]batch, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.batches, func(b batch) bool { return b.N > n })
	if i < 0 {
		return nil, d.changed
	}
	return slices.Clone(d.batches[i:]), d.changed
}

// stream sends the page each batch as a server-sent event, from the one behind Last-Event-ID on.
func (d *demo) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	n, _ := strconv.Atoi(r.Header.Get("Last-Event-ID")) // none is 0: everything
	if batches, _ := d.after(n - 1); len(batches) == 0 {
		n = 0 // it is of an earlier run
	}
	for {
		batches, changed := d.after(n)
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout))
		for _, b := range batches {
			n = b.N
			if _, err := fmt.Fprintf(w, "id: %d\ndata: %s\n\n", b.N, object(b)); err != nil {
				return
			}
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// authorize answers pusher-js, which asks before it subscribes to a private or presence channel. The demo
// believes everybody the name they give.
func (d *demo) authorize(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFrame)
	socket, channel, name := r.PostFormValue("socket_id"), r.PostFormValue("channel_name"), r.PostFormValue("name")
	if !socketID.MatchString(socket) || !validChannel(channel) || name == "" || len(name) > 40 {
		http.Error(w, "socket_id, channel_name and name are needed", http.StatusForbidden)
		return
	}
	answer := make(map[string]string)
	if isPresence(channel) {
		info := object(map[string]string{"name": name})
		answer["channel_data"] = string(object(user{ID: userID(name), Info: info}))
	}
	answer["auth"] = d.app.channelAuth(socket, channel, answer["channel_data"])
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// publish stands for the app's backend calling POST /events.
func (d *demo) publish(w http.ResponseWriter, r *http.Request) {
	var e apiEvent
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxFrame)).Decode(&e)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.publish(d.hub)
	w.WriteHeader(http.StatusNoContent)
}
