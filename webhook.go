package webhook

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that Emit, SetApp, Redeliver and Hooks.Undelivered give, wrapped with what is known about the case. Test
// with errors.Is.
var (
	// ErrClosed: Close has been called.
	ErrClosed = errors.New("webhook: dispatcher is closed")
	// ErrUnknownApp: no app has this id, or not any more.
	ErrUnknownApp = errors.New("webhook: unknown app")
	// ErrQueueFull: an endpoint is at its limit, or the app has its share of MaxQueuedBytes.
	ErrQueueFull = errors.New("webhook: queue is full")
	// ErrPurged: Purge has given the delivery up.
	ErrPurged = errors.New("webhook: purged")
)

// The two ways in which a queue is full, made once: a server under pressure may see them at every Emit.
var (
	errEndpointFull   = fmt.Errorf("%w: the endpoint is at MaxEndpointQueuedBytes", ErrQueueFull)
	errDispatcherFull = fmt.Errorf("%w: the app has its share of MaxQueuedBytes", ErrQueueFull)
)

// A Dispatcher takes the events of many apps and delivers each to the app's endpoints that want it. Its
// methods may be called from any number of goroutines.
type Dispatcher struct {
	shared
	ownSender *HTTPSender // to tidy up at Close; nil if the user brought the Sender
	timing    *timing     // nil when no timing rule is on

	accounts accounts // changed under mu, Emit reads it without

	// mu guards the endpoints and the accounts' lives, and serialises SetApp, RemoveApp and Close. It is taken
	// before endpoint.mu, never after, and never held while anything waits.
	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint
	appsSet   int      // how many accounts were ever made, to spread them over the counters
	flushes   []*flush // that were not over yet

	closed   atomic.Bool   // set under mu: no more events and changes
	done     chan struct{} // closed when the first Close is done
	closeErr error         // its result, valid once done is closed

	counters [16]counters
}

// New returns a Dispatcher for cfg. Its error reports every fault of cfg at once, a line each, by the path of
// the field. Nothing runs until an event is emitted.
func New(cfg Config) (*Dispatcher, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("webhook: invalid config:\n%w", err)
	}
	d := &Dispatcher{endpoints: make(map[endpointKey]*endpoint), done: make(chan struct{})}
	if cfg.Sender == nil {
		sender, err := NewHTTPSender(HTTPConfig{})
		if err != nil {
			return nil, err
		}
		cfg.Sender, d.ownSender = sender, sender
	}
	apps := cfg.Apps
	cfg.Apps = nil // read once, below: what the caller does to the slice later is not our concern
	d.cfg, d.retire = cfg, d.retireEndpoint
	d.schedule.init(cfg.MaxConcurrent)
	d.closing.idle = make(chan struct{})
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if t := newTiming(d); t.types != 0 {
		d.timing = t
	}
	for _, app := range apps {
		if err := d.SetApp(app); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Format implements fmt.Formatter, for every verb: a Dispatcher holds secrets, and prints none.
func (d *Dispatcher) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "webhook.Dispatcher%+v", d.Stats()) }

// Emit queues e for every endpoint of the app that wants it, and returns. It never blocks and does no I/O: the
// event is encoded into memory and nothing of e is kept.
//
// Emit returns nil when the event is queued and also when no webhook wants it. Its errors match, under
// errors.Is:
//
//   - ErrUnknownApp: no app has this id.
//   - ErrInvalidEvent: the error names the field. A client_event's data is looked at only if it is wanted.
//   - ErrQueueFull: an endpoint is at its limit, or the app has its share of MaxQueuedBytes. Other endpoints that
//     want the event still get it.
//   - ErrClosed: Close has been called.
func (d *Dispatcher) Emit(appID string, e Event) error {
	a := d.accounts.load(appID)
	if err := d.emit(a, &e, nil, nil); err != nil {
		return d.rejected(a, appID, &e, err)
	}
	a.count.emitted.Add(1)
	return nil
}

// rejected accounts for an event that is refused and returns the error to return.
func (d *Dispatcher) rejected(a *account, appID string, e *Event, err error) error {
	if err == ErrUnknownApp {
		err = fmt.Errorf("%w %q", ErrUnknownApp, appID)
	}
	d.reject(a, appID, e, err)
	return err
}

// emit is Emit without its accounts, or with a ticket EmitTicket, which reports what is lost.
func (d *Dispatcher) emit(a *account, e *Event, ticket *Ticket, lost *losses) error {
	if d.closed.Load() {
		return ErrClosed
	}
	if a == nil {
		return ErrUnknownApp
	}
	routes := a.routes.Load()
	if routes == nil {
		return ErrUnknownApp
	}
	return d.emitTo(routes, a, e, ticket, lost)
}

// emitTo emits an event along routes that may have been replaced meanwhile.
func (d *Dispatcher) emitTo(routes *appRoutes, a *account, e *Event, ticket *Ticket, lost *losses) error {
	t := e.Type.set()
	if err := e.validate(t); err != nil {
		return err
	}
	if d.timing != nil && d.timing.types&t != 0 && (ticket == nil || !ticket.Untimed) {
		return d.timing.emit(a, routes, t, e, ticket, lost)
	}
	if routes.types&t == 0 {
		return nil
	}
	_, err := d.deliver(routes, t, e, nil, ticket, lost)
	return err
}

// deliver queues a valid event of type t for every endpoint that wants it, and returns how many have got it. encoded
// is the event's JSON if it has been encoded already. Of an event with a ticket what finds no room is lost.
func (d *Dispatcher) deliver(routes *appRoutes, t typeSet, e *Event, encoded *[]byte, ticket *Ticket, lost *losses) (queued int, err error) {
	event, lane := encoded, -1
	one := entry{at: e.when(), ticket: ticket}
	if !one.at.IsZero() {
		one.stood = d.schedule.clock.stood()
	}
	for i := range routes.routes {
		r := &routes.routes[i]
		if !r.wants(t, e.Channel) {
			continue
		}
		if event == nil {
			var invalid error
			if event, invalid = e.encoded(t, d.cfg.ClientData, d.cfg.MaxEventBytes); invalid != nil {
				return 0, invalid
			}
		}
		if lane < 0 {
			lane = d.laneOf(e.Channel, *event)
		}
		if !ticket.queue(r.endpoint) {
			continue
		}
		one.json = *event
		switch refused := d.enqueue(r.endpoint, &one, lane, false); {
		case refused == nil:
			queued++
		case ticket != nil && full(refused):
			lost.add(r.endpoint, lane, &one, refused)
		default:
			err = refused // and on to the next: one endpoint's trouble is not the other's
		}
	}
	if encoded == nil && event != nil {
		encodeBuffers.Put(event)
	}
	return queued, err
}

// enqueue appends an event to e, or to what has taken e's place in the table; with force even above the limits.
func (d *Dispatcher) enqueue(e *endpoint, event *entry, lane int, force bool) error {
	for {
		err := e.append(event, lane, force)
		if err != errRetired {
			if err != nil {
				d.retire(e)
			}
			return err
		}
		// The app was changed between the look at its routes and here. The event still goes to the endpoint
		// that its routes named, by way of the one object that stands for it now: that keeps a channel in order.
		if e, err = d.endpoint(e.key, e.header, e.account); err != nil {
			return err
		}
	}
}

// Wants reports whether a webhook of the app asks for events of type t on channel: whether it is worth
// preparing one. With a ReconnectGrace or a Lateness it is true for both events of a pair, occupied and vacated or added and removed,
// when a webhook asks for either, because each decides whether the other is sent. It does not allocate.
func (d *Dispatcher) Wants(appID string, t EventType, channel string) bool {
	a := d.accounts.load(appID)
	if a == nil {
		return false
	}
	routes, types := a.routes.Load(), t.set()
	if d.timing != nil {
		types = d.timing.interest(types)
	}
	return routes != nil && routes.wants(types, channel)
}

// SetApp adds an app, or replaces the one with the same id: its webhooks hold for every event emitted afterwards,
// its key and secret for everything that leaves afterwards. What is queued is still delivered where it was meant
// to go. The error reports every fault of the app, as New does, or ErrClosed.
func (d *Dispatcher) SetApp(app App) error {
	if errs := app.validate(fmt.Sprintf("app %q: ", app.ID), d.cfg.MaxWebhooks); len(errs) > 0 {
		return fmt.Errorf("webhook: invalid config:\n%w", errors.Join(errs...))
	}
	keys, headers := make([]endpointKey, len(app.Webhooks)), make([]http.Header, len(app.Webhooks))
	for i := range app.Webhooks {
		headers[i] = app.Webhooks[i].header()
		keys[i] = endpointKey{app: app.ID, url: app.Webhooks[i].URL, header: canonicalHeader(headers[i])}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return ErrClosed
	}
	a := d.accountLocked(app.ID)
	if now := (credentials{key: app.Key, secret: app.Secret}); a.credentials.Load() == nil || *a.credentials.Load() != now {
		a.credentials.Store(&now)
	}
	endpoints := make([]*endpoint, len(keys))
	for i := range keys {
		endpoints[i] = d.endpointLocked(keys[i], headers[i], a)
		endpoints[i].configure(true)
	}
	old := a.routes.Swap(newRoutes(app.Webhooks, endpoints))
	d.forget(old, endpoints)
	return nil
}

// RemoveApp removes an app: Emit then returns ErrUnknownApp for its id. What is queued is still delivered; see Purge.
// Removing an app that does not exist does nothing.
func (d *Dispatcher) RemoveApp(appID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.accounts.load(appID); a != nil {
		d.forget(a.routes.Swap(nil), nil)
		d.closeAccount(a)
	}
}

// forget releases the endpoints used by old routes, which may be nil, but not by current ones. d.mu is held.
func (d *Dispatcher) forget(old *appRoutes, current []*endpoint) {
	if old == nil {
		return
	}
	kept := make(map[*endpoint]bool, len(current))
	for _, e := range current {
		kept[e] = true
	}
	for _, r := range old.routes {
		if !kept[r.endpoint] {
			r.endpoint.configure(false)
			d.retireLocked(r.endpoint)
		}
	}
}

func (e *endpoint) configure(configured bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.configured = configured
}

// accountLocked returns the app's account, a new one if there is none. d.mu is held, as in the functions below.
func (d *Dispatcher) accountLocked(appID string) *account {
	a := d.accounts.load(appID)
	if a == nil {
		a = &account{id: appID, count: &d.counters[d.appsSet%len(d.counters)]}
		d.appsSet++
		d.accounts.store(appID, a)
	}
	return a
}

// closeAccount forgets an account that is not needed any more.
func (d *Dispatcher) closeAccount(a *account) {
	if a.routes.Load() == nil && a.endpoints == nil && a.memory.Load() == 0 && d.accounts.load(a.id) == a {
		d.accounts.store(a.id, nil)
	}
}

// endpoint returns the table's endpoint for a key, a new one if there is none. d.mu is not held.
func (d *Dispatcher) endpoint(key endpointKey, header http.Header, a *account) (*endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing.sealed.Load() {
		return nil, ErrClosed
	}
	if a == nil {
		a = d.accountLocked(key.app)
	} else if current := d.accounts.load(key.app); current != nil {
		a = current
	} else {
		d.accounts.store(key.app, a)
	}
	return d.endpointLocked(key, header, a), nil
}

func (d *Dispatcher) endpointLocked(key endpointKey, header http.Header, a *account) *endpoint {
	e := d.endpoints[key]
	if e == nil {
		e = &endpoint{shared: &d.shared, account: a, key: key, header: header, headerBytes: int32(headerSize(header))}
		d.endpoints[key] = e
		a.link(e)
	}
	return e
}

// leaveAccount forgets an account when the last of its states has ended. d.mu is not held.
func (d *Dispatcher) leaveAccount(a *account) {
	if a.routes.Load() == nil && a.memory.Load() == 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.closeAccount(a)
	}
}

// retireEndpoint takes e out of the table if no webhook leads to it and nothing is pending. d.mu is not held.
func (d *Dispatcher) retireEndpoint(e *endpoint) {
	if e.unused() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.retireLocked(e)
	}
}

func (e *endpoint) unused() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.configured && e.active == 0 && len(e.telling) == 0 && !e.retired
}

func (d *Dispatcher) retireLocked(e *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.configured || e.active > 0 || len(e.telling) > 0 || e.retired {
		return
	}
	e.retired = true
	delete(d.endpoints, e.key)
	e.account.unlink(e)
	d.closeAccount(e.account)
}

// endpointsOf yields an app's endpoints, or all if the id is empty: those that are in the table throughout, so everything
// that has something pending. There may be a million, and Emit may wait for d.mu: it is not taken.
func (d *Dispatcher) endpointsOf(appID string) iter.Seq[*endpoint] {
	if appID == "" {
		return endpointsOf(d.accounts.all())
	}
	return endpointsOf(func(yield func(*account) bool) {
		if a := d.accounts.load(appID); a != nil {
			yield(a)
		}
	})
}

// pendingEndpoints yields the endpoints of those apps that have something pending: a few of a million.
func (d *Dispatcher) pendingEndpoints() iter.Seq[*endpoint] {
	return endpointsOf(func(yield func(*account) bool) {
		for a := range d.accounts.all() {
			if a.memory.Load() != 0 && !yield(a) {
				return
			}
		}
	})
}

func endpointsOf(accounts iter.Seq[*account]) iter.Seq[*endpoint] {
	return func(yield func(*endpoint) bool) {
		var some []*endpoint
		for a := range accounts {
			some = a.appendEndpoints(some[:0])
			for _, e := range some {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Redeliver queues deliveries that a hook or Close handed back, also those that an earlier process has stored. They
// take their endpoint's place in the schedule, in the order given, behind what is queued already; so a server calls
// it before it emits the first event. Their age counts from now.
//
// A delivery of an app that is known is stamped and signed afresh when it leaves, under the same Webhook-Id; that of
// an unknown app goes out as it is. Nothing of the deliveries is kept.
//
// A *UndeliveredError holds those that could not be queued; its cause is ErrQueueFull, ErrClosed or says what is
// wrong with a delivery. Once one has found no room, those behind it for the same endpoint are refused as well,
// so that the order stays.
func (d *Dispatcher) Redeliver(deliveries ...*Delivery) error {
	var refused UndeliveredError
	var errs []error
	full := make(map[endpointKey]bool)
	for i, delivery := range deliveries {
		if err := d.redeliver(delivery, full); err != nil {
			refused.Deliveries = append(refused.Deliveries, delivery)
			if len(errs) < maxFaults {
				errs = append(errs, fmt.Errorf("deliveries[%d]: %w", i, err))
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	refused.Err = errors.Join(errs...)
	return &refused
}

// maxFaults is how many refused deliveries Redeliver's error describes.
const maxFaults = 20

func (d *Dispatcher) redeliver(delivery *Delivery, full map[endpointKey]bool) error {
	if err := delivery.validate(); err != nil {
		return err
	}
	buf, events, ok := takeBody(delivery.Body)
	switch {
	case !ok:
		return errors.New("body: is not the body of a webhook")
	case events != delivery.Events:
		return fmt.Errorf("events: are %d, the body has %d", delivery.Events, events)
	case d.closed.Load():
		return ErrClosed
	}
	header := delivery.Header.Clone()
	own := ownHeader(delivery.Header.Clone())
	key := endpointKey{app: delivery.AppID, url: delivery.URL, header: canonicalHeader(own)}
	if full[key] {
		return fmt.Errorf("%w: for a delivery before it", ErrQueueFull)
	}
	b := &batch{buf: buf, events: events, opened: delivery.CreatedAt, last: d.schedule.clock.now(), memory: int64(cap(buf) + batchBytes + storedBytes + headerSize(header))}
	b.delivery = &Delivery{ID: delivery.Header.Get(headerID), AppID: delivery.AppID, URL: delivery.URL, Header: header,
		Body: storedBody(buf), Events: events, CreatedAt: delivery.CreatedAt}
	event := buf[headBytes:eventEnd(buf, headBytes)]
	lane := d.laneOf(string(rawChannel(event)), event)
	err := errRetired
	for err == errRetired {
		var e *endpoint
		if e, err = d.endpoint(key, own, nil); err != nil {
			return err
		}
		if err = e.redeliver(b, lane); err != nil {
			d.retire(e) // it may have been made for this delivery alone
		}
	}
	full[key] = err != nil
	return err
}

// Flush sends what is queued without waiting for its window, and waits until all of it has ended: delivered,
// or reported to Hooks.Undelivered. It does not shorten the waits between retries. The error is ctx's, if
// that ends first; nothing is lost then, delivery goes on.
func (d *Dispatcher) Flush(ctx context.Context) error {
	d.mu.Lock()
	f := newFlush()
	d.flushes = append(slices.DeleteFunc(d.flushes, (*flush).over), f)
	all := slices.Clone(d.flushes) // what was pending before may be waited for by an earlier flush
	d.mu.Unlock()
	for e := range d.endpointsOf("") {
		e.flush(f)
	}
	f.ended()
	for _, f := range all {
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// RetryNow ends the waits of an app's endpoints, also those that a Retry-After asked for, and tries at once what was
// set aside. An endpoint that fails again waits as long as it would have. An empty id means all apps.
func (d *Dispatcher) RetryNow(appID string) {
	for e := range d.endpointsOf(appID) {
		e.retryNow()
	}
}

func (e *endpoint) retryNow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.trouble != nil {
		e.trouble.until = time.Time{}
	}
	e.asideNow()
	e.dispatch(nil)
}

// asideNow makes everything due that was set aside.
func (e *endpoint) asideNow() {
	for l := range e.existing() {
		for _, b := range l.queue {
			if b.aside != nil {
				b.aside.due = time.Now()
			}
		}
		if l.state == filling {
			l.rest()
		}
	}
}

// Purge gives up everything that is queued or held for an app, and reports it to Hooks.Undelivered with ErrPurged.
// What is on the wire is given up if it fails. It returns the number of events. An empty id does nothing.
func (d *Dispatcher) Purge(appID string) (events int) {
	if appID == "" {
		return 0
	}
	if d.timing != nil {
		events = d.timing.purge(appID)
	}
	for e := range d.endpointsOf(appID) {
		gone := e.purge(ErrPurged)
		for _, l := range gone {
			events += l.batch.events
		}
		e.settle(gone)
		e.report(gone)
		d.retire(e)
	}
	return events
}

// purge gives up everything, what is on the wire if it fails.
func (e *endpoint) purge(why error) []loss {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.existing() {
		if b := l.current; b != nil && b.doomed != errDropped { // what was dropped stays so
			b.doomed = why
		}
	}
	return e.loseAll(why)
}
