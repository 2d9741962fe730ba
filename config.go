package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An App is one tenant of the server: its credentials and its webhooks. The JSON is soketi's, field for field;
// fields of soketi's apps that do not concern webhooks are ignored.
//
// An App is for reading: its JSON form and its printed form hold no secret, header value, password or query
// string, so an App that was marshalled cannot be loaded again.
type App struct {
	ID       string    `json:"id"`
	Key      string    `json:"key"`    // sent as X-Pusher-Key
	Secret   Secret    `json:"secret"` // signs the deliveries
	Webhooks []Webhook `json:"webhooks"`
}

// A Webhook asks for events of some types, on the channels that Filter lets through, to be POSTed to URL.
//
// Webhooks of one app with the same URL and the same headers are one endpoint: an event that several of them
// want is sent there once.
type Webhook struct {
	URL        string            `json:"url"` // absolute, http or https; may hold userinfo, sent as basic authentication
	EventTypes []EventType       `json:"event_types"`
	Filter     Filter            `json:"filter"`
	Headers    map[string]string `json:"headers"` // sent with every delivery; cannot replace the headers that the library sets
}

// UnmarshalJSON reads soketi's webhook format. It refuses lambda_function: a webhook that would be silently
// ignored is worse than one that stops the server at its start.
func (w *Webhook) UnmarshalJSON(data []byte) error {
	type plain Webhook // without this method
	soketi := struct {
		*plain
		LambdaFunction string `json:"lambda_function"`
	}{plain: (*plain)(w)}
	if err := json.Unmarshal(data, &soketi); err != nil {
		return err
	}
	if soketi.LambdaFunction != "" {
		return errors.New("webhook: lambda_function: not supported yet, give the function a URL and set url instead")
	}
	return nil
}

// MarshalJSON leaves out what may be secret: header values, and the URL's userinfo and query.
func (w Webhook) MarshalJSON() ([]byte, error) {
	type plain Webhook
	w.URL = redactURL(w.URL)
	w.Headers = maps.Clone(w.Headers)
	for name := range w.Headers {
		w.Headers[name] = redacted
	}
	return json.Marshal(plain(w))
}

// Format implements fmt.Formatter, for every verb, without what may be secret.
func (w Webhook) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{%s %s %+v %s}", redactURL(w.URL), w.EventTypes, w.Filter, slices.Sorted(maps.Keys(w.Headers)))
}

// Config configures a Dispatcher. The zero value of every field means its default.
type Config struct {
	Apps []App // more can be added with SetApp

	// BatchWindow is how long a batch waits for more events, from its first on. Default 50ms, as in soketi.
	BatchWindow time.Duration

	// MaxBatchEvents closes a batch. 1 turns batching off: every event is a request of its own, sent at once.
	// Default 1000: batches of 100 take four times as long for an event; those of 10 000 take half, in bodies of a
	// megabyte, which many a receiver refuses (BenchmarkDeliver).
	MaxBatchEvents int

	// MaxBatchBytes closes a batch: no body is larger. Default 512 KiB, room for 1000 events of half a kilobyte: in
	// 128 KiB events of 2 KiB take half as long again, in 2 MiB they take no less (BenchmarkDeliver). Some receivers
	// take less unless told otherwise, as express.json does with 100 kB.
	MaxBatchBytes int

	// MaxEventBytes is the largest event, encoded. A larger one is ErrInvalidEvent. Default 64 KiB.
	MaxEventBytes int

	// MaxInFlight is the number of requests under way to one endpoint. Events of one channel never are in two
	// of them. Default 1, which makes the fewest requests; with batching off 16, which takes a third less time for
	// a request than 1, and a tenth more than 64 connections would (BenchmarkDeliver).
	MaxInFlight int

	// MaxQueuedBytes bounds the memory of all events that wait or are in flight; beyond it Emit returns
	// ErrQueueFull. Default 256 MiB.
	MaxQueuedBytes int64

	// MaxEndpointQueuedBytes is one endpoint's share of MaxQueuedBytes. Default 16 MiB.
	MaxEndpointQueuedBytes int64

	// The timing rules of Pusher, each off by default; WithPusherTiming switches them on together. What they hold
	// or leave out is counted in Stats.Held and Stats.Suppressed. Close lets go at once what is held; Flush does
	// not.

	// ReconnectGrace holds channel_vacated and member_removed for so long. If meanwhile the channel is occupied
	// again, or the member returns, neither event is sent. Events about others on the channel do not wait, so
	// they come before the one that is held.
	ReconnectGrace time.Duration

	// CountInterval lets through at most one subscription_count per channel in so long a time while the count is
	// above CountThreshold, and in the end always the latest.
	CountInterval time.Duration

	// CountThreshold is the count up to which every subscription_count is sent at once. Default 100, as Pusher's;
	// negative: none is.
	CountThreshold int

	// CacheMissWindow lets through one cache_miss per channel in so long a time.
	CacheMissWindow time.Duration

	ClientData ClientData   // how client_event data is written. Default DataString, as Pusher does
	Sender     Sender       // default: an HTTPSender with its own defaults and this Logger
	Hooks      Hooks        // what to tell the server
	Logger     *slog.Logger // default: discards
}

// The defaults of Config. Limits that depend on each other make room for those that are set.
const (
	defaultBatchWindow            = 50 * time.Millisecond
	defaultMaxBatchEvents         = 1000
	defaultMaxBatchBytes          = 512 << 10
	defaultMaxEventBytes          = 64 << 10
	defaultMaxInFlightUnbatched   = 16
	defaultMaxQueuedBytes         = 256 << 20
	defaultMaxEndpointQueuedBytes = 16 << 20
)

// withDefaults returns a copy of c with every zero limit filled in. A default never contradicts a limit that
// is set: a large MaxEventBytes raises the batch that has to hold it, a small queue lowers it.
func (c Config) withDefaults() Config {
	c.BatchWindow = or(c.BatchWindow, defaultBatchWindow)
	c.MaxBatchEvents = or(c.MaxBatchEvents, defaultMaxBatchEvents)
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1
		if c.MaxBatchEvents == 1 {
			c.MaxInFlight = defaultMaxInFlightUnbatched
		}
	}
	smallestBatch := max(c.MaxBatchBytes, c.MaxEventBytes+envelopeBytes)
	smallestQueue := max(c.MaxEndpointQueuedBytes, int64(smallestBatch+batchOverhead))
	c.MaxQueuedBytes = or(c.MaxQueuedBytes, max(defaultMaxQueuedBytes, smallestQueue))
	c.MaxEndpointQueuedBytes = or(c.MaxEndpointQueuedBytes, min(max(defaultMaxEndpointQueuedBytes, smallestQueue), c.MaxQueuedBytes))
	largestBatch := max(1, int(c.MaxEndpointQueuedBytes)-batchOverhead)
	c.MaxBatchBytes = or(c.MaxBatchBytes, min(max(defaultMaxBatchBytes, smallestBatch), largestBatch))
	c.MaxEventBytes = or(c.MaxEventBytes, max(1, min(defaultMaxEventBytes, c.MaxBatchBytes-envelopeBytes)))
	c.CountThreshold = or(c.CountThreshold, 100)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func or[T comparable](value, otherwise T) T {
	if zero := *new(T); value == zero {
		return otherwise
	}
	return value
}

// validate reports every fault of a Config that has its defaults, by the path of the field.
func (c *Config) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, limit := range []struct {
		field string
		value int64
	}{
		{"BatchWindow", int64(c.BatchWindow)}, {"MaxBatchEvents", int64(c.MaxBatchEvents)},
		{"MaxBatchBytes", int64(c.MaxBatchBytes)}, {"MaxEventBytes", int64(c.MaxEventBytes)},
		{"MaxInFlight", int64(c.MaxInFlight)}, {"MaxQueuedBytes", c.MaxQueuedBytes},
		{"MaxEndpointQueuedBytes", c.MaxEndpointQueuedBytes},
	} {
		if limit.value <= 0 {
			fault("%s: must be positive, or 0 for the default", limit.field)
		}
	}
	for field, d := range map[string]time.Duration{
		"ReconnectGrace": c.ReconnectGrace, "CountInterval": c.CountInterval, "CacheMissWindow": c.CacheMissWindow,
	} {
		if d < 0 {
			fault("%s: must be positive, or 0 for off", field)
		}
	}
	if len(errs) == 0 { // with wrong signs the relations say nothing
		if c.MaxEventBytes+envelopeBytes > c.MaxBatchBytes {
			fault("MaxBatchBytes: %d is too small for an event of MaxEventBytes, %d, and %d bytes of envelope",
				c.MaxBatchBytes, c.MaxEventBytes, envelopeBytes)
		}
		if int64(c.MaxBatchBytes+batchOverhead) > c.MaxEndpointQueuedBytes {
			fault("MaxEndpointQueuedBytes: %d is too small for a batch of MaxBatchBytes, %d, and %d bytes to keep it",
				c.MaxEndpointQueuedBytes, c.MaxBatchBytes, batchOverhead)
		}
		if c.MaxEndpointQueuedBytes > c.MaxQueuedBytes {
			fault("MaxEndpointQueuedBytes: %d is more than MaxQueuedBytes, %d", c.MaxEndpointQueuedBytes, c.MaxQueuedBytes)
		}
	}
	if c.ClientData != DataString && c.ClientData != DataRaw {
		fault("ClientData: must be DataString or DataRaw, got %d", int(c.ClientData))
	}
	first := make(map[string]int, len(c.Apps))
	for i := range c.Apps {
		app := &c.Apps[i]
		path := fmt.Sprintf("apps[%d] %q: ", i, app.ID)
		if j, taken := first[app.ID]; taken && app.ID != "" {
			fault("%sid: is taken by apps[%d]", path, j)
		} else {
			first[app.ID] = i
		}
		errs = append(errs, app.validate(path)...)
	}
	return errors.Join(errs...)
}

// validate returns every fault of an app, each behind path. No message holds a secret, a header's value or a
// URL's userinfo or query.
func (a *App) validate(path string) (errs []error) {
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s%w", path, fmt.Errorf(format, args...)))
	}
	if a.ID == "" {
		fault("id: must not be empty")
	}
	if a.Key == "" {
		fault("key: must not be empty")
	} else if !validHeaderValue(a.Key) {
		fault("key: has a character that an HTTP header cannot carry")
	}
	switch a.Secret {
	case "":
		fault("secret: must not be empty")
	case redacted:
		fault("secret: is the placeholder of an App that was marshalled, not the secret itself")
	}
	for i := range a.Webhooks {
		for _, err := range a.Webhooks[i].validate() {
			fault("webhooks[%d].%w", i, err)
		}
	}
	return errs
}

func (w *Webhook) validate() (errs []error) {
	if err := validateURL(w.URL); err != nil {
		errs = append(errs, fmt.Errorf("url: %w", err))
	}
	if len(w.EventTypes) == 0 {
		errs = append(errs, fmt.Errorf("event_types: must name at least one of %s", knownTypes()))
	}
	for i, t := range w.EventTypes {
		if t.set() == 0 {
			errs = append(errs, fmt.Errorf("event_types[%d]: unknown %q, known are %s", i, string(t), knownTypes()))
		}
	}
	spelling := make(map[string]string, len(w.Headers))
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		if other, twice := spelling[canonical]; twice {
			errs = append(errs, fmt.Errorf("headers[%q]: is the same header as %q", name, other))
		}
		spelling[canonical] = name
		if err := validateHeader(name, w.Headers[name]); err != nil {
			errs = append(errs, fmt.Errorf("headers[%q]: %w", name, err))
		}
	}
	return errs
}

// header returns the webhook's own headers in canonical form, without those that every delivery overrides.
func (w *Webhook) header() http.Header {
	if len(w.Headers) == 0 {
		return nil // most have none: a map costs 48 bytes
	}
	h := make(http.Header, len(w.Headers))
	for name, value := range w.Headers {
		h.Set(name, value)
	}
	return ownHeader(h)
}

// ownHeader removes from h what the library sets on every delivery, and returns h.
func ownHeader(h http.Header) http.Header {
	for _, name := range ownHeaders {
		h.Del(name)
	}
	return h
}

// canonicalHeader is equal for equal headers, and for no others: neither names nor values can hold a NUL.
func canonicalHeader(h http.Header) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			b.WriteString(name + "\x00" + value + "\x00")
		}
	}
	return b.String()
}

// Errors of validateURL and parseURL tell the URL without its userinfo and query, and not at all if it cannot be taken apart.
func validateURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("is not a valid URL")
	case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("must be an absolute http or https URL, got %q", redactURL(raw))
	}
	return u, nil
}

// redactURL removes what may be secret from a URL: the userinfo, the query and the fragment.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return redacted
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	return u.String()
}

// Headers that belong to the connection or to the body, not to the app (RFC 9110, sections 7.6.1 and 8.6).
var connectionHeaders = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func validateHeader(name, value string) error {
	switch {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isTokenChar(r) }):
		return errors.New("is not a valid header name (RFC 9110, section 5.1)")
	case slices.Contains(connectionHeaders, http.CanonicalHeaderKey(name)):
		return errors.New("belongs to the connection and cannot be set")
	case !validHeaderValue(value):
		return errors.New("its value has a character that an HTTP header cannot carry (RFC 9110, section 5.5)")
	}
	return nil
}

func isTokenChar(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// validHeaderValue allows what RFC 9110 does: no control characters but the tab.
func validHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f })
}

// ConfigFromEnv reads soketi's environment: WEBHOOKS_BATCHING (true or false) and
// WEBHOOKS_BATCHING_DURATION (milliseconds). The same names with the prefix SOKETI_, as soketi 1.x has them,
// win where both are set. As in soketi, batching is off unless it is enabled there; the default Config, on the
// other hand, has it on.
func ConfigFromEnv() (Config, error) {
	var cfg Config
	var errs []error
	batching := false
	if name, value := soketiEnv("WEBHOOKS_BATCHING"); value != "" {
		var err error
		if batching, err = strconv.ParseBool(value); err != nil {
			errs = append(errs, fmt.Errorf("webhook: %s: must be true or false, got %q", name, value))
		}
	}
	if !batching {
		cfg.MaxBatchEvents = 1
	}
	if name, value := soketiEnv("WEBHOOKS_BATCHING_DURATION"); value != "" {
		ms, err := strconv.ParseFloat(value, 64)
		if err != nil || !(ms >= 0 && ms <= maxBatchingDuration) {
			errs = append(errs, fmt.Errorf("webhook: %s: must be a number of milliseconds from 0 to %d, got %q",
				name, maxBatchingDuration, value))
		}
		cfg.BatchWindow = max(time.Millisecond, time.Duration(ms*float64(time.Millisecond))) // 0 is 1, as in Node's setTimeout
	}
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	return cfg, nil
}

// maxBatchingDuration is what Node's setTimeout takes at the most, in milliseconds.
const maxBatchingDuration = 1<<31 - 1

// soketiEnv returns the variable that is set, the prefixed one first, and its value.
func soketiEnv(name string) (string, string) {
	if value := os.Getenv("SOKETI_" + name); value != "" {
		return "SOKETI_" + name, value
	}
	return name, os.Getenv(name)
}
