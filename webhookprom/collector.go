package webhookprom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pusherhooks/webhook"
)

// A Source is a webhook.Dispatcher, or what has one inside, such as a worker of a queue.
type Source interface {
	Stats() webhook.Stats
	Endpoints(appID string) []webhook.EndpointStatus
}

var _ Source = (*webhook.Dispatcher)(nil)

// A Collector gives a registry the metrics of one Dispatcher: what the hooks have counted, and the dispatcher's
// Stats and Endpoints at the time of the scrape.
type Collector struct {
	dispatcher Source
	metrics    *Metrics
	stats      []statsMetric
}

var _ prometheus.Collector = (*Collector)(nil)

// Collector returns what to register with Prometheus, once the Dispatcher that has the hooks of m is there.
// It stays valid after the Dispatcher's Close.
//
// A registry takes one dispatcher's metrics under their names. For several dispatchers in one process,
// register each with prometheus.WrapRegistererWith and a label of your own.
func (m *Metrics) Collector(d Source) *Collector {
	return &Collector{dispatcher: d, metrics: m, stats: statsMetrics(m.perApp)}
}

// Describe implements the client library's Collector.
func (c *Collector) Describe(descriptions chan<- *prometheus.Desc) {
	for _, m := range c.stats {
		descriptions <- m.desc
	}
	descriptions <- endpointsDesc
	if c.metrics.perApp {
		descriptions <- failuresDesc
	}
	for _, v := range c.metrics.vectors() {
		v.Describe(descriptions)
	}
}

// Collect implements the client library's Collector.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	stats := c.dispatcher.Stats() // once, so that the numbers of one scrape add up
	for _, m := range c.stats {
		metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&stats))
	}
	c.collectEndpoints(metrics)
	for _, v := range c.metrics.vectors() {
		v.Collect(metrics)
	}
}

// endpointStates are those in which an endpoint can be.
var endpointStates = []webhook.EndpointState{webhook.EndpointOK, webhook.EndpointFailing, webhook.EndpointRefusing}

var endpointsDesc = prometheus.NewDesc("webhook_endpoints",
	"Endpoints that do not accept what they get, by state.", []string{"state"}, nil)

var failuresDesc = prometheus.NewDesc("webhook_endpoint_failures",
	"Failures in a row of an endpoint that does not accept what it gets, by the app and the endpoint's ID.", []string{labelApp, "endpoint"}, nil)

// collectEndpoints counts the endpoints that are not well, and tells which. The dispatcher does not tell how many are.
func (c *Collector) collectEndpoints(metrics chan<- prometheus.Metric) {
	count := make(map[webhook.EndpointState]int)
	for _, status := range c.dispatcher.Endpoints("") {
		count[status.State]++
		if c.metrics.perApp && status.State != webhook.EndpointOK {
			metrics <- prometheus.MustNewConstMetric(failuresDesc, prometheus.GaugeValue, float64(status.Failures), appLabel(status.AppID), status.ID)
		}
	}
	for _, state := range endpointStates {
		if state != webhook.EndpointOK {
			metrics <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, float64(count[state]), state.String())
		}
	}
}

// The metrics that come from Stats, or with a label for the app from the hooks.
var (
	deliveredOpts = prometheus.CounterOpts{
		Name: "webhook_events_delivered_total",
		Help: "Events accepted by their endpoint.",
	}
	undeliveredOpts = prometheus.CounterOpts{
		Name: "webhook_events_undelivered_total",
		Help: "Events given up, or handed back at Close.",
	}
)

// A statsMetric is a metric that is one field of Stats.
type statsMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*webhook.Stats) float64
}

// statsMetrics lists what Stats gives: a field added to Stats is one more entry here.
func statsMetrics(perApp bool) []statsMetric {
	all := []statsMetric{
		counter("webhook_events_emitted_total", "Calls of Emit that were accepted.",
			func(s *webhook.Stats) float64 { return float64(s.Emitted) }),
		gauge("webhook_held_events", "Accepted events that a timing rule holds back, not queued yet.",
			func(s *webhook.Stats) float64 { return float64(s.Held) }),
		counter("webhook_events_suppressed_total", "Accepted events that a timing rule has left out.",
			func(s *webhook.Stats) float64 { return float64(s.Suppressed) }),
		counter("webhook_events_queued_total", "Events taken for an endpoint; one for two endpoints counts twice.",
			func(s *webhook.Stats) float64 { return float64(s.Queued) }),
		counter("webhook_events_dropped_total", "Events that Drop has forgotten.",
			func(s *webhook.Stats) float64 { return float64(s.Dropped) }),
		gauge("webhook_pending_events", "Events that wait or are in flight.",
			func(s *webhook.Stats) float64 { return float64(s.Pending) }),
		gauge("webhook_pending_bytes", "Memory that pending events and the timing rules hold.",
			func(s *webhook.Stats) float64 { return float64(s.PendingBytes) }),
		gauge("webhook_active_endpoints", "Endpoints with pending events.",
			func(s *webhook.Stats) float64 { return float64(s.ActiveEndpoints) }),
	}
	if perApp {
		return all // the hooks count the two below
	}
	return append(all,
		counter(deliveredOpts.Name, deliveredOpts.Help,
			func(s *webhook.Stats) float64 { return float64(s.Delivered) }),
		counter(undeliveredOpts.Name, undeliveredOpts.Help,
			func(s *webhook.Stats) float64 { return float64(s.Undelivered) }),
	)
}

func counter(name, help string, value func(*webhook.Stats) float64) statsMetric {
	return statsMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, value}
}

func gauge(name, help string, value func(*webhook.Stats) float64) statsMetric {
	return statsMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, value}
}
