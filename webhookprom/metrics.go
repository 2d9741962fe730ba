package webhookprom

import "github.com/prometheus/client_golang/prometheus"

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

	rejected *family[prometheus.Counter]  // by reason
	requests *family[prometheus.Counter]  // by status
	changes  *family[prometheus.Counter]  // of endpoints, by the new state
	latency  *family[prometheus.Observer] // of accepted deliveries
	duration *family[prometheus.Observer] // of attempts
	batch    *family[prometheus.Observer] // of accepted deliveries

	// Stats has these for all apps together; by app only the hooks know them. Nil unless perApp.
	delivered   *family[prometheus.Counter]
	undelivered *family[prometheus.Counter]
}

// New returns a Metrics for one Dispatcher. It panics, as the client library does, if buckets are not ascending.
func New(cfg Config) *Metrics {
	m := &Metrics{perApp: cfg.PerApp}
	m.rejected = counters(prometheus.CounterOpts{
		Name: "webhook_events_rejected_total",
		Help: "Calls of Emit that returned an error.",
	}, m.labels("reason"))
	m.requests = counters(prometheus.CounterOpts{
		Name: "webhook_requests_total",
		Help: "Attempts to deliver, by class of the answer's status; error if there was no answer.",
	}, m.labels("status"))
	m.changes = counters(prometheus.CounterOpts{
		Name: "webhook_endpoint_changes_total",
		Help: "Changes of an endpoint's state, by the new one. Changes back and forth within RetryWaitMin may be left out.",
	}, m.labels("state"))
	m.latency = histograms(prometheus.HistogramOpts{
		Name:    "webhook_delivery_latency_seconds",
		Help:    "Time from a batch's first event to its acceptance, retries included.",
		Buckets: or(cfg.LatencyBuckets, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600),
	}, m.labels())
	m.duration = histograms(prometheus.HistogramOpts{
		Name:    "webhook_request_duration_seconds",
		Help:    "Duration of one attempt, reading the answer included.",
		Buckets: or(cfg.RequestBuckets, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
	}, m.labels())
	m.batch = histograms(prometheus.HistogramOpts{
		Name:    "webhook_batch_events",
		Help:    "Events in one accepted delivery.",
		Buckets: or(cfg.BatchBuckets, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
	}, m.labels())
	if m.perApp {
		m.delivered = counters(deliveredOpts, m.labels())
		m.undelivered = counters(undeliveredOpts, m.labels())
	} else {
		m.startAtZero()
	}
	return m
}

// startAtZero makes the series that are known beforehand, so that the first increase of each can be seen.
func (m *Metrics) startAtZero() {
	for _, reason := range []string{reasonQueueFull, reasonInvalidEvent, reasonUnknownApp, reasonClosed, reasonOther} {
		m.rejected.series("", reason)
	}
	for _, status := range []string{"2xx", "3xx", "4xx", "5xx", statusError} {
		m.requests.series("", status)
	}
	for _, state := range endpointStates {
		m.changes.series("", state.String())
	}
	for _, histogram := range []*family[prometheus.Observer]{m.latency, m.duration, m.batch} {
		histogram.series("", "")
	}
}

func or(buckets []float64, standard ...float64) []float64 {
	if len(buckets) > 0 {
		return buckets
	}
	return standard
}

// labels adds the label app to a metric's own, if there is to be one.
func (m *Metrics) labels(own ...string) []string {
	if m.perApp {
		return append(own, labelApp)
	}
	return own
}

// vectors returns everything that the hooks count.
func (m *Metrics) vectors() []vector {
	all := []vector{m.rejected, m.requests, m.changes, m.latency, m.duration, m.batch}
	if m.perApp {
		all = append(all, m.delivered, m.undelivered)
	}
	return all
}

type vector interface {
	prometheus.Collector
	forget(app string)
}

// Forget removes the series of an app that is gone, if there is a label for it. What is still delivered for the
// app brings them back: flush before, or forget later.
func (m *Metrics) Forget(appID string) {
	if !m.perApp {
		return
	}
	for _, v := range m.vectors() {
		v.forget(appID)
	}
}
