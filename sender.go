package webhook

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A Delivery is one signed request: a batch of events of one app for one URL. It holds no secret, so it can be
// stored or handed to another process and sent later, by Dispatcher.Redeliver or by any HTTP client.
//
// Its JSON form is complete and for storage: it holds the app's custom headers, which may carry an
// Authorization, and the URL with its query. Its printed form, through fmt and log/slog, leaves those and the
// body out.
//
// What Hooks.Undelivered and Close hand over belongs to the caller. Every other Delivery is only lent: a Sender,
// Hooks.Delivered and Hooks.Attempt must not change it, nor keep it or its body once they return, because its
// memory is used again. Clone makes a copy to keep.
type Delivery struct {
	ID        string      `json:"id"` // the Webhook-Id header; the same for every attempt
	AppID     string      `json:"app_id"`
	URL       string      `json:"url"`
	Header    http.Header `json:"header"` // complete: the app's own, Content-Type, X-Pusher-*, Webhook-Id
	Body      []byte      `json:"body"`
	Events    int         `json:"events"`     // in Body
	CreatedAt time.Time   `json:"created_at"` // Event.At of its first event, or when that was accepted; time_ms in Body is when it was stamped

	stamped time.Time    // time_ms, and when the signature was made; zero if that was elsewhere
	by      *credentials // who signed it; nil if that was elsewhere
}

// EndpointID is EndpointStatus.ID of the endpoint that d is for.
func (d *Delivery) EndpointID() string {
	return endpointKey{app: d.AppID, url: d.URL, header: canonicalHeader(ownHeader(d.Header.Clone()))}.id()
}

// Clone returns a copy that shares nothing with d.
func (d *Delivery) Clone() *Delivery {
	clone := *d
	clone.Header, clone.Body = d.Header.Clone(), slices.Clone(d.Body)
	return &clone
}

// Format implements fmt.Formatter, for every verb, without what may be secret.
func (d Delivery) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "delivery %s of %d events for app %s to %s", d.ID, d.Events, d.AppID, hostOf(d.URL))
}

// LogValue implements slog.LogValuer, without what may be secret.
func (d Delivery) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", d.ID), slog.String("app", d.AppID),
		slog.String("host", hostOf(d.URL)), slog.Int("events", d.Events))
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return redacted
	}
	return u.Host
}

// validate checks a delivery that comes from outside, as New checks a Config.
func (d *Delivery) validate() error {
	if d == nil {
		return errors.New("is nil")
	}
	if err := validateURL(d.URL); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	for name, values := range d.Header {
		if name != http.CanonicalHeaderKey(name) {
			return fmt.Errorf("header[%q]: must be written as %q", name, http.CanonicalHeaderKey(name))
		}
		for _, value := range values {
			if err := validateHeader(name, value); err != nil {
				return fmt.Errorf("header[%q]: %w", name, err)
			}
		}
	}
	if size := headerSize(ownHeader(d.Header.Clone())); size > maxWebhookHeaders {
		return fmt.Errorf("header: has %d bytes of the app's own, at most %d are sent", size, maxWebhookHeaders)
	}
	for _, name := range []string{headerKey, headerSignature, headerID} {
		if values := d.Header[name]; len(values) != 1 || values[0] == "" {
			return fmt.Errorf("header: must have one %s, has %d", name, len(values))
		}
	}
	return nil
}

func headerSize(h http.Header) (n int) {
	for name, values := range h {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	return n
}

// A Sender makes one attempt to deliver. The dispatcher decides when, and what an error means:
//
//   - nil: the endpoint has accepted d.
//   - errors.Is(err, ErrFinal): this delivery is never tried again, and the endpoint waits for RetryWaitMax.
//   - errors.Is(err, ErrRefused): the endpoint answers, and does not take this body. A batch is divided; a single
//     event is set aside, tried again after 1, 2 and 4 seconds, and then reported.
//   - anything else: a failure of the endpoint. It waits, as long as err's method RetryAfter() time.Duration says
//     if it has one, and then gets the same delivery again.
//
// Send is called concurrently, for up to MaxInFlight deliveries of one endpoint; deliveries of one channel come in
// order, each after the last has returned. ctx ends after SendTimeout, when Close's time is up, or a second into the
// last attempt that Close gives an endpoint that was failing: Send must return then. It must not change d, nor keep it or its body once it has returned. A panic counts as ErrRefused.
type Sender interface {
	Send(ctx context.Context, d *Delivery) error
}

// SenderFunc makes a function a Sender.
type SenderFunc func(ctx context.Context, d *Delivery) error

// Send calls f.
func (f SenderFunc) Send(ctx context.Context, d *Delivery) error { return f(ctx, d) }

// What a Sender's error may say; see Sender.
var (
	// ErrFinal gives this delivery up.
	ErrFinal = errors.New("webhook: never to be tried again")
	// ErrRefused says that the endpoint answers, and does not take this body.
	ErrRefused = errors.New("webhook: refused by the endpoint")
)

// A verdict is what the result of a Send means.
type verdict int

const (
	accepted verdict = iota
	refused
	final
	failed
	unsent // a fault of this machine, which says nothing about the endpoint
)

func verdictOn(err error) verdict {
	switch {
	case err == nil:
		return accepted
	case errors.Is(err, ErrFinal):
		return final
	case errors.Is(err, ErrRefused):
		return refused
	case slices.ContainsFunc(localErrors, func(local error) bool { return errors.Is(err, local) }):
		return unsent
	}
	return failed
}

// An outcome is all that a Sender's error says. It is asked once, and before any lock is taken: its methods are the
// user's, and may panic.
type outcome struct {
	err     error
	verdict verdict
	text    string
	asks    time.Duration // to wait; 0 if it does not ask
	status  int           // of the answer, if the error tells
}

func outcomeOf(err error, logger *slog.Logger) (o outcome) {
	defer func() {
		if v := recover(); v != nil {
			err := panicked(logger, "the Sender's error", v)
			o = outcome{err: err, verdict: refused, text: errorText(err)}
		}
	}()
	o = outcome{err: err, verdict: verdictOn(err), text: errorText(err)}
	if asks, ok := err.(interface{ RetryAfter() time.Duration }); ok || errors.As(err, &asks) {
		o.asks = max(0, asks.RetryAfter())
	}
	if answer, ok := errors.AsType[*StatusError](err); ok {
		o.status = answer.Code
	}
	return o
}

// localErrors mean that this process has no descriptor or buffer left. EADDRNOTAVAIL is none of them: an address that
// somebody chose brings it about too.
var localErrors = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS}

// run makes one attempt after the other, for as long as something is due and there is a place on the wire. It has
// one when it starts.
func (l *lane) run() {
	for l.turn() {
	}
}

// turn makes an attempt and reports whether the lane has a place for another. What follows an attempt is deferred:
// a Sender or a hook that ends its goroutine, as a failing test does, must not leave the lane busy for ever.
func (l *lane) turn() (again bool) {
	b, stamped := l.take()
	if b == nil {
		return l.finish(nil, true)
	}
	returned := false
	defer func() { again = l.finish(b, returned) }()
	if !stamped {
		l.endpoint.prepare(b, &l.signer)
		l.endpoint.shared.settling.done()
	}
	l.attempt(b)
	returned = true
	return again
}

// attempt calls the Sender and has the endpoint learn what came of it.
func (l *lane) attempt(b *batch) {
	e := l.endpoint
	a := Attempt{Err: errEnded}
	started := time.Now()
	defer func() {
		l.cancel()
		a.Took = time.Since(started)
		status, at := l.noted.answer()
		took := a.Took
		if !at.IsZero() {
			took = at.Sub(started) // the rest of the answer does not count
		}
		a.Status = status
		l.settle(b, &a, took)
	}()
	defer func() { // by itself: the Logger may end the goroutine
		if v := recover(); v != nil {
			a.Err = panicked(e.shared.cfg.Logger, "Sender", v)
		}
	}()
	a.N = int(b.sends)
	a.Err = e.shared.cfg.Sender.Send(l.ctx, b.delivery)
}

// errEnded is the error of a Sender that has ended its goroutine.
var errEnded = &panicError{where: "Sender", value: "runtime.Goexit"}

// A noted answer is what an HTTPSender tells the dispatcher, beside its error, by way of Send's context.
type noted struct {
	mu     sync.Mutex // a Sender may ask several HTTPSenders at once
	status int
	at     time.Time // of the status line
}

// note keeps the latest status; 0 is none.
func (n *noted) note(status int, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status, n.at = status, at
}

func (n *noted) answer() (status int, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status, n.at
}

type notedKey struct{}

// freshFor is how long a stamp is sent as it is. Pusher's Python library refuses a time_ms older than 300 s.
const freshFor = 4 * time.Minute

// stale reports whether b has to be made ready before it leaves.
func (e *endpoint) stale(b *batch) bool {
	d, by := b.delivery, e.account.credentials.Load()
	if by == nil { // stored deliveries of an unknown app go out as they are
		return false
	}
	return d == nil || d.Header == nil || d.by != by || time.Since(d.stamped) >= freshFor
}

// prepare makes b's delivery ready to leave: stamped, signed, complete. Nobody else uses b meanwhile.
func (e *endpoint) prepare(b *batch, s *signer) {
	by := e.account.credentials.Load()
	if by == nil {
		return
	}
	d := b.delivery
	if d == nil {
		d = &Delivery{AppID: e.key.app, URL: e.key.url}
		b.delivery = d
	}
	if d.ID == "" {
		d.ID = rand.Text()
	}
	if d.Header == nil {
		d.Header = e.newHeader()
	}
	if d.by != by || time.Since(d.stamped) >= freshFor {
		d.stamped, d.by = time.Now(), by
		d.Body = stamp(b.buf, d.stamped)
	}
	d.Events, d.CreatedAt = b.events, b.createdAt().UTC()
	d.Header[headerKey][0] = by.key
	d.Header[headerSignature][0] = s.signature(by, d.Body)
	d.Header[headerID][0] = d.ID
}

// newHeader returns a header with the endpoint's own fields and room for ours.
func (e *endpoint) newHeader() http.Header {
	header := make(http.Header, len(e.header)+len(ownHeaders))
	for name, values := range e.header {
		header[name] = slices.Clone(values) // what is handed over is the caller's
	}
	values := make([]string, len(ownHeaders))
	values[0] = "application/json"
	for i, name := range ownHeaders {
		header[name] = values[i : i+1 : i+1]
	}
	return header
}
