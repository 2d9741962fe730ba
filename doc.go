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
// Emit encodes the event and appends it to the open batch of every endpoint that wants it. An endpoint is an
// app's URL with its headers; webhooks that share both are one endpoint with alternative filters. A batch closes
// when its window ends ([Config.BatchWindow], from its first event on), when it is full
// ([Config.MaxBatchEvents], [Config.MaxBatchBytes]), and at Flush and Close. While a request is in flight the
// next batch goes on filling. What leaves is a [Delivery], given to the [Sender], by default an [HTTPSender],
// which makes one attempt.
//
// The dispatcher decides when the next attempt is due. An endpoint that fails backs off as a whole, and gives up
// what is older than [Config.RetryFor]. A batch that is refused is divided, and the event at fault set aside.
// Apps share the wire and the memory in such a way that none waits for another.
//
// # What is promised
//
//   - Emit never blocks and does no I/O.
//   - Nothing is lost silently. Every accepted event is delivered, or reported as undelivered through [Hooks]
//     and by Close, or still pending in [Stats]. An event that is not accepted is an error of Emit.
//   - Tenants never mix: not in a batch, and a slow, dead or hostile endpoint does not hold up another app's.
//   - An endpoint receives the events of one channel in the order they were emitted, retries included, but for
//     those it refused.
//   - Delivery is at least once: a repeated attempt has the same Webhook-Id header, for the receiver to drop it.
//   - An endpoint that waits, or has nothing to send, has no goroutine.
//
// What is queued is held in memory: it survives the endpoint's outage, not the process's. Close hands back
// what it could not deliver, to be stored and given to [Dispatcher.Redeliver] by the next process. Package
// webhookspool does that on disk.
//
// # Receiving
//
// Bodies and signatures are Pusher's, so the webhook functions of Pusher's server libraries accept them. In Go,
// [Verify] checks them. Package webhooktest has a receiver for a server's own tests.
package webhook
