package webhook

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

// Stats counts what happened since New. One event for two endpoints counts twice, except in Emitted and
// Rejected. When nothing is being emitted or delivered, Queued is exactly Delivered + Undelivered + Dropped + Pending.
type Stats struct {
	Emitted  uint64 // calls of Emit that returned nil, wanted or not
	Rejected uint64 // calls of Emit that returned an error

	Held       uint64 // accepted events that a timing rule holds back, not queued yet
	Suppressed uint64 // accepted events that a timing rule has left out

	Queued      uint64 // events taken for an endpoint, by Emit or Redeliver
	Delivered   uint64 // events accepted by their endpoint
	Undelivered uint64 // events given up: reported to Hooks.Undelivered, and by Close what it handed back
	Dropped     uint64 // events that Drop has forgotten

	Requests        uint64 // deliveries accepted by endpoints
	Pending         uint64 // events that wait or are in flight
	PendingBytes    int64  // memory they and the timing rules hold: at most MaxQueuedBytes, but for divided batches
	ActiveEndpoints int    // endpoints with pending events
}

// counters are those that Emit changes. Apps are spread over several of them, a cache line apart, so that
// cores that emit for different apps do not wait for each other's line.
type counters struct {
	emitted, rejected, queued, suppressed atomic.Uint64
	held                                  atomic.Int64
	rejections                            lineLimit

	_ [64]byte
}

// Stats returns the counts of this moment. Each is exact; while events flow, they are not of the same instant.
func (d *Dispatcher) Stats() Stats {
	s := Stats{
		// Before Queued, which only grows: so Pending is never negative.
		Delivered:       d.delivered.Load(),
		Undelivered:     d.undelivered.Load(),
		Dropped:         d.dropped.Load(),
		Requests:        d.requests.Load(),
		PendingBytes:    d.bytes.Load(),
		ActiveEndpoints: int(d.active.Load()),
	}
	held := int64(0)
	for i := range d.counters {
		c := &d.counters[i]
		s.Emitted += c.emitted.Load()
		s.Rejected += c.rejected.Load()
		s.Queued += c.queued.Load()
		s.Suppressed += c.suppressed.Load()
		held += c.held.Load()
	}
	s.Held = uint64(max(0, held)) // a held event of a moment ago may be counted out before it is counted in
	s.Pending = s.Queued - s.Delivered - s.Undelivered - s.Dropped
	return s
}

// An EndpointState says how an endpoint does.
type EndpointState int

const (
	EndpointOK       EndpointState = iota // it accepts, or nothing is known to the contrary
	EndpointFailing                       // its last attempt failed; it is tried again at NextAttempt
	EndpointRefusing                      // it answers and refuses everything; it is tried again like one that fails
)

// String returns the state in a word.
func (s EndpointState) String() string {
	switch s {
	case EndpointOK:
		return "ok"
	case EndpointFailing:
		return "failing"
	case EndpointRefusing:
		return "refusing"
	}
	return "unknown"
}

// An EndpointStatus is an endpoint at one moment: an app's URL with its headers. It holds nothing secret.
type EndpointStatus struct {
	ID           string // short and stable, the same in logs; it tells two webhooks of one host apart
	AppID, URL   string // the URL's scheme and host
	State        EndpointState
	Pending      uint64    // events that wait or are in flight
	PendingBytes int64     // memory they hold
	Oldest       time.Time // when the oldest pending event was accepted; zero if there is none
	InFlight     int
	Failures     int       // in a row
	LastError    string    // bounded, without anything secret; empty once the endpoint has recovered
	LastSuccess  time.Time // zero if there was none
	NextAttempt  time.Time // zero if the endpoint does not wait
}

// Endpoints returns the status of an app's endpoints, in order of their URLs. An empty id gives those of all apps that
// have something pending or do not accept what they get.
func (d *Dispatcher) Endpoints(appID string) []EndpointStatus {
	var all []EndpointStatus
	for e := range d.endpointsOf(appID) {
		e.mu.Lock()
		if appID != "" || e.active > 0 || e.state() != EndpointOK {
			all = append(all, e.status())
		}
		e.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b EndpointStatus) int {
		return cmp.Or(cmp.Compare(a.AppID, b.AppID), cmp.Compare(a.URL, b.URL), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// state is the endpoint's. e.mu is held, as in status.
func (e *endpoint) state() EndpointState {
	switch {
	case e.refusing():
		return EndpointRefusing
	case e.failing():
		return EndpointFailing
	}
	return EndpointOK
}

func (e *endpoint) status() EndpointStatus {
	s := EndpointStatus{
		ID: e.id(), AppID: e.key.app, URL: baseURL(e.key.url), State: e.state(), Pending: uint64(e.pending),
		PendingBytes: e.bytes, LastSuccess: e.lastSuccess,
	}
	if t := e.trouble; t != nil {
		s.Failures, s.LastError = t.failures, t.lastError
		if t.until.After(time.Now()) {
			s.NextAttempt = t.until
		}
	}
	for l := range e.existing() {
		if l.current != nil {
			s.InFlight++
		}
		for _, b := range l.queue {
			if at := b.createdAt(); s.Oldest.IsZero() || at.Before(s.Oldest) {
				s.Oldest = at
			}
			if b.aside == nil {
				break // those behind are younger
			}
		}
		if l.open != nil && (s.Oldest.IsZero() || l.open.createdAt().Before(s.Oldest)) {
			s.Oldest = l.open.createdAt()
		}
	}
	return s
}

func (e *endpoint) id() string { return e.key.id() }

// keptID is id, kept from the first call on: tickets ask for each event.
func (e *endpoint) keptID() string {
	known := e.known.Load()
	if known == nil {
		known = new(e.id())
		e.known.Store(known)
	}
	return *known
}

// id is the beginning of a hash, too short to find out by trying what was hashed.
func (k endpointKey) id() string {
	hash := sha256.Sum256([]byte(k.app + "\x00" + k.url + "\x00" + k.header))
	return hex.EncodeToString(hash[:4])
}

// baseURL is a URL's scheme and host.
func baseURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return redacted
	}
	return u.Scheme + "://" + u.Host
}
