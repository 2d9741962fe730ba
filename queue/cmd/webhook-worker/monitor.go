package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/webhookprom"
)

// A monitor tells how a worker is.
type monitor struct {
	*queue.Worker
	nc *nats.Conn
}

// Stats are those of the worker's Dispatcher.
func (m monitor) Stats() webhook.Stats { return m.Worker.Stats().Stats }

// health says why the worker does not deliver, if it does not.
func (m monitor) health() error {
	if err := m.Worker.Stats().Err; err != nil {
		return fmt.Errorf("the worker has stopped: %w", err)
	}
	if status := m.nc.Status(); status != nats.CONNECTED {
		return errors.New("no connection to NATS")
	}
	return nil
}

func (m monitor) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if err := m.health(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// serve serves /metrics and /healthz. It returns what ends that.
func (m monitor) serve(listener net.Listener, metrics *webhookprom.Metrics) (stop func()) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.Collector(m), m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", m.serveHealth)
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(listener) // until stop
	}()
	return func() {
		_ = web.Close()
		<-done
	}
}

var (
	upDesc         = prometheus.NewDesc("webhook_worker_up", "1 while /healthz answers 200, else 0.", nil, nil)
	partitionsDesc = prometheus.NewDesc("webhook_worker_partitions", "Partitions that this worker has.", nil, nil)
	takenDesc      = prometheus.NewDesc("webhook_worker_taken_partitions_total", "Partitions taken from a worker that had gone or left.", nil, nil)
	lostDesc       = prometheus.NewDesc("webhook_worker_lost_partitions_total", "Partitions that another worker has taken while this one could not say that it is alive.", nil, nil)
	suspendedDesc  = prometheus.NewDesc("webhook_worker_suspended", "1 while nothing is sent because the worker cannot say that it is alive, else 0.", nil, nil)
	readDesc       = prometheus.NewDesc("webhook_worker_read_events_total", "Events read from the queue.", nil, nil)
	deadDesc       = prometheus.NewDesc("webhook_worker_dead_events_total", "Events given up and stored as dead letters, an endpoint each.", nil, nil)
	poisonDesc     = prometheus.NewDesc("webhook_worker_poison_messages_total", "Messages that cannot be read, stored as dead letters.", nil, nil)
	rewoundDesc    = prometheus.NewDesc("webhook_worker_rewound_total", "Times a partition was read from its beginning because the stream is another one.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m monitor) Describe(descriptions chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(m, descriptions)
}

// Collect implements prometheus.Collector.
func (m monitor) Collect(metrics chan<- prometheus.Metric) {
	s := m.Worker.Stats()
	for desc, value := range map[*prometheus.Desc]float64{
		upDesc: number(m.health() == nil), suspendedDesc: number(s.Suspended), partitionsDesc: float64(s.Partitions),
	} {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
	for desc, n := range map[*prometheus.Desc]uint64{
		takenDesc: s.Taken, lostDesc: s.Lost, readDesc: s.Read, deadDesc: s.Dead, poisonDesc: s.Poison, rewoundDesc: s.Rewound,
	} {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
