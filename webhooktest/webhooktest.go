// Package webhooktest provides a receiver of webhooks for the tests of a server that sends them, as
// net/http/httptest provides an HTTP server.
//
//	receiver := webhooktest.NewReceiver(app)
//	defer receiver.Close()
//	app.Webhooks[0].URL = receiver.URL
//	// … start the server with app, have something happen on its channels …
//	events, err := receiver.Wait(3, 5*time.Second)
package webhooktest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// A Receiver is a backend on loopback that takes webhooks. It verifies every request as a careful backend
// does, answers 401 to those that are not signed by one of its apps and 200 to the others, unless it was told
// to misbehave, and records everything. Its methods may be called concurrently.
type Receiver struct {
	URL string // of the receiver, without a path: any path will do

	server *httptest.Server

	mu       sync.Mutex
	secrets  map[string]webhook.Secret // by key
	requests []*Request
	accepted []*Request
	seen     map[string]bool // Webhook-Ids of accepted
	failures []int           // statuses of the next answers
	status   int             // of the answers after those
	hanging  chan struct{}   // closed by Release; nil while the receiver answers
	changed  chan struct{}   // closed, and replaced, when something was recorded
}

// A Request is one that arrived, with what it carried and what it was answered.
type Request struct {
	ID     string // Webhook-Id: the same in every attempt of one delivery
	Key    string // X-Pusher-Key
	Path   string // with the query, if there was one
	Header http.Header
	Body   []byte
	Time   time.Time // time_ms of the body: when it was stamped, first or again
	Events []Event
	Status int   // of the answer; 0 while there is none
	Err    error // why the request was refused with 401; nil if it was well signed
}

// An Event is one event of a webhook's body.
type Event struct {
	Name              webhook.EventType `json:"name"`
	Channel           string            `json:"channel"`
	Event             string            `json:"event,omitempty"`
	Data              json.RawMessage   `json:"data,omitempty"` // a JSON string, or with webhook.DataRaw the value itself
	SocketID          string            `json:"socket_id,omitempty"`
	UserID            string            `json:"user_id,omitempty"`
	SubscriptionCount int               `json:"subscription_count,omitempty"`
}

// NewReceiver starts a receiver for webhooks of the apps, of which it needs key and secret only. The caller
// closes it.
func NewReceiver(apps ...webhook.App) *Receiver {
	r := &Receiver{
		secrets: make(map[string]webhook.Secret),
		seen:    make(map[string]bool),
		status:  http.StatusOK,
		changed: make(chan struct{}),
	}
	for _, app := range apps {
		r.Accept(app)
	}
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	r.URL = r.server.URL
	return r
}

// Close stops the receiver, releasing requests that hang.
func (r *Receiver) Close() {
	r.Release()
	r.server.Close()
}

// Accept adds an app whose webhooks are accepted, or replaces its secret.
func (r *Receiver) Accept(app webhook.App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets[app.Key] = app.Secret
}

// Fail answers the next n requests with status, before anything that Answer says.
func (r *Receiver) Fail(n, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, slices.Repeat([]int{status}, n)...)
}

// Answer answers all further requests with status.
func (r *Receiver) Answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// Hang lets all further requests wait for their answer until Release, or until the sender goes away.
func (r *Receiver) Hang() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hanging == nil {
		r.hanging = make(chan struct{})
	}
}

// Release answers the requests that hang, and all further ones.
func (r *Receiver) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hanging != nil {
		close(r.hanging)
		r.hanging = nil
	}
}

// Requests returns every request so far, in the order of arrival: refused, failed and repeated ones too.
func (r *Receiver) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return values(r.requests)
}

// Deliveries returns the requests that were answered with a 2xx status, in that order, each Webhook-Id once.
func (r *Receiver) Deliveries() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return values(r.accepted)
}

// Events returns the events of all Deliveries, in order.
func (r *Receiver) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events()
}

func (r *Receiver) events() []Event {
	var events []Event
	for _, request := range r.accepted {
		events = append(events, request.Events...)
	}
	return events
}

// Wait waits until at least n events have been accepted and returns all of them. The error says how many came
// instead, and what was wrong with requests that were refused.
func (r *Receiver) Wait(n int, timeout time.Duration) ([]Event, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		events, changed, refused := r.events(), r.changed, r.refused()
		r.mu.Unlock()
		if len(events) >= n {
			return events, nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			return events, fmt.Errorf("webhooktest: %d of %d events within %v%s", len(events), n, timeout, refused)
		}
	}
}

// refused describes the last request that was refused.
func (r *Receiver) refused() string {
	for _, request := range slices.Backward(r.requests) {
		if request.Err != nil {
			return fmt.Sprintf("; a request was refused: %v", request.Err)
		}
	}
	return ""
}

func values(requests []*Request) []Request {
	all := make([]Request, len(requests))
	for i, request := range requests {
		all[i] = *request
	}
	return all
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender has gone: nothing arrived
	}
	request, status, hanging := r.record(req, body)
	if hanging != nil {
		select {
		case <-hanging:
		case <-req.Context().Done():
			return // the sender has gone: as if it had never come
		}
	}
	r.answered(request, status)
	w.WriteHeader(status)
}

// record notes a request that has arrived and returns how to answer it.
func (r *Receiver) record(req *http.Request, body []byte) (*Request, int, <-chan struct{}) {
	request := &Request{
		ID:     req.Header.Get("Webhook-Id"),
		Key:    req.Header.Get("X-Pusher-Key"),
		Path:   req.URL.RequestURI(),
		Header: req.Header,
		Body:   body,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, request)
	if request.Err = r.parse(request); request.Err != nil {
		return request, http.StatusUnauthorized, nil
	}
	status := r.status
	if len(r.failures) > 0 {
		status, r.failures = r.failures[0], r.failures[1:]
	}
	return request, status, r.hanging
}

// parse verifies a request and takes its body apart.
func (r *Receiver) parse(request *Request) error {
	secret, known := r.secrets[request.Key]
	if !known {
		return fmt.Errorf("webhooktest: no app has the key %q", request.Key)
	}
	if err := webhook.Verify(request.Key, secret, request.Header, request.Body); err != nil {
		return err
	}
	var envelope struct {
		TimeMS int64   `json:"time_ms"`
		Events []Event `json:"events"`
	}
	if err := json.Unmarshal(request.Body, &envelope); err != nil {
		return fmt.Errorf("webhooktest: body: %w", err)
	}
	request.Time, request.Events = time.UnixMilli(envelope.TimeMS), envelope.Events
	return nil
}

// answered notes the answer, before the sender can see it.
func (r *Receiver) answered(request *Request, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	request.Status = status
	if status >= 200 && status < 300 && !r.seen[request.ID] {
		r.seen[request.ID] = true
		r.accepted = append(r.accepted, request)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}
