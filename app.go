package webhook

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An App is one tenant of the server: its credentials and its webhooks. The JSON is soketi's, field for field.
//
// A marshalled or printed App leaves out secrets, header values, passwords and query strings, so it cannot be loaded
// again.
type App struct {
	ID       string    `json:"id" yaml:"id"`
	Key      string    `json:"key" yaml:"key"`       // sent as X-Pusher-Key
	Secret   Secret    `json:"secret" yaml:"secret"` // signs the deliveries
	Webhooks []Webhook `json:"webhooks" yaml:"webhooks"`
}

// A Webhook asks for events of some types, on the channels that Filter lets through, to be POSTed to URL.
//
// Webhooks of one app with the same URL and the same headers are one endpoint: an event that several of them
// want is sent there once.
type Webhook struct {
	URL        string            `json:"url" yaml:"url"` // absolute, http or https; may hold userinfo, sent as basic authentication
	EventTypes []EventType       `json:"event_types" yaml:"event_types"`
	Filter     Filter            `json:"filter" yaml:"filter"`
	Headers    map[string]string `json:"headers" yaml:"headers"` // sent with every delivery; cannot replace the headers that the library sets
}

// Format implements fmt.Formatter, for every verb, without what may be secret.
func (w Webhook) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{%s %s %+v %s}", redactURL(w.URL), w.EventTypes, w.Filter, slices.Sorted(maps.Keys(w.Headers)))
}

// redacted is what a Secret, and whatever else may hold one, prints as.
const redacted = "[redacted]"

// A Secret is an app's secret. It prints as [redacted] through fmt, log/slog and encoding/json;
// string(secret) is the value.
type Secret string

// Format implements fmt.Formatter, for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which encoding/json and other encoders use.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Validate returns every fault of an app, a line each: SetApp's, with the default MaxWebhooks. It is for who stores apps for a
// Dispatcher that runs elsewhere.
func (a App) Validate() error {
	if errs := a.validate(fmt.Sprintf("app %q: ", a.ID), Config{}.withDefaults().MaxWebhooks); len(errs) > 0 {
		return fmt.Errorf("webhook: invalid app:\n%w", errors.Join(errs...))
	}
	return nil
}

// validate returns every fault of an app, each behind path. No message holds a secret, a header's value or a
// URL's userinfo or query.
func (a *App) validate(path string, maxWebhooks int) (errs []error) {
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s%w", path, fmt.Errorf(format, args...)))
	}
	switch {
	case a.ID == "":
		fault("id: must not be empty")
	case !utf8.ValidString(a.ID):
		fault("id: must be UTF-8")
	}
	switch {
	case a.Key == "":
		fault("key: must not be empty")
	case !utf8.ValidString(a.Key):
		fault("key: must be UTF-8")
	case !validHeaderValue(a.Key):
		fault("key: has a character that an HTTP header cannot carry")
	}
	switch a.Secret {
	case "":
		fault("secret: must not be empty")
	case redacted:
		fault("secret: is the placeholder of an App that was marshalled, not the secret itself")
	}
	if len(a.Webhooks) > maxWebhooks {
		fault("webhooks: are %d, MaxWebhooks is %d", len(a.Webhooks), maxWebhooks)
		return errs
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
	size, spelling := 0, make(map[string]string, len(w.Headers))
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		if other, twice := spelling[canonical]; twice {
			errs = append(errs, fmt.Errorf("headers[%q]: is the same header as %q", name, other))
		}
		spelling[canonical] = name
		size += len(name) + len(w.Headers[name])
		if err := validateHeader(name, w.Headers[name]); err != nil {
			errs = append(errs, fmt.Errorf("headers[%q]: %w", name, err))
		}
	}
	if size > maxWebhookHeaders {
		errs = append(errs, fmt.Errorf("headers: have %d bytes, at most %d are sent", size, maxWebhookHeaders))
	}
	return errs
}

// maxWebhookHeaders bounds the names and values of one webhook's headers: each delivery that is handed back
// has a copy of them.
const maxWebhookHeaders = 8 << 10

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

func validateURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

// parseURL's errors tell the URL without its userinfo and query, and not at all if it cannot be taken apart.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case strings.Contains(raw, redacted):
		return nil, errors.New("is that of a Webhook that was marshalled, which leaves out what may be secret")
	case len(raw) > maxURLBytes:
		return nil, fmt.Errorf("has %d bytes, at most %d are allowed", len(raw), maxURLBytes)
	case err != nil:
		return nil, errors.New("is not a valid URL")
	case !utf8.ValidString(raw):
		return nil, errors.New("must be UTF-8")
	case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("must be an absolute http or https URL, got %q", redactURL(raw))
	case strings.ContainsFunc(u.Hostname(), func(r rune) bool { return !isHostChar(r) }):
		return nil, fmt.Errorf("its host %q has a character that a host cannot have, or that must be written as punycode", u.Hostname())
	case strings.ContainsFunc(u.RawQuery, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, errors.New("its query has a character that must be percent-encoded")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("its port must be from 1 to 65535, is %s", port)
		}
	}
	return u, nil
}

// maxURLBytes is what servers take of a request line, and some.
const maxURLBytes = 8 << 10

// isHostChar allows names (RFC 1123, and the underscore of many a private network) and addresses, IPv6 with its zone.
func isHostChar(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-._:%", r)
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

// connectionHeaders belong to the connection or the body, not to the app (RFC 9110, sections 7.6.1, 8.6, 10.1.1).
var connectionHeaders = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func validateHeader(name, value string) error {
	switch {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isTokenChar(r) }):
		return errors.New("is not a valid header name (RFC 9110, section 5.1)")
	case slices.Contains(connectionHeaders, http.CanonicalHeaderKey(name)):
		return errors.New("belongs to the connection and cannot be set")
	case strings.Contains(value, redacted):
		return errors.New("its value is the placeholder of a Webhook that was marshalled, not the value itself")
	case !utf8.ValidString(value): // the JSON of a Delivery could not hold it
		return errors.New("its value must be UTF-8")
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
