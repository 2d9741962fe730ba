package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"
)

// Config configures a Dispatcher. The zero value of every field means its default.
type Config struct {
	Apps []App // more can be added with SetApp

	// BatchWindow is how long a batch stays open after its first event. Default 50ms, as in soketi.
	BatchWindow time.Duration

	// MaxBatchEvents closes a batch. 1 turns batching off: every event is a request of its own, sent at once.
	// Default 1000.
	MaxBatchEvents int

	// MaxBatchBytes closes a batch: no body is larger, envelope included. Default 96 KiB, because many receivers
	// refuse more than 100 kB. An endpoint that answers 413 gets smaller batches than this.
	MaxBatchBytes int

	// MaxEventBytes is the largest event, encoded. A larger one is ErrInvalidEvent. Default 64 KiB.
	MaxEventBytes int

	// MaxInFlight is the number of requests in flight to one endpoint. Events of one channel are never in two of
	// them. Default 1, which makes the fewest requests; 16 with batching off.
	MaxInFlight int

	// MaxQueuedBytes bounds the memory of all that waits or is in flight, its bookkeeping included; beyond it Emit
	// returns ErrQueueFull. One app may hold as much as is still free, so that others find room; an app that is
	// alone may hold seven eighths, and one that holds less than 64 KiB all that is free. The last sixteenth is for
	// the latter. Default 256 MiB.
	MaxQueuedBytes int64

	// MaxEndpointQueuedBytes is one endpoint's share of MaxQueuedBytes. Default 16 MiB.
	MaxEndpointQueuedBytes int64

	// MaxWebhooks bounds the webhooks of one app: an Emit looks at each. Default 1000.
	MaxWebhooks int

	// MaxConcurrent bounds the requests on the wire, to all endpoints together. The process needs as many file
	// descriptors, and some for idle connections. Default 2048.
	MaxConcurrent int

	// SendTimeout ends the context of a Send. A Send that ignores it keeps its place on the wire, and what is
	// behind it still ages. Default 30s.
	SendTimeout time.Duration

	// RetryWaitMin is an endpoint's first wait after a failure, of which half is at random. It doubles with every
	// further failure. Default 1s.
	RetryWaitMin time.Duration

	// RetryWaitMax is an endpoint's longest wait; it caps Retry-After too. Default 60s.
	RetryWaitMax time.Duration

	// RetryFor is how old an event may become while its endpoint fails: from the second failure in a row on, what was
	// accepted longer ago is given up. Nothing is while the endpoint accepts. Default 5m, as Pusher's. Negative: one
	// attempt for each batch, and a refused batch is not divided.
	RetryFor time.Duration

	// ReconnectGrace is how long channel_vacated and member_removed are held, as Pusher does. If the channel is
	// occupied again or the member returns meanwhile, neither event is sent. Events about others on the channel do
	// not wait, so they come before the one that is held. Zero: off.
	//
	// This and the two rules below are counted in Stats.Held and Stats.Suppressed. Close releases at once what they
	// hold; Flush does not. WithPusherTiming switches all of them on.
	ReconnectGrace time.Duration

	// Lateness is for a Dispatcher that gets the events of several nodes, each with its At and Node: by so much they may come
	// out of the order in which they happened. Whoever was there last counts, not whoever was heard last:
	//
	//   - A channel_vacated or member_removed that comes after its channel_occupied or member_added, and happened before it, is left
	//     out. So is a subscription_count that comes after a later one, and without a ReconnectGrace the first of a pair that comes
	//     after the second.
	//   - What a ReconnectGrace holds is held for so much longer, and whether they were back in time is seen by At.
	//   - If both of a pair happened at one moment on two nodes, within a tenth of Lateness, somebody is there.
	//
	// An event without At happens when it is emitted. Stats.Suppressed counts what is left out. Zero: off.
	Lateness time.Duration

	// CountInterval bounds subscription_count: above CountThreshold, at most one count per channel per interval; the
	// latest is always sent. Zero: off.
	CountInterval time.Duration

	// CountThreshold is the count up to which every subscription_count is sent at once. Default 100, as Pusher's;
	// negative applies CountInterval to every count.
	CountThreshold int

	// CacheMissWindow is how long after a cache_miss of a channel further ones are left out. Zero: off.
	CacheMissWindow time.Duration

	ClientData ClientData // how client_event data is written. Default DataString, as Pusher does
	Sender     Sender     // default: an HTTPSender with its own defaults
	Hooks      Hooks      // what to tell the server

	// Logger gets an Error for what is given up and for what Emit rejects, a Warn when an endpoint starts to fail, an
	// Info when it has recovered, and each attempt at level Debug. There is one line a second at most about an endpoint's
	// losses, and about rejections for a sixteenth of the apps; each says how many were left out. Default: discards.
	Logger *slog.Logger
}

// The defaults of Config. Limits that depend on each other make room for those that are set. Measured with
// BenchmarkDeliver: batches of 100 take four times as long for an event as those of 1000, and those of 10 000 half;
// with batching off 16 requests in flight take a third less time for each than 1, and 64 a tenth less than 16.
const (
	defaultBatchWindow            = 50 * time.Millisecond
	defaultMaxBatchEvents         = 1000
	defaultMaxBatchBytes          = 96 << 10
	defaultMaxEventBytes          = 64 << 10
	defaultMaxInFlightUnbatched   = 16
	defaultMaxQueuedBytes         = 256 << 20
	defaultMaxEndpointQueuedBytes = 16 << 20
	defaultMaxConcurrent          = 2048
)

// withDefaults returns a copy of c with every zero limit filled in. A default never contradicts a limit that
// is set: a large MaxEventBytes raises the batch that has to hold it, a small queue lowers it.
func (c Config) withDefaults() Config {
	c.BatchWindow = cmp.Or(c.BatchWindow, defaultBatchWindow)
	c.MaxBatchEvents = cmp.Or(c.MaxBatchEvents, defaultMaxBatchEvents)
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1
		if c.MaxBatchEvents == 1 {
			c.MaxInFlight = defaultMaxInFlightUnbatched
		}
	}
	smallestBatch := max(int64(c.MaxBatchBytes), int64(c.MaxEventBytes)+int64(envelopeBytes))
	smallestQueue := max(c.MaxEndpointQueuedBytes, smallestBatch+keepBytes)
	c.MaxQueuedBytes = cmp.Or(c.MaxQueuedBytes, max(defaultMaxQueuedBytes, smallestQueue))
	c.MaxEndpointQueuedBytes = cmp.Or(c.MaxEndpointQueuedBytes, min(max(defaultMaxEndpointQueuedBytes, smallestQueue), c.MaxQueuedBytes))
	largestBatch := max(1, c.MaxEndpointQueuedBytes-keepBytes)
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, int(min(max(defaultMaxBatchBytes, smallestBatch), largestBatch)))
	c.MaxEventBytes = cmp.Or(c.MaxEventBytes, max(1, min(defaultMaxEventBytes, c.MaxBatchBytes-envelopeBytes)))
	c.MaxWebhooks = cmp.Or(c.MaxWebhooks, 1000)
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, defaultMaxConcurrent)
	c.SendTimeout = cmp.Or(c.SendTimeout, 30*time.Second)
	c.RetryWaitMin = cmp.Or(c.RetryWaitMin, min(time.Second, cmp.Or(c.RetryWaitMax, time.Second)))
	c.RetryWaitMax = cmp.Or(c.RetryWaitMax, max(time.Minute, c.RetryWaitMin))
	c.RetryFor = cmp.Or(c.RetryFor, 5*time.Minute)
	c.CountThreshold = cmp.Or(c.CountThreshold, 100)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = slog.New(guardedHandler{c.Logger.Handler()})
	return c
}

// What a limit may be at the most: no sum of them overflows, also where an int has 32 bits.
const (
	maxLimitBytes = 1 << 50
	maxLimitCount = 1 << 20
	maxLimitWait  = 100 * 365 * 24 * time.Hour
	maxLimitBatch = 1 << 30
)

// validate reports every fault of a Config that has its defaults, by the path of the field.
func (c *Config) validate() error {
	errs := c.validateLimits()
	if len(errs) == 0 { // with wrong limits the relations say nothing
		errs = c.validateRelations()
	}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ClientData != DataString && c.ClientData != DataRaw {
		fault("ClientData: must be DataString or DataRaw, got %d", int(c.ClientData))
	}
	first := make(map[string]int, len(c.Apps))
	for i := range c.Apps {
		app := &c.Apps[i]
		path := fmt.Sprintf("apps[%d] %q: ", i, app.ID)
		if j, taken := first[app.ID]; taken && app.ID != "" {
			fault("%sid: is taken by apps[%d]", path, j)
		} else {
			first[app.ID] = i
		}
		errs = append(errs, app.validate(path, c.MaxWebhooks)...)
	}
	return errors.Join(errs...)
}

// validateLimits looks at each limit alone, in the order of the fields.
func (c *Config) validateLimits() (errs []error) {
	for _, limit := range []struct {
		field string
		value int64
		most  int64
	}{
		{"BatchWindow", int64(c.BatchWindow), int64(maxLimitWait)},
		{"MaxBatchEvents", int64(c.MaxBatchEvents), math.MaxInt32},
		{"MaxBatchBytes", int64(c.MaxBatchBytes), maxLimitBatch},
		{"MaxEventBytes", int64(c.MaxEventBytes), maxLimitBatch},
		{"MaxInFlight", int64(c.MaxInFlight), maxLimitCount},
		{"MaxQueuedBytes", c.MaxQueuedBytes, maxLimitBytes},
		{"MaxEndpointQueuedBytes", c.MaxEndpointQueuedBytes, maxLimitBytes},
		{"MaxWebhooks", int64(c.MaxWebhooks), maxLimitCount},
		{"MaxConcurrent", int64(c.MaxConcurrent), maxLimitCount},
		{"SendTimeout", int64(c.SendTimeout), int64(maxLimitWait)},
		{"RetryWaitMin", int64(c.RetryWaitMin), int64(maxLimitWait)},
		{"RetryWaitMax", int64(c.RetryWaitMax), int64(maxLimitWait)},
		{"RetryFor", int64(max(1, c.RetryFor)), int64(maxLimitWait)},
	} {
		switch {
		case limit.value <= 0:
			errs = append(errs, fmt.Errorf("%s: must be positive, or 0 for the default", limit.field))
		case limit.value > limit.most:
			errs = append(errs, fmt.Errorf("%s: must be at most %d", limit.field, limit.most))
		}
	}
	for _, rule := range []struct {
		field string
		value time.Duration
	}{
		{"ReconnectGrace", c.ReconnectGrace}, {"Lateness", c.Lateness}, {"CountInterval", c.CountInterval}, {"CacheMissWindow", c.CacheMissWindow},
	} {
		switch {
		case rule.value < 0:
			errs = append(errs, fmt.Errorf("%s: must be positive, or 0 for off", rule.field))
		case rule.value > maxLimitWait:
			errs = append(errs, fmt.Errorf("%s: must be at most %d", rule.field, maxLimitWait))
		}
	}
	return errs
}

// validateRelations looks at the limits that have to fit each other.
func (c *Config) validateRelations() (errs []error) {
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MaxEventBytes+envelopeBytes > c.MaxBatchBytes {
		fault("MaxBatchBytes: %d is too small for an event of MaxEventBytes, %d, and %d bytes of envelope",
			c.MaxBatchBytes, c.MaxEventBytes, envelopeBytes)
	}
	if int64(c.MaxBatchBytes+keepBytes) > c.MaxEndpointQueuedBytes {
		fault("MaxEndpointQueuedBytes: %d is too small for a batch of MaxBatchBytes, %d, and %d bytes to keep it",
			c.MaxEndpointQueuedBytes, c.MaxBatchBytes, keepBytes)
	}
	if c.MaxEndpointQueuedBytes > c.MaxQueuedBytes {
		fault("MaxEndpointQueuedBytes: %d is more than MaxQueuedBytes, %d", c.MaxEndpointQueuedBytes, c.MaxQueuedBytes)
	}
	if c.RetryWaitMin > c.RetryWaitMax {
		fault("RetryWaitMin: %v is more than RetryWaitMax, %v", c.RetryWaitMin, c.RetryWaitMax)
	}
	return errs
}
