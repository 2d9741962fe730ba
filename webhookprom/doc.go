// Package webhookprom counts and measures what a webhook.Dispatcher does, for Prometheus.
//
// A Metrics is made before the dispatcher, because its hooks go into the configuration, and registered after
// it, because the rest is read from the dispatcher's Stats and Endpoints:
//
//	metrics := webhookprom.New(webhookprom.Config{})
//	dispatcher, err := webhook.New(webhook.Config{Apps: apps, Hooks: metrics.Hooks()})
//	// …
//	registry.MustRegister(metrics.Collector(dispatcher))
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
//	webhook_events_dropped_total             events that Drop has forgotten
//	webhook_requests_total{status}           attempts: 2xx, 3xx, 4xx, 5xx, error if there was no answer
//	webhook_endpoint_changes_total{state}    changes of an endpoint's state, to ok, failing or refusing
//
// Gauges:
//
//	webhook_held_events                      accepted events that a timing rule holds back, not queued yet
//	webhook_pending_events                   events that wait or are in flight
//	webhook_pending_bytes                    memory that these and the timing rules hold
//	webhook_active_endpoints                 endpoints with pending events
//	webhook_endpoints{state}                 endpoints that are failing or refusing, until something is accepted
//	webhook_endpoint_failures{app,endpoint}  failures in a row of each of them, by EndpointStatus.ID; only with Config.PerApp
//
// Histograms:
//
//	webhook_delivery_latency_seconds         from a batch's first event to its acceptance, retries included
//	webhook_request_duration_seconds         one attempt, on the wire
//	webhook_batch_events                     events in one accepted delivery; its count is that of deliveries
//
// In every scrape webhook_events_queued_total is exactly webhook_events_delivered_total +
// webhook_events_undelivered_total + webhook_events_dropped_total + webhook_pending_events, unless Config.PerApp is set.
// Events that are held are in none of these, as they are not queued yet, and suppressed ones never are.
//
// A Sender that does not speak HTTP has no status to tell: what it delivers counts as 2xx, and its errors as error.
//
// # Labels
//
// There is no label per tenant, URL or channel: their number has no bound. Config.PerApp adds the label app to
// whatever is known by app, for servers whose apps are few. Which endpoints are failing, and why, is what
// Dispatcher.Endpoints tells.
package webhookprom
