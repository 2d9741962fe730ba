package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// A Delivery is one signed request: a batch of events of one app for one URL. It holds no secret, so it can be
// stored or handed to another process and sent later, by Dispatcher.Redeliver or by any HTTP client.
//
// Its JSON form is complete and for storage: it holds the app's custom headers, which may carry an
// Authorization, and the URL with its query. Its printed form, through fmt and log/slog, leaves those and the
// body out.
//
// A Sender or a hook may keep a Delivery, and must not change it.
type Delivery struct {
	ID        string      `json:"id"` // the Webhook-Id header; the same for every attempt
	AppID     string      `json:"app_id"`
	URL       string      `json:"url"`
	Header    http.Header `json:"header"` // complete: the app's own, Content-Type, X-Pusher-*, Webhook-Id
	Body      []byte      `json:"body"`
	Events    int         `json:"events"`     // in Body
	CreatedAt time.Time   `json:"created_at"` // when its first event was queued: time_ms in Body

	health *health // of the endpoint that made it; nil for a delivery that was stored
}

// Format implements fmt.Formatter, for every verb, without what may be secret.
func (d Delivery) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "delivery %s of %d events for app %s to %s", d.ID, d.Events, d.AppID, d.host())
}

// LogValue implements slog.LogValuer, without what may be secret.
func (d Delivery) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", d.ID), slog.String("app", d.AppID),
		slog.String("host", d.host()), slog.Int("events", d.Events))
}

func (d *Delivery) host() string {
	u, err := url.Parse(d.URL)
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
		for _, value := range values {
			if err := validateHeader(name, value); err != nil {
				return fmt.Errorf("header[%q]: %w", name, err)
			}
		}
	}
	for _, name := range []string{headerKey, headerSignature, headerID} {
		if d.Header.Get(name) == "" {
			return fmt.Errorf("header: has no %s", name)
		}
	}
	switch {
	case len(d.Body) == 0:
		return errors.New("body: must not be empty")
	case d.Events < 1:
		return fmt.Errorf("events: must be at least 1, got %d", d.Events)
	}
	return nil
}

// A Sender delivers one request. Send blocks until the endpoint has accepted d, and returns nil; or until it
// gives d up for good or ctx ends, and returns an error. Retries are the Sender's own business: the
// Dispatcher calls it once for each delivery and counts on the answer.
//
// Send is called concurrently, for up to MaxInFlight deliveries of one endpoint, and for deliveries of one
// channel in their order, each after the last has returned. It must return when ctx ends, which happens only
// when the time given to Close is up; see Closing for what comes before. Send must not change d, but may keep
// it. A panic counts as an error.
type Sender interface {
	Send(ctx context.Context, d *Delivery) error
}

// SenderFunc makes a function a Sender.
type SenderFunc func(ctx context.Context, d *Delivery) error

// Send calls f.
func (f SenderFunc) Send(ctx context.Context, d *Delivery) error { return f(ctx, d) }

type closingKey struct{}

// Closing tells a Sender that Close has begun: the channel, of the context that Send got, is closed then. A
// Sender that waits to retry had better not wait any longer: try again at once and let requests that are
// under way finish. For a context that does not come from a Dispatcher the channel is nil.
func Closing(ctx context.Context) <-chan struct{} {
	if closing := closingContext(ctx); closing != nil {
		return closing.Done()
	}
	return nil
}

func closingContext(ctx context.Context) context.Context {
	closing, _ := ctx.Value(closingKey{}).(context.Context)
	return closing
}

// An UndeliveredError holds deliveries that were not accepted by their endpoints, in order for each endpoint,
// complete and signed: store them and pass them to Redeliver.
type UndeliveredError struct {
	Deliveries []*Delivery
	Err        error // why; from Close it is ctx's error if that ended first, otherwise the first delivery's
}

// Error counts what is left and names the cause.
func (e *UndeliveredError) Error() string {
	events := 0
	for _, d := range e.Deliveries {
		if d != nil {
			events += d.Events
		}
	}
	return fmt.Sprintf("webhook: undelivered (deliveries: %d, events: %d): %v", len(e.Deliveries), events, e.Err)
}

// Unwrap returns Err.
func (e *UndeliveredError) Unwrap() error { return e.Err }
