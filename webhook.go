package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that Emit, SetApp and Redeliver return, wrapped with what is known about the case. Test with
// errors.Is.
var (
	ErrClosed     = errors.New("webhook: dispatcher is closed")
	ErrUnknownApp = errors.New("webhook: unknown app")
	ErrQueueFull  = errors.New("webhook: queue is full")
)

// The two ways in which a queue is full, made once: a server under pressure may see them at every Emit.
var (
	errEndpointFull   = fmt.Errorf("%w: the endpoint is at MaxEndpointQueuedBytes", ErrQueueFull)
	errDispatcherFull = fmt.Errorf("%w: all endpoints together are at MaxQueuedBytes", ErrQueueFull)
)

// A Dispatcher takes the events of many apps and delivers each to the app's endpoints that want it. Its
// methods may be called from any number of goroutines.
type Dispatcher struct {
	cfg       Config
	ownSender *HTTPSender // to tidy up at Close; nil if the user brought the Sender

	apps *appTable // changed under mu; Emit reads it without

	// mu guards the endpoints and serialises SetApp, RemoveApp and Close. It is taken before endpoint.mu, never
	// after, and never held while anything waits.
	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint
	appsSet   int // how many apps were ever set, to spread them over the counters

	timing *timing // nil when no timing rule is on

	closed  atomic.Bool // set under mu: no more events and changes
	sealed  bool        // guarded by mu: no more endpoints; what was held has been let go
	closing context.Context
	hurry   context.CancelFunc // ends closing: Close has begun
	ctx     context.Context    // of every Send
	cancel  context.CancelFunc // ends ctx: Close's time is up
	running sync.WaitGroup     // goroutines in lane.run, signAhead and timing.expire

	done     chan struct{} // closed when the first Close is done
	closeErr error         // its result, valid once done is closed

	handBackMu sync.Mutex
	handBack   []*Delivery // undelivered since Close began
	failure    error       // of the first of them

	counters    [16]counters
	delivered   atomic.Uint64
	undelivered atomic.Uint64
	requests    atomic.Uint64
	bytes       atomic.Int64
	active      atomic.Int64
}

// New returns a Dispatcher for cfg. Its error reports every fault of cfg at once, a line each, by the path of
// the field. Nothing runs until an event is emitted.
func New(cfg Config) (*Dispatcher, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("webhook: invalid config:\n%w", err)
	}
	d := &Dispatcher{
		apps:      newAppTable(),
		endpoints: make(map[endpointKey]*endpoint),
		done:      make(chan struct{}),
	}
	if cfg.Sender == nil {
		sender, err := NewHTTPSender(HTTPConfig{Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
		cfg.Sender, d.ownSender = sender, sender
	}
	d.cfg = cfg
	if t := newTiming(d); t.types != 0 {
		d.timing = t
	}
	d.cfg.Apps = nil // read once, below: what the caller does to the slice later is not our concern
	d.closing, d.hurry = context.WithCancel(context.Background())
	d.ctx, d.cancel = context.WithCancel(context.WithValue(context.Background(), closingKey{}, d.closing))
	for _, app := range cfg.Apps {
		if err := d.SetApp(app); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Emit queues e for every endpoint of the app that wants it, and returns. It never blocks and does no I/O: the
// event is encoded into memory and nothing of e is kept.
//
// Emit returns nil when the event is queued and also when no webhook wants it. Its errors match, under
// errors.Is:
//
//   - ErrUnknownApp: no app has this id.
//   - ErrInvalidEvent: the error names the field. A client_event's data is looked at only if it is wanted.
//   - ErrQueueFull: at least one endpoint has no room. The others that want the event get it all the same.
//   - ErrClosed: Close has been called.
func (d *Dispatcher) Emit(appID string, e Event) error {
	routes := d.apps.load(appID)
	err := error(nil)
	if routes != nil {
		err = d.emit(routes, &e)
	} else if err = ErrClosed; !d.closed.Load() {
		err = fmt.Errorf("%w %q", ErrUnknownApp, appID)
	}
	if err != nil {
		d.rejected(routes, appID, e, err)
	}
	return err
}

// emit is Emit for an app that exists. Here and below, whoever accepts the event counts it.
func (d *Dispatcher) emit(routes *appRoutes, e *Event) error {
	if d.closed.Load() {
		return ErrClosed
	}
	t := e.Type.set()
	if err := e.validate(t); err != nil {
		return err
	}
	if d.timing != nil && d.timing.types&t != 0 {
		return d.timing.emit(routes, t, e)
	}
	if routes.types&t == 0 {
		routes.count.emitted.Add(1)
		return nil
	}
	return d.deliver(routes, t, e, payload{})
}

// deliver queues a valid event of type t for every endpoint that wants it. p is the event's payload if it has one
// already; deliver frees it.
func (d *Dispatcher) deliver(routes *appRoutes, t typeSet, e *Event, p payload) (err error) {
	queued, wanted := &routes.count.queued, false
	if len(routes.routes) == 1 { // as most apps have: queued is emitted
		queued = &routes.count.emittedQueued
	}
	for i := range routes.routes {
		r := &routes.routes[i]
		if !r.wants(t, e.Channel) {
			continue
		}
		wanted = true
		if p.size == 0 {
			if p, err = d.payload(t, e); err != nil {
				return err
			}
		}
		if full := d.enqueue(r.endpoint, e, p, queued); full != nil {
			err = full // and on to the next: one endpoint's trouble is not the other's
		}
	}
	p.free()
	if err == nil && (!wanted || queued == &routes.count.queued) {
		routes.count.emitted.Add(1)
	}
	return err
}

// enqueue appends an event to e, or to what has taken e's place in the table.
func (d *Dispatcher) enqueue(e *endpoint, event *Event, p payload, queued *atomic.Uint64) error {
	for {
		err := e.append(event, p, queued)
		if err != errRetired {
			return err
		}
		// The app was changed between the look at its routes and here. The event still goes to the endpoint
		// that its routes named, by way of the one object that stands for it now: that keeps a channel in order.
		if e, err = d.endpoint(e.key, e.header, e.app); err != nil {
			return err
		}
	}
}

// endpoint returns the table's endpoint for key, a new one if there is none.
func (d *Dispatcher) endpoint(key endpointKey, header http.Header, app credentials) (*endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sealed {
		return nil, ErrClosed
	}
	e := d.endpoints[key]
	if e == nil {
		e = newEndpoint(d, key, header)
		d.endpoints[key] = e
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.app == (credentials{}) { // new, or made for Redeliver, which needs none
		e.app = app
	}
	return e, nil
}

// retire takes e out of the table if no webhook leads to it and nothing is pending.
func (d *Dispatcher) retire(e *endpoint) {
	e.mu.Lock()
	unused := !e.configured && e.active == 0 && !e.retired
	e.mu.Unlock()
	if !unused {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retireLocked(e)
}

func (d *Dispatcher) retireLocked(e *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.configured && e.active == 0 && !e.retired {
		e.retired = true
		delete(d.endpoints, e.key)
	}
}

// Wants reports whether a webhook of the app asks for events of type t on channel: whether it is worth
// preparing one. With a ReconnectGrace it is true for both of a pair, occupied and vacated, added and removed,
// when a webhook asks for one: the other decides whether that one is sent. It does not allocate.
func (d *Dispatcher) Wants(appID string, t EventType, channel string) bool {
	routes := d.apps.load(appID)
	if routes == nil {
		return false
	}
	types := t.set()
	if d.timing != nil {
		types = d.timing.interest(types)
	}
	return routes.wants(types, channel)
}

// SetApp adds an app, or replaces the one with the same id: its webhooks, key and secret hold for every event
// emitted afterwards. What is queued is still delivered where it was meant to go, signed with the key and
// secret that hold when it leaves. The error reports every fault of the app, as New does, or ErrClosed.
func (d *Dispatcher) SetApp(app App) error {
	if errs := app.validate(fmt.Sprintf("app %q: ", app.ID)); len(errs) > 0 {
		return fmt.Errorf("webhook: invalid config:\n%w", errors.Join(errs...))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return ErrClosed
	}
	old := d.apps.load(app.ID)
	routes := &appRoutes{}
	if old != nil {
		routes.count, routes.timing = old.count, old.timing
	} else {
		routes.count = &d.counters[d.appsSet%len(d.counters)]
		d.appsSet++
		if d.timing != nil {
			routes.timing = &appTiming{id: app.ID}
		}
	}
	for _, w := range app.Webhooks {
		routes.add(d.configure(&app, &w), w)
	}
	d.apps.store(app.ID, routes)
	if old != nil {
		d.forget(old, routes)
	}
	return nil
}

// configure returns the endpoint that w leads to, with the app's credentials. d.mu is held.
func (d *Dispatcher) configure(app *App, w *Webhook) *endpoint {
	header := w.header()
	key := endpointKey{app: app.ID, url: w.URL, header: canonicalHeader(header)}
	e := d.endpoints[key]
	if e == nil {
		e = newEndpoint(d, key, header)
		d.endpoints[key] = e
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.app = credentials{key: app.Key, secret: app.Secret}
	e.configured = true
	return e
}

// forget lets go of the endpoints that old leads to and current, which may be nil, does not. d.mu is held.
func (d *Dispatcher) forget(old, current *appRoutes) {
	kept := make(map[*endpoint]bool)
	if current != nil {
		for _, r := range current.routes {
			kept[r.endpoint] = true
		}
	}
	for _, r := range old.routes {
		if !kept[r.endpoint] {
			r.endpoint.mu.Lock()
			r.endpoint.configured = false
			r.endpoint.mu.Unlock()
			d.retireLocked(r.endpoint)
		}
	}
}

// RemoveApp removes an app: Emit then returns ErrUnknownApp for its id. What is queued is still delivered.
// Removing an app that does not exist does nothing.
func (d *Dispatcher) RemoveApp(appID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.apps.load(appID); old != nil {
		d.apps.delete(appID)
		d.forget(old, nil)
	}
}

// Redeliver queues deliveries that a hook or Close handed back, also those that an earlier process has stored.
// They go out as they are, with the same body, signature and Webhook-Id, in the order given, behind what is
// queued already; so a server calls it before it emits the first event. Batches that were made with another
// MaxInFlight may overtake each other. Their app need not exist any more.
//
// A *UndeliveredError holds those that could not be queued; its cause is ErrQueueFull, ErrClosed or says
// what is wrong with a delivery. The deliveries must not be changed afterwards.
func (d *Dispatcher) Redeliver(deliveries ...*Delivery) error {
	var refused UndeliveredError
	for i, delivery := range deliveries {
		if err := d.redeliver(delivery); err != nil {
			refused.Deliveries = append(refused.Deliveries, delivery)
			refused.Err = errors.Join(refused.Err, fmt.Errorf("deliveries[%d]: %w", i, err))
		}
	}
	if refused.Err != nil {
		return &refused
	}
	return nil
}

func (d *Dispatcher) redeliver(delivery *Delivery) error {
	if err := delivery.validate(); err != nil {
		return err
	}
	if d.closed.Load() {
		return ErrClosed
	}
	header := ownHeader(delivery.Header.Clone())
	key := endpointKey{app: delivery.AppID, url: delivery.URL, header: canonicalHeader(header)}
	err := errRetired
	for err == errRetired {
		var e *endpoint
		if e, err = d.endpoint(key, header, credentials{}); err != nil {
			return err
		}
		if err = e.redeliver(delivery, &d.counters[0].queued); err != nil {
			d.retire(e) // it may have been made for this delivery alone
		}
	}
	return err
}

// firstChannel returns the channel of a body's first event, or "".
func firstChannel(body []byte) string {
	var envelope struct {
		Events []struct {
			Channel string `json:"channel"`
		} `json:"events"`
	}
	if json.Unmarshal(body, &envelope) != nil || len(envelope.Events) == 0 {
		return ""
	}
	return envelope.Events[0].Channel
}

// Flush sends what is queued without waiting for its window, and waits until all of it has ended: delivered,
// or reported to Hooks.Undelivered. It does not shorten the waits between retries. The error is ctx's, if
// that ends first; nothing is lost then, delivery goes on.
func (d *Dispatcher) Flush(ctx context.Context) error {
	f := newFlush()
	d.mu.Lock()
	for _, e := range d.endpoints {
		e.flush(f)
	}
	d.mu.Unlock()
	f.one()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close refuses new events, sends what is queued without waiting for its window, and waits for it. A retry
// that waits for its time is made at once; a request that is under way is let finish. Later failures are
// retried as usual for as long as ctx allows: give ctx a deadline.
//
// When ctx ends first, Close cancels what is under way and returns. Whatever was not delivered since Close was
// called comes back in a *UndeliveredError, signed and complete, in order for each endpoint, and each is
// reported to Hooks.Undelivered too. Close returns soon after ctx has ended whatever the Sender does; one that
// goes on sending regardless may still deliver what was handed back.
//
// A second call, or a concurrent one, waits for the first and returns the same result, unless its own ctx
// ends before.
func (d *Dispatcher) Close(ctx context.Context) error {
	if d.shut() {
		d.closeErr = d.drain(ctx)
		close(d.done)
		return d.closeErr
	}
	select {
	case <-d.done:
		return d.closeErr
	case <-ctx.Done():
	}
	select {
	case <-d.done: // both were ready: the result says more
		return d.closeErr
	default:
		return ctx.Err()
	}
}

// shut refuses events from now on and has everything that is held or queued sent. Only the first call does,
// and returns true.
func (d *Dispatcher) shut() (first bool) {
	d.mu.Lock()
	first = !d.closed.Swap(true)
	d.mu.Unlock()
	if !first {
		return false
	}
	d.hurry()
	if d.timing != nil {
		d.timing.close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sealed = true
	for _, e := range d.endpoints {
		e.close()
	}
	return true
}

// closeGrace is how long Close waits for Sends to return after it has cancelled them. An HTTPSender needs less
// than a millisecond; a Sender that ignores its context is given up.
const closeGrace = 100 * time.Millisecond

// drain waits until every lane is empty or ctx ends, and returns what Close returns.
func (d *Dispatcher) drain(ctx context.Context) error {
	empty := make(chan struct{})
	go func() { // ends with the last lane
		d.running.Wait()
		close(empty)
	}()
	var cut error
	select {
	case <-empty:
	case <-ctx.Done():
		cut = ctx.Err()
		d.cancel()
		grace := time.NewTimer(closeGrace)
		select {
		case <-empty:
		case <-grace.C:
		}
		grace.Stop()
		d.abandon(cut)
	}
	d.cancel()
	if d.ownSender != nil {
		d.ownSender.CloseIdleConnections()
	}
	d.handBackMu.Lock()
	defer d.handBackMu.Unlock()
	if len(d.handBack) == 0 {
		return nil
	}
	if cut == nil {
		cut = d.failure
	}
	return &UndeliveredError{Deliveries: d.handBack, Err: cut}
}

// abandon ends every batch that is still pending, signed, as undelivered.
func (d *Dispatcher) abandon(cause error) {
	d.mu.Lock()
	left := make(map[*endpoint][]*batch)
	for _, e := range d.endpoints {
		if batches := e.abandon(); len(batches) > 0 {
			left[e] = batches
		}
	}
	d.mu.Unlock()
	err := fmt.Errorf("webhook: closed before it was delivered: %w", cause)
	for e, batches := range left {
		var s endpointSigner
		for _, b := range batches {
			delivery := s.delivery(e, e.app, b) // e.app: SetApp is closed too
			d.keep(delivery, err)
			d.ended(delivery, 0, err)
			for _, f := range b.flushes {
				f.one()
			}
		}
	}
}

// A loss is an event that Emit has accepted and held, and for which its endpoint then had no room.
type loss struct {
	delivery *Delivery
	err      error
	count    *counters
}

// release queues an event that was held. Where there is no room for it any more it makes the event a delivery
// of its own, to be reported as undelivered.
func (d *Dispatcher) release(routes *appRoutes, e *Event) (lost []loss) {
	t := e.Type.set()
	p, _ := newPayload(t, e, d.cfg.ClientData) // cannot fail: no client_event is ever held
	defer p.free()
	for i := range routes.routes {
		r := &routes.routes[i]
		if !r.wants(t, e.Channel) {
			continue
		}
		if err := d.enqueue(r.endpoint, e, p, &routes.count.queued); err != nil {
			lost = append(lost, loss{r.endpoint.single(e, p), err, routes.count})
		}
	}
	return lost
}

// report accounts for losses. No lock is held.
func (d *Dispatcher) report(lost []loss) {
	for _, l := range lost {
		l.count.queued.Add(1)
		d.keep(l.delivery, l.err)
		d.ended(l.delivery, 0, l.err)
	}
}

// send calls the Sender. A panic costs this delivery alone. The delivery's body may be used again if nobody
// can have kept it: neither the Sender nor a hook, which may keep what they are given.
func (d *Dispatcher) send(delivery *Delivery) (reusable bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			reusable, err = false, panicked(d.cfg.Logger, "Sender", v)
		}
	}()
	if sender, ok := d.cfg.Sender.(*HTTPSender); ok {
		reusable, err = sender.send(d.ctx, delivery)
		return reusable && d.cfg.Hooks.Delivered == nil, err
	}
	return false, d.cfg.Sender.Send(d.ctx, delivery)
}

// keep has Close return a delivery that has failed, if it was called before.
func (d *Dispatcher) keep(delivery *Delivery, err error) {
	if !d.closed.Load() {
		return
	}
	d.handBackMu.Lock()
	defer d.handBackMu.Unlock()
	d.handBack = append(d.handBack, delivery)
	if d.failure == nil {
		d.failure = err
	}
}

// ended takes the result of one delivery into the accounts and tells the hooks. No lock is held.
func (d *Dispatcher) ended(delivery *Delivery, took time.Duration, err error) {
	events := uint64(delivery.Events)
	if err == nil {
		d.requests.Add(1)
		d.delivered.Add(events)
		d.cfg.Hooks.delivered(d, delivery, took)
		return
	}
	d.undelivered.Add(events)
	d.cfg.Hooks.undelivered(d, delivery, err)
}
