package prometheus

import (
	"errors"
	"strconv"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/pusherhooks/webhook"
)

// Config configures a Metrics. The zero value of every field means its default.
type Config struct {
	// PerApp adds the label app, the app's id, to all metrics but those that only exist for all apps
	// together: emitted, suppressed, queued and the gauges. Every app costs some fifty series from its first delivery
	// on, until Metrics.Forget. The label is empty where an event is rejected as unknown_app or closed: nobody
	// has looked whether that app exists, and anybody may make up ids.
	PerApp bool

	// LatencyBuckets are the upper bounds of webhook_delivery_latency_seconds, ascending. The default goes from
	// 10ms to 10m, as webhooks are retried for minutes.
	LatencyBuckets []float64

	// RequestBuckets are the upper bounds of webhook_request_duration_seconds, ascending. The default goes from
	// 5ms to 10s, which is HTTPConfig's default Timeout.
	RequestBuckets []float64

	// BatchBuckets are the upper bounds of webhook_batch_events, ascending. The default goes from 1 to 1000,
	// which is the default MaxBatchEvents.
	BatchBuckets []float64
}

// Metrics holds what the hooks of one Dispatcher count. Its methods may be called concurrently.
type Metrics struct {
	perApp bool

	rejected *prom.CounterVec   // by reason
	requests *prom.CounterVec   // by status
	latency  *prom.HistogramVec // of accepted deliveries
	duration *prom.HistogramVec // of attempts
	batch    *prom.HistogramVec // of accepted deliveries

	// Stats has these for all apps together; by app only the hooks know them. Nil unless perApp.
	delivered   *prom.CounterVec
	undelivered *prom.CounterVec
}

// New returns a Metrics for one Dispatcher. It panics, as the client library does, if buckets are not ascending.
func New(cfg Config) *Metrics {
	m := &Metrics{perApp: cfg.PerApp}
	m.rejected = prom.NewCounterVec(prom.CounterOpts{
		Name: "webhook_events_rejected_total",
		Help: "Calls of Emit that returned an error.",
	}, m.labels("app", "reason"))
	m.requests = prom.NewCounterVec(prom.CounterOpts{
		Name: "webhook_requests_total",
		Help: "Attempts to deliver, by class of the answer's status; error if there was no answer.",
	}, m.labels("app", "status"))
	m.latency = prom.NewHistogramVec(prom.HistogramOpts{
		Name:    "webhook_delivery_latency_seconds",
		Help:    "Time from a batch's first event to its acceptance, retries included.",
		Buckets: or(cfg.LatencyBuckets, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600),
	}, m.labels("app"))
	m.duration = prom.NewHistogramVec(prom.HistogramOpts{
		Name:    "webhook_request_duration_seconds",
		Help:    "Duration of one attempt, reading the answer included.",
		Buckets: or(cfg.RequestBuckets, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
	}, m.labels("app"))
	m.batch = prom.NewHistogramVec(prom.HistogramOpts{
		Name:    "webhook_batch_events",
		Help:    "Events in one accepted delivery.",
		Buckets: or(cfg.BatchBuckets, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
	}, m.labels("app"))
	if m.perApp {
		m.delivered = prom.NewCounterVec(deliveredOpts, m.labels("app"))
		m.undelivered = prom.NewCounterVec(undeliveredOpts, m.labels("app"))
	} else {
		m.startAtZero()
	}
	return m
}

// startAtZero makes the series that are known beforehand, so that the first increase of each can be seen.
func (m *Metrics) startAtZero() {
	for _, reason := range []string{reasonQueueFull, reasonInvalidEvent, reasonUnknownApp, reasonClosed, reasonOther} {
		m.rejected.WithLabelValues(reason)
	}
	for _, status := range []string{"2xx", "3xx", "4xx", "5xx", statusError} {
		m.requests.WithLabelValues(status)
	}
	for _, histogram := range []*prom.HistogramVec{m.latency, m.duration, m.batch} {
		histogram.WithLabelValues()
	}
}

func or(buckets []float64, standard ...float64) []float64 {
	if len(buckets) > 0 {
		return buckets
	}
	return standard
}

// labels returns a metric's label names, or the values of one series: others, and app if there is such a label.
func (m *Metrics) labels(app string, others ...string) []string {
	if m.perApp {
		return append(others, app)
	}
	return others
}

// vectors returns everything that the hooks count.
func (m *Metrics) vectors() []vector {
	all := []vector{m.rejected, m.requests, m.latency, m.duration, m.batch}
	if m.perApp {
		all = append(all, m.delivered, m.undelivered)
	}
	return all
}

type vector interface {
	prom.Collector
	DeletePartialMatch(labels prom.Labels) int
}

// Hooks returns hooks for webhook.Config that count, and then call those of each of also, in order.
func (m *Metrics) Hooks(also ...webhook.Hooks) webhook.Hooks {
	own := webhook.Hooks{Delivered: m.onDelivered, Undelivered: m.onUndelivered, Rejected: m.onRejected}
	all := append([]webhook.Hooks{own}, also...)
	return webhook.Hooks{
		Delivered: func(d *webhook.Delivery, took time.Duration) {
			for _, h := range all {
				if h.Delivered != nil {
					h.Delivered(d, took)
				}
			}
		},
		Undelivered: func(d *webhook.Delivery, err error) {
			for _, h := range all {
				if h.Undelivered != nil {
					h.Undelivered(d, err)
				}
			}
		},
		Rejected: func(appID string, e webhook.Event, err error) {
			for _, h := range all {
				if h.Rejected != nil {
					h.Rejected(appID, e, err)
				}
			}
		},
	}
}

// OnAttempt counts one attempt. It is meant to be HTTPConfig.OnAttempt, or to be called by it.
func (m *Metrics) OnAttempt(d *webhook.Delivery, a webhook.Attempt) {
	status := statusError
	if a.Status != 0 {
		status = strconv.Itoa(a.Status/100) + "xx"
	}
	m.requests.WithLabelValues(m.labels(d.AppID, status)...).Inc()
	m.duration.WithLabelValues(m.labels(d.AppID)...).Observe(a.Took.Seconds())
}

const statusError = "error" // status of an attempt without an answer

// Forget removes the series of an app that is gone, if there is a label for it. What is still delivered for the
// app brings them back: flush before, or forget later.
func (m *Metrics) Forget(appID string) {
	if !m.perApp {
		return
	}
	for _, v := range m.vectors() {
		v.DeletePartialMatch(prom.Labels{"app": appID})
	}
}

func (m *Metrics) onDelivered(d *webhook.Delivery, _ time.Duration) {
	labels := m.labels(d.AppID)
	m.batch.WithLabelValues(labels...).Observe(float64(d.Events))
	// A delivery that was stored has lost its monotonic clock, and the wall clock may have been set back since.
	latency := max(0, time.Since(d.CreatedAt))
	m.latency.WithLabelValues(labels...).Observe(latency.Seconds())
	if m.perApp {
		m.delivered.WithLabelValues(labels...).Add(float64(d.Events))
	}
}

func (m *Metrics) onUndelivered(d *webhook.Delivery, _ error) {
	if m.perApp {
		m.undelivered.WithLabelValues(d.AppID).Add(float64(d.Events))
	}
}

func (m *Metrics) onRejected(appID string, _ webhook.Event, err error) {
	reason := reasonOf(err)
	if reason == reasonUnknownApp || reason == reasonClosed {
		appID = "" // see Config.PerApp
	}
	m.rejected.WithLabelValues(m.labels(appID, reason)...).Inc()
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
