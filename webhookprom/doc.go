// Package prometheus counts and measures what a webhook.Dispatcher does, for Prometheus.
//
// A Metrics is made before the dispatcher, because its hooks go into the configuration, and registered after
// it, because the rest is read from the dispatcher's Stats:
//
//	metrics := webhookprom.New(webhookprom.Config{})
//	sender, err := webhook.NewHTTPSender(webhook.HTTPConfig{OnAttempt: metrics.OnAttempt})
//	// …
//	dispatcher, err := webhook.New(webhook.Config{Apps: apps, Sender: sender, Hooks: metrics.Hooks()})
//	// …
//	registry.MustRegister(metrics.Collector(dispatcher))
//
// Its name is that of the client library it is used with, so import it as webhookprom.
//
// # Metrics
//
// Counters:
//
//	webhook_events_emitted_total             calls of Emit that were accepted
//	webhook_events_rejected_total{reason}    calls of Emit that returned an error: queue_full, invalid_event,
//	                                         unknown_app, closed, other
//	webhook_events_suppressed_total          accepted events that a timing rule has left out
//	webhook_events_queued_total              events taken for an endpoint; one for two endpoints counts twice
//	webhook_events_delivered_total           events accepted by their endpoint
//	webhook_events_undelivered_total         events given up or handed back
//	webhook_requests_total{status}           attempts: 2xx, 3xx, 4xx, 5xx, error if there was no answer
//
// Gauges:
//
//	webhook_held_events                      accepted events that a timing rule holds back, not queued yet
//	webhook_pending_events                   events that wait or are in flight
//	webhook_pending_bytes                    memory that these and the timing rules hold
//	webhook_active_endpoints                 endpoints with pending events
//
// Histograms:
//
//	webhook_delivery_latency_seconds         from a batch's first event to its acceptance, retries included
//	webhook_request_duration_seconds         one attempt, on the wire
//	webhook_batch_events                     events in one accepted delivery; its count is that of deliveries
//
// In every scrape webhook_events_queued_total is exactly webhook_events_delivered_total +
// webhook_events_undelivered_total + webhook_pending_events, unless Config.PerApp is set.
// Events that are held are in none of these, as they are not queued yet, and suppressed ones never are.
//
// # Labels
//
// There is no label per tenant, URL or channel: their number has no bound. Config.PerApp adds the label app to
// whatever is known by app, for servers whose apps are few.
package prometheus
