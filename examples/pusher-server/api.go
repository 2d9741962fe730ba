package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/pusherhooks/webhook/channels"
)

// An apiError is answered as it is, with its status.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// signed wraps a call of the HTTP API: it finds the app, verifies the signed query and answers in JSON.
func (s *server) signed(call func(h *hub, r *http.Request, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := s.call(w, r, call)
		if err != nil {
			status := http.StatusInternalServerError
			if e := (*apiError)(nil); errors.As(err, &e) {
				status = e.status
			}
			http.Error(w, err.Error(), status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(result) // the caller may have gone
	}
}

func (s *server) call(w http.ResponseWriter, r *http.Request, call func(*hub, *http.Request, []byte) (any, error)) (any, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(callTime)) // for whatever is left of it too
	h := s.byID[r.PathValue("id")]
	if h == nil {
		return nil, &apiError{http.StatusNotFound, "unknown app"}
	}
	if err := h.app.verifyRequest(r, time.Now()); err != nil {
		return nil, &apiError{http.StatusUnauthorized, err.Error()}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCall))
	if err != nil {
		return nil, &apiError{http.StatusRequestEntityTooLarge, "the body could not be read: " + err.Error()}
	}
	if err := verifyBody(r, body); err != nil {
		return nil, &apiError{http.StatusUnauthorized, err.Error()}
	}
	if h.app.disabled() {
		return nil, &apiError{http.StatusForbidden, "the app is disabled"}
	}
	return call(h, r, body)
}

// An apiEvent is the body of POST /events. An entry of a batch names one channel in place of several.
type apiEvent struct {
	Name     string   `json:"name"`
	Data     *string  `json:"data"`
	Channel  string   `json:"channel"`
	Channels []string `json:"channels"`
	SocketID string   `json:"socket_id"` // not to this one
}

var socketID = regexp.MustCompile(`^\d+\.\d+$`)

// check completes Channels and says what is wrong with the event.
func (e *apiEvent) check() error {
	if e.Channel != "" {
		e.Channels = append(e.Channels, e.Channel)
	}
	switch {
	case e.Name == "" || len(e.Name) > maxEventName:
		return badRequest("name must have 1 to %d bytes", maxEventName)
	case e.Data == nil:
		return badRequest("data must be a string")
	case len(*e.Data) > maxEventData:
		return &apiError{http.StatusRequestEntityTooLarge, fmt.Sprintf("data must have %d bytes at the most", maxEventData)}
	case len(e.Channels) == 0 || len(e.Channels) > maxChannelsCall:
		return badRequest("channels must name 1 to %d channels", maxChannelsCall)
	case e.SocketID != "" && !socketID.MatchString(e.SocketID):
		return badRequest("socket_id is not valid")
	}
	for _, name := range e.Channels {
		if !validChannel(name) {
			return badRequest("invalid channel name %.200q", name)
		}
	}
	return nil
}

func (e *apiEvent) publish(h *hub) {
	for _, name := range e.Channels {
		h.publish(message{Event: e.Name, Channel: name, Data: object(*e.Data)}, e.SocketID)
	}
}

func postEvent(h *hub, _ *http.Request, body []byte) (any, error) {
	var e apiEvent
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, badRequest("invalid body: %v", err)
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	e.publish(h)
	return struct{}{}, nil
}

func postBatch(h *hub, _ *http.Request, body []byte) (any, error) {
	var batch struct {
		Batch []apiEvent `json:"batch"`
	}
	if err := json.Unmarshal(body, &batch); err != nil {
		return nil, badRequest("invalid body: %v", err)
	}
	if len(batch.Batch) > maxBatchCall {
		return nil, badRequest("a batch has %d events at the most", maxBatchCall)
	}
	for i := range batch.Batch { // all or nothing
		if err := batch.Batch[i].check(); err != nil {
			return nil, fmt.Errorf("batch[%d]: %w", i, err)
		}
	}
	for i := range batch.Batch {
		batch.Batch[i].publish(h)
	}
	return struct{}{}, nil
}

// An attribute is what a query about channels asks for beside whether they are occupied, by info.
type attribute string

const (
	userCount         attribute = "user_count"
	subscriptionCount attribute = "subscription_count"
)

// A channelInfo has the attributes that were asked for.
type channelInfo struct {
	Occupied          *bool `json:"occupied,omitempty"` // of a single channel
	UserCount         *int  `json:"user_count,omitempty"`
	SubscriptionCount *int  `json:"subscription_count,omitempty"`
}

// attributes are those of a query. Users are counted on presence channels only:
// https://pusher.com/docs/channels/library_auth_reference/rest-api/#channels.
func attributes(r *http.Request, name string) (asked []attribute, err error) {
	for _, a := range strings.FieldsFunc(r.URL.Query().Get("info"), func(c rune) bool { return c == ',' || c == ' ' }) {
		switch a := attribute(a); {
		case a != userCount && a != subscriptionCount:
			return nil, badRequest("info: unknown attribute %.200q, known are %s and %s", string(a), userCount, subscriptionCount)
		case a == userCount && !isPresence(name):
			return nil, badRequest("info: %s is an attribute of presence channels only", userCount)
		default:
			asked = append(asked, a)
		}
	}
	return asked, nil
}

func describe(counts channels.Counts, asked []attribute) (info channelInfo) {
	for _, a := range asked {
		switch a {
		case userCount:
			info.UserCount = &counts.Members
		case subscriptionCount:
			info.SubscriptionCount = &counts.Subscribers
		}
	}
	return info
}

// getChannels lists the occupied channels. A query for user_count has to filter by presence-.
func getChannels(h *hub, r *http.Request, _ []byte) (any, error) {
	prefix := r.URL.Query().Get("filter_by_prefix")
	asked, err := attributes(r, prefix)
	if err != nil {
		return nil, err
	}
	list := make(map[string]channelInfo)
	for name, counts := range h.tracker.Channels(h.app.ID, prefix) {
		list[name] = describe(counts, asked)
	}
	return map[string]any{"channels": list}, nil
}

func getChannel(h *hub, r *http.Request, _ []byte) (any, error) {
	name := r.PathValue("name")
	if !validChannel(name) {
		return nil, badRequest("invalid channel name %.200q", name)
	}
	asked, err := attributes(r, name)
	if err != nil {
		return nil, err
	}
	counts := h.tracker.Counts(h.app.ID, name)
	info, occupied := describe(counts, asked), counts.Subscribers > 0
	info.Occupied = &occupied
	return info, nil
}

// getUsers lists the members of a presence channel.
func getUsers(h *hub, r *http.Request, _ []byte) (any, error) {
	name := r.PathValue("name")
	if !isPresence(name) || !validChannel(name) {
		return nil, badRequest("users are those of a presence channel, which %.200q is not", name)
	}
	type member struct {
		ID string `json:"id"`
	}
	users := []member{}
	for id := range h.tracker.Members(h.app.ID, name) {
		users = append(users, member{id})
	}
	return map[string]any{"users": users}, nil
}
