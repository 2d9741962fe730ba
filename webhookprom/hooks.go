package webhookprom

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pusherhooks/webhook"
)

// Hooks returns hooks for webhook.Config that count, and then call those of each of also, in order. They keep no
// delivery, and allocate only when something is counted for the first time. GivenUp is nil unless one of also has it, as
// the dispatcher waits for whoever sets it; with several it has settled when all have.
func (m *Metrics) Hooks(also ...webhook.Hooks) webhook.Hooks {
	c := &chain{metrics: m, also: slices.Clone(also)}
	return webhook.Hooks{
		Delivered:   c.delivered,
		Undelivered: c.undelivered,
		GivenUp:     c.givenUp(),
		Attempt:     c.attempt,
		Endpoint:    c.endpoint,
		Rejected:    c.rejected,
	}
}

// A chain is a Metrics, and other hooks behind it.
type chain struct {
	metrics *Metrics
	also    []webhook.Hooks
}

func (c *chain) delivered(d *webhook.Delivery, took time.Duration) {
	c.metrics.onDelivered(d)
	for i := range c.also {
		if hook := c.also[i].Delivered; hook != nil {
			hook(d, took)
		}
	}
}

func (c *chain) undelivered(d *webhook.Delivery, err error) {
	c.metrics.onUndelivered(d)
	for i := range c.also {
		if hook := c.also[i].Undelivered; hook != nil {
			hook(d, err)
		}
	}
}

func (c *chain) givenUp() func(*webhook.Delivery, error, func()) {
	var hooks []func(*webhook.Delivery, error, func())
	for i := range c.also {
		if hook := c.also[i].GivenUp; hook != nil {
			hooks = append(hooks, hook)
		}
	}
	if len(hooks) == 0 {
		return nil
	}
	return func(d *webhook.Delivery, err error, settle func()) {
		var left atomic.Int64
		left.Store(int64(len(hooks)))
		for _, hook := range hooks {
			hook(d, err, sync.OnceFunc(func() {
				if left.Add(-1) == 0 {
					settle()
				}
			}))
		}
	}
}

func (c *chain) attempt(d *webhook.Delivery, a webhook.Attempt) {
	c.metrics.onAttempt(d, a)
	for i := range c.also {
		if hook := c.also[i].Attempt; hook != nil {
			hook(d, a)
		}
	}
}

func (c *chain) endpoint(s webhook.EndpointStatus) {
	c.metrics.onEndpoint(s)
	for i := range c.also {
		if hook := c.also[i].Endpoint; hook != nil {
			hook(s)
		}
	}
}

func (c *chain) rejected(appID string, e webhook.Event, err error) {
	c.metrics.onRejected(appID, err)
	for i := range c.also {
		if hook := c.also[i].Rejected; hook != nil {
			hook(appID, e, err)
		}
	}
}

func (m *Metrics) onDelivered(d *webhook.Delivery) {
	m.batch.series(d.AppID, "").Observe(float64(d.Events))
	// A delivery that was stored has lost its monotonic clock, and the wall clock may have been set back since.
	latency := max(0, time.Since(d.CreatedAt))
	m.latency.series(d.AppID, "").Observe(latency.Seconds())
	if m.perApp {
		m.delivered.series(d.AppID, "").Add(float64(d.Events))
	}
}

func (m *Metrics) onUndelivered(d *webhook.Delivery) {
	if m.perApp {
		m.undelivered.series(d.AppID, "").Add(float64(d.Events))
	}
}

func (m *Metrics) onAttempt(d *webhook.Delivery, a webhook.Attempt) {
	m.requests.series(d.AppID, statusOf(a)).Inc()
	m.duration.series(d.AppID, "").Observe(a.Took.Seconds())
}

func (m *Metrics) onEndpoint(s webhook.EndpointStatus) {
	m.changes.series(s.AppID, s.State.String()).Inc()
}

func (m *Metrics) onRejected(appID string, err error) {
	reason := reasonOf(err)
	if reason == reasonUnknownApp || reason == reasonClosed {
		appID = "" // see Config.PerApp
	}
	m.rejected.series(appID, reason).Inc()
}

const statusError = "error" // of an attempt without an answer

// statusClasses are the classes by their first digit.
var statusClasses = [...]string{statusError, "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx"}

// statusOf returns the class of an attempt's status. A Sender that knows none has only accepted, or not.
func statusOf(a webhook.Attempt) string {
	switch class := a.Status / 100; {
	case a.Status == 0 && a.Err == nil:
		return "2xx"
	case class > 0 && class < len(statusClasses):
		return statusClasses[class]
	}
	return statusError
}

// Why an event was rejected.
const (
	reasonQueueFull    = "queue_full"
	reasonInvalidEvent = "invalid_event"
	reasonUnknownApp   = "unknown_app"
	reasonClosed       = "closed"
	reasonOther        = "other"
)

func reasonOf(err error) string {
	switch {
	case errors.Is(err, webhook.ErrQueueFull):
		return reasonQueueFull
	case errors.Is(err, webhook.ErrInvalidEvent):
		return reasonInvalidEvent
	case errors.Is(err, webhook.ErrUnknownApp):
		return reasonUnknownApp
	case errors.Is(err, webhook.ErrClosed):
		return reasonClosed
	}
	return reasonOther
}
