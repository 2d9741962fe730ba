// Package webhook sends the webhooks of a Pusher-compatible websocket server: it tells the customers' backends
// what happens on their channels.
//
// A server creates one [Dispatcher] with the apps it serves and calls [Dispatcher.Emit] for every event. The
// dispatcher finds the app's webhooks that want the event, groups events into batches, one for each endpoint,
// signs each batch as Pusher does, and POSTs it until the endpoint accepts it. On shutdown
// [Dispatcher.Close] flushes.
//
//	d, err := webhook.New(webhook.Config{Apps: apps})
//	…
//	err = d.Emit("app-id", webhook.MemberAdded("presence-room", "user-7"))
//	…
//	err = d.Close(ctx)
//
// # The way of an event
//
// Emit looks up the app's routes and appends the encoded event to the open batch of every endpoint that wants
// it. An endpoint is an app's URL with its headers; webhooks that share both are one endpoint with alternative
// filters. A batch is closed when its window ends ([Config.BatchWindow], from its first event on), when it is
// full ([Config.MaxBatchEvents], [Config.MaxBatchBytes]), or at Flush and Close. While a request is in flight
// the next batch goes on filling. What leaves is a [Delivery], given to the [Sender], by default an
// [HTTPSender].
//
// # What is promised
//
//   - Emit never blocks and does no I/O.
//   - Nothing is lost silently. Every accepted event is delivered, or reported as undelivered through [Hooks]
//     and by Close, or still pending in [Stats]. An event that is not accepted is an error of Emit.
//   - Tenants never mix: not in a batch, and a slow or dead endpoint does not hold up another.
//   - An endpoint receives the events of one channel in the order they were emitted, retries included.
//   - Delivery is at least once: a repeated request is byte-identical, and has the same Webhook-Id header by
//     which a receiver can drop it.
//   - An endpoint with nothing to send has no goroutine, timer or buffer.
//
// What is queued is held in memory: it survives the endpoint's outage, not the process's. Close hands back
// what it could not deliver, to be stored and given to [Dispatcher.Redeliver] by the next process.
//
// # Receiving
//
// Bodies and signatures are Pusher's, so the webhook functions of Pusher's server libraries accept them; in
// Go, [Verify] does. Package webhooktest has a receiver for a server's own tests.
package webhook
