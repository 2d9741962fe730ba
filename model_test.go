package webhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// TestModel runs apps that emit numbered events, change their webhooks, are removed and come back,
// beside Flush, Purge, Hold, RetryNow, Redeliver and Endpoints, against a Sender whose endpoints have
// moods: they accept, fail, refuse, hang, panic and take their time. Beside it stands a model: what
// each event became at each endpoint, and what each endpoint was sent and answered. The dispatcher
// is held against it all the time and at the end.
//
// WEBHOOK_SEEDS=1000 runs more seeds than the usual number, WEBHOOK_SEED=7 runs one. The dispatcher
// draws its waits at random and goroutines run as they like, so a seed may have to be run several
// times (-count) to fail again.
func TestModel(t *testing.T) {
	seeds := uint64(60)
	if n, err := strconv.ParseUint(os.Getenv("WEBHOOK_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	first, last := uint64(0), seeds
	if one, err := strconv.ParseUint(os.Getenv("WEBHOOK_SEED"), 10, 64); err == nil {
		first, last = one, one+1
	}
	for seed := first; seed < last; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newModel(t, seed).run() })
		})
	}
}

// ---- what the model knows

// A target is an endpoint as the model knows it.
type target struct {
	app, url, team string
}

// An item is one event at one endpoint that wants it.
type item struct {
	target
	channel string
	kind    webhook.EventType
	number  int
}

// A fate is what became of an item. It has a life for each time that it was queued: by Emit, and by
// Redeliver.
type fate struct {
	event       *event
	queued      int  // lives
	ended       int  // of them: delivered or reported undelivered
	life        life // the last
	refused     int  // in this life, by itself
	redelivered bool
	wire        int // Sends with it that are going on
}

// A life begins at a moment, behind all that began before it.
type life struct {
	turn  int
	at    time.Time
	batch int // of Redeliver; 0: of Emit
}

// before reports whether one must come before another: what different goroutines queue at one
// moment has no order.
func (l life) before(other life) bool {
	return l.turn < other.turn && (l.batch == other.batch || l.at.Before(other.at))
}

// open reports whether the item is pending, as far as the model can tell.
func (f *fate) open() bool { return f.ended < f.queued && f.event.result != resultRejected }

// An event is one call of Emit, or one event of a delivery that the model has made up.
type event struct {
	webhook.Event
	app    string
	number int
	result result
	fates  []*fate
	sets   []set  // of webhooks, one of which it went by
	ruled  bool   // a timing rule may hold it or leave it out
	pair   *event // of a member who was removed and came back
	size   int64  // about
}

// A set of webhooks is what an app has at a moment, and which fates that means for an event.
type set struct {
	webhooks []webhook.Webhook
	known    bool // there is such an app
	fates    []*fate
}

// sure reports whether every endpoint that wants the event gets it, and which these are is known.
func (e *event) sure() bool { return e.result == resultCertain && !e.ruled && len(e.sets) < 2 }

// A result is what the model may expect of an event, by what Emit returned.
type result int

const (
	resultOpen     result = iota // Emit has not returned
	resultCertain                // every endpoint that wants it gets it
	resultPossible               // some may have got it: ErrQueueFull, ErrClosed
	resultRejected               // nobody may get it
)

// A site is what the model knows of an endpoint.
type site struct {
	target
	configured   bool
	unconfigured time.Time        // when it was last without a webhook
	flights      map[*flight]bool // Sends that are going on
	last         map[string]life  // the latest of what it has accepted, by class
	answered     time.Time        // when a Send ended last
	refuses      bool             // it has ever refused anything
	trouble      time.Time        // when it last answered other than by accepting
	failures     int              // in a row, at the most
	doublings    int              // failures in a row, at the least
	failed       time.Time        // the last of these
	until        time.Time        // when it may be tried again after that
	probing      bool             // one lane tries then
	local        bool             // it was a fault of this machine
	lastTry      bool             // it was failing when Close began
	lastTries    int              // that have failed since
	largest      int              // the largest body after a 413, zero if there is no such bound
	shrunk       time.Time        // when it answered that
}

// A flight is one Send.
type flight struct {
	site    *site
	record  *record
	started time.Time
	ended   time.Time
	counts  bool // certainly: nothing else has ended at this endpoint since it began
	n       int  // which Send of the delivery it is
	answer  verdict
	err     error
}

// A record is a delivery as it was first seen.
type record struct {
	id        string
	where     target
	items     []item
	fates     []*fate
	body      []byte
	key       string
	stamp     time.Time
	sends     int  // since it was queued
	sent      int  // in all
	attempts  int  // told to the hook
	accepted  int  // answers that accepted it
	delivered int  // told to the hook
	cut       bool // Close handed it back
	last      *flight
}

// A verdict is what an answer means, by the documentation of Sender.
type verdict int

const (
	verdictAccepted verdict = iota
	verdictRefused
	verdictFinal
	verdictFailed
	verdictLocal
)

func judge(err error) verdict {
	switch {
	case err == nil:
		return verdictAccepted
	case errors.Is(err, webhook.ErrFinal):
		return verdictFinal
	case errors.Is(err, webhook.ErrRefused):
		return verdictRefused
	case errors.Is(err, syscall.EMFILE):
		return verdictLocal
	}
	return verdictFailed
}

// credentials are what an app had from one moment to another, or has.
type credentials struct {
	key, secret string
	from, to    time.Time
}

// told is what the hook was told of an endpoint.
type told struct {
	state   webhook.EndpointState
	at      time.Time
	telling bool
}

// A tenant is an app as the model knows it.
type tenant struct {
	history    []credentials
	configured bool
	changed    time.Time       // when that has changed
	now        set             // its webhooks
	before     *set            // while they are being changed
	emitting   map[*event]bool // calls of Emit
	purged     time.Time       // when Purge was last called
	purging    time.Time       // until when it ran
	retryNow   time.Time
	purges     int // calls of Purge
	gaveUp     int // events that were reported with ErrPurged
}

// A model is a dispatcher and what the test knows of it.
type model struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand // of the test's goroutine
	d     *webhook.Dispatcher
	cfg   webhook.Config
	plan  plan
	began time.Time

	mu      sync.Mutex
	items   map[item]*fate
	events  []*event
	sites   map[target]*site
	tenants map[string]*tenant
	records map[string]*record
	back    []*webhook.Delivery // what was handed back, for Redeliver
	kept    []*webhook.Delivery // the same, to be looked at in the end
	again   map[string]int      // how often it was redelivered
	story   []line
	faults  map[string]bool  // that were told
	told    map[string]*told // by the endpoint's id

	turns, redeliveries                   int
	wire, emitted, rejected, rejectedTold int
	delivered, undelivered, requests      int
	purged, purgesReturned                int
	closing, closed                       time.Time
	held                                  time.Time // since when; zero: not
	sinceClose                            map[*webhook.Delivery]bool
}

// A plan is how a seed differs from others, beside the Config.
type plan struct {
	length  time.Duration // until Close
	mood    time.Duration // how long an endpoint keeps its mood
	calm    int           // of ten moods
	noise   int           // of a hundred Sends, so many are answered in another mood
	poison  uint64        // one event in so many is refused; 0: none
	apps    int
	steps   int // of each app
	timing  bool
	grain   time.Duration // to whose multiples sleeps are rounded, so that much happens at one moment
	slow    bool          // hooks take their time
	hosts   int
	crowd   bool // each app has a second goroutine that emits
	burst   int
	eager   bool // the hook itself redelivers
	ending  ending
	settled bool          // Close comes when nothing is left
	patient time.Duration // Close's deadline
}

// An ending is what endpoints do before Close.
type ending int

const (
	endAbrupt ending = iota // what they always do
	endHealed               // everything is accepted, and nothing may be left after a while
	endDead                 // nothing is accepted, and nothing may be left after a while
)

// sleep sleeps for up to d. m.mu is not held.
func (p plan) sleep(r *rand.Rand, d time.Duration) {
	time.Sleep(time.Duration(r.Int64N(int64(d) + 1)).Round(p.grain))
}

func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

func newModel(t *testing.T, seed uint64) *model {
	r := rand.New(rand.NewPCG(seed, 0))
	m := &model{
		t: t, seed: seed, rng: r, plan: randomPlan(r), began: time.Now(),
		items: map[item]*fate{}, sites: map[target]*site{}, tenants: map[string]*tenant{},
		records: map[string]*record{}, again: map[string]int{}, faults: map[string]bool{},
		told: map[string]*told{}, sinceClose: map[*webhook.Delivery]bool{},
	}
	m.cfg = m.config()
	m.plan.mood = m.plan.length / time.Duration(1+r.IntN(20))
	cfg := m.cfg
	cfg.Sender = webhook.SenderFunc(m.send)
	cfg.Hooks = webhook.Hooks{
		Delivered: m.hookDelivered, Undelivered: m.hookUndelivered, Attempt: m.hookAttempt,
		Endpoint: m.hookEndpoint, Rejected: m.hookRejected,
	}
	var err error
	m.d, err = webhook.New(cfg)
	require.NoError(t, err)
	m.cfg = effective(m.cfg)
	return m
}

func randomPlan(r *rand.Rand) plan {
	return plan{
		length: pick(r, 2*time.Second, 20*time.Second, 3*time.Minute, 20*time.Minute),
		calm:   r.IntN(11), noise: pick(r, 0, 0, 5, 30), poison: pick[uint64](r, 0, 0, 3, 50),
		apps: 1 + r.IntN(4), hosts: pick(r, 1, 3, 3, 30), steps: 100 + r.IntN(150),
		burst: pick(r, 20, 50, 300), grain: pick(r, 1, 10*time.Millisecond, 100*time.Millisecond),
		crowd: r.IntN(2) == 0, timing: r.IntN(4) == 0, eager: r.IntN(4) == 0, slow: r.IntN(4) == 0,
		ending: ending(r.IntN(3)), settled: r.IntN(4) > 0,
		patient: time.Duration(r.IntN(pick(r, 300, 3000, 10_000))) * time.Millisecond,
	}
}

// config draws a Config.
func (m *model) config() webhook.Config {
	r := m.rng
	cfg := webhook.Config{
		MaxBatchEvents: pick(r, 1, 3, 20, 1000), MaxInFlight: r.IntN(5), MaxEventBytes: 1000,
		BatchWindow: time.Duration(1+r.IntN(100)) * time.Millisecond,
		SendTimeout: pick(r, 500*time.Millisecond, 5*time.Second, 0), MaxConcurrent: pick(r, 1, 2, 8, 0),
		RetryFor: pick(r, -1, 3*time.Second, 20*time.Second, 0), MaxBatchBytes: pick(r, 0, 0, 1500, 4000),
	}
	switch r.IntN(4) {
	case 0:
		m.plan.length = min(m.plan.length, 20*time.Second)
		cfg.RetryWaitMin, cfg.RetryWaitMax = 20*time.Millisecond, 200*time.Millisecond
	case 1:
		cfg.RetryWaitMin, cfg.RetryWaitMax = 100*time.Millisecond, 3*time.Second
	}
	switch r.IntN(4) {
	case 0:
		cfg.MaxQueuedBytes, cfg.MaxEndpointQueuedBytes = 20_000, 6000
	case 1:
		cfg.MaxQueuedBytes, cfg.MaxEndpointQueuedBytes = 100_000, 60_000
	}
	if m.plan.timing {
		cfg.ReconnectGrace = pick(r, 100*time.Millisecond, 3*time.Second)
		cfg.CountInterval, cfg.CountThreshold = 2*time.Second, 20
	}
	return cfg
}

// effective is a Config with the documented defaults of what the model looks at.
func effective(cfg webhook.Config) webhook.Config {
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{
		{&cfg.SendTimeout, 30 * time.Second}, {&cfg.RetryFor, 5 * time.Minute},
		{&cfg.RetryWaitMin, time.Second}, {&cfg.RetryWaitMax, time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 1
		if cfg.MaxBatchEvents == 1 {
			cfg.MaxInFlight = 16
		}
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = 96 << 10
	}
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = 2048
	}
	if cfg.MaxQueuedBytes == 0 {
		cfg.MaxQueuedBytes = 256 << 20
	}
	return cfg
}

// ---- the story

// A line of the story is formatted only if a fault has it told.
type line struct {
	at     time.Duration
	app    string
	format string
	args   []any
}

// say adds a line to the story of an app, or to everybody's. m.mu is held, as in all that follows
// unless it is said.
func (m *model) say(app, format string, args ...any) {
	m.story = append(m.story, line{time.Since(m.began), app, format, args})
}

// fault fails the test and tells what happened to the app lately. Only the first few faults of a
// seed are told, one of a kind.
func (m *model) fault(app, format string, args ...any) {
	if m.faults[format] || len(m.faults) == 3 {
		return
	}
	m.faults[format] = true
	var lines []string
	for _, l := range slices.Backward(m.story) {
		if l.app == app || l.app == "" || app == "" {
			lines = append(lines, fmt.Sprintf("  %12v %s %s", l.at, l.app, fmt.Sprintf(l.format, l.args...)))
		}
		if len(lines) == 300 {
			break
		}
	}
	slices.Reverse(lines)
	m.t.Errorf("seed %d at %v: %s: %s\nplan: %+v\nconfig: %+v\n%s", m.seed, time.Since(m.began), app,
		fmt.Sprintf(format, args...), m.plan, shown(m.cfg), strings.Join(lines, "\n"))
}

// shown is what tells one Config from another.
func shown(c webhook.Config) string {
	return fmt.Sprintf("batch %d events %d bytes %v, in flight %d of %d, memory %d of %d, "+
		"timeout %v, wait %v to %v for %v, grace %v", c.MaxBatchEvents, c.MaxBatchBytes, c.BatchWindow,
		c.MaxInFlight, c.MaxConcurrent, c.MaxEndpointQueuedBytes, c.MaxQueuedBytes,
		c.SendTimeout, c.RetryWaitMin, c.RetryWaitMax, c.RetryFor, c.ReconnectGrace)
}

func short(id string) string { return id[:min(5, len(id))] }

// brief is a channel's name without what only makes it long.
func brief(channel string) string { return strings.ReplaceAll(channel, "x", "") }

// String names the items of a delivery briefly.
func (r *record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s", short(r.id), strings.TrimPrefix(r.where.url, "http://"), r.where.team)
	channel := ""
	for _, i := range r.items {
		if i.channel != channel {
			channel = i.channel
			fmt.Fprintf(&b, " %s", brief(channel))
		}
		fmt.Fprintf(&b, " %d", i.number)
	}
	return b.String()
}

// hash draws a number that depends on nothing but the seed and the values.
func (m *model) hash(values ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, m.seed, values)
	return rand.New(rand.NewPCG(h.Sum64(), 0)).Uint64()
}

func (m *model) site(where target) *site {
	s := m.sites[where]
	if s == nil {
		s = &site{target: where, unconfigured: time.Now(), flights: map[*flight]bool{},
			last: map[string]life{}}
		m.sites[where] = s
	}
	return s
}

// begins is the beginning of a life.
func (m *model) begins(batch int) life {
	m.turns++
	return life{m.turns, time.Now(), batch}
}

func (m *model) tenant(app string) *tenant {
	t := m.tenants[app]
	if t == nil {
		t = &tenant{emitting: map[*event]bool{}}
		m.tenants[app] = t
	}
	return t
}

// ---- the endpoints

// A mood is how an endpoint answers for some time.
type mood int

const (
	moodAccept mood = iota
	moodSlow
	moodFail
	moodAsk // fails, with a Retry-After
	moodRefuse
	moodPoison // refuses single events, or bodies above a size
	moodFinal
	moodHang
	moodDeaf // ignores its context
	moodPanic
	moodExit
	moodLocal // no descriptors
	moods
)

// healed reports whether everything is accepted from now on.
func (m *model) healed() bool {
	return m.plan.ending == endHealed && time.Since(m.began) >= m.plan.length
}

// mood is an endpoint's at this moment.
func (m *model) mood(where target) mood {
	switch now := time.Since(m.began); {
	case m.healed():
		return moodAccept
	case m.plan.ending == endDead && now >= m.plan.length:
		return []mood{moodFail, moodHang, moodRefuse, moodAsk, moodDeaf}[m.hash(where)%5]
	default:
		h := m.hash(where, int(now/(m.plan.mood+1)))
		if int(h%10) < m.plan.calm {
			return []mood{moodAccept, moodSlow, moodPoison}[h/10%3]
		}
		return mood(h / 10 % uint64(moods))
	}
}

// send is the Sender.
func (m *model) send(ctx context.Context, d *webhook.Delivery) (err error) {
	f := m.begin(d)
	returned := false
	defer func() {
		if !returned { // a panic or runtime.Goexit counts as a refusal
			err = webhook.ErrRefused
		}
		m.answer(f, d, err)
	}()
	err = m.act(ctx, f)
	returned = true
	return err
}

// act does what the endpoint's mood is. m.mu is not held.
func (m *model) act(ctx context.Context, f *flight) error {
	where := f.site.target
	i := f.record.items[0]
	r := rand.New(rand.NewPCG(m.hash(where, i.channel, i.number), uint64(f.n)))
	took := time.Duration(r.IntN(300)) * time.Millisecond
	if r.IntN(4) == 0 && !m.healed() && !m.wait(ctx, took) {
		return ctx.Err()
	}
	now := m.mood(where)
	if r.IntN(100) < m.plan.noise && time.Since(m.began) < m.plan.length {
		now = mood(r.IntN(int(moods)))
	}
	switch now {
	case moodSlow:
		if !m.wait(ctx, time.Duration(r.IntN(1500))*time.Millisecond) {
			return ctx.Err()
		}
	case moodFail:
		return pick(r, error(&webhook.StatusError{Code: 503}), errors.New("down"))
	case moodAsk:
		after := time.Duration(r.IntN(20_000)) * time.Millisecond
		return &webhook.StatusError{Code: pick(r, 429, 503), After: after}
	case moodRefuse:
		return pick(r, error(&webhook.StatusError{Code: pick(r, 400, 401, 500)}), webhook.ErrRefused)
	case moodFinal:
		return pick(r, error(&webhook.StatusError{Code: 410}), fmt.Errorf("never: %w", webhook.ErrFinal))
	case moodHang:
		<-ctx.Done()
		return ctx.Err()
	case moodDeaf:
		time.Sleep(m.cfg.SendTimeout + time.Duration(r.IntN(3000))*time.Millisecond)
		if m.plan.ending == endDead || r.IntN(2) == 0 {
			return errors.New("late")
		}
	case moodPanic:
		panic("trouble")
	case moodExit:
		runtime.Goexit()
	case moodLocal:
		return fmt.Errorf("dial: %w", syscall.EMFILE)
	}
	return m.taste(f.record, now)
}

// wait reports whether the time has passed before ctx ended. m.mu is not held.
func (m *model) wait(ctx context.Context, took time.Duration) bool {
	timer := time.NewTimer(took.Round(m.plan.grain))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// taste is the answer of an endpoint that accepts, but for what is poison to it.
func (m *model) taste(r *record, now mood) error {
	how := m.hash(r.where, "poison")
	server, client := &webhook.StatusError{Code: 500}, &webhook.StatusError{Code: 400}
	answers := []error{server, client, webhook.ErrRefused}
	if m.healed() {
		return nil
	}
	if now == moodPoison && how%4 == 0 {
		if most := int(200 + how/4%2000); len(r.body) > most {
			return &webhook.StatusError{Code: 413}
		}
		return nil
	}
	poison := m.plan.poison
	if now == moodPoison {
		poison = 4
	}
	for _, i := range r.items {
		if poison > 0 && m.hash(i.channel, i.number)%poison == 0 {
			return answers[how/4%3]
		}
	}
	return nil
}

// ---- a Send begins

// parsed is what the model reads of a delivery. m.mu need not be held.
func (m *model) parsed(d *webhook.Delivery) (r *record, err error) {
	var body envelope
	if err = json.Unmarshal(d.Body, &body); err != nil {
		return nil, err
	}
	r = &record{id: d.ID, where: target{d.AppID, d.URL, d.Header.Get("X-Team")}, body: bytes.Clone(d.Body),
		stamp: time.UnixMilli(body.TimeMS)}
	for _, e := range body.Events {
		number := e.SubscriptionCount
		switch e.Name {
		case webhook.TypeMemberAdded, webhook.TypeMemberRemoved:
			number, err = strconv.Atoi(e.UserID)
		case webhook.TypeClientEvent:
			number, err = strconv.Atoi(strings.TrimPrefix(e.Event, "client-"))
		}
		if err != nil {
			return nil, err
		}
		r.items = append(r.items, item{r.where, e.Channel, e.Name, number})
	}
	return r, nil
}

// record returns what the model knows of a delivery, and checks that it holds what it held before.
func (m *model) record(d *webhook.Delivery) *record {
	known := m.records[d.ID]
	if known != nil && bytes.Equal(known.body, d.Body) {
		return known
	}
	r, err := m.parsed(d)
	if err != nil {
		m.fault(d.AppID, "a body: %v: %s", err, d.Body)
		r = &record{id: d.ID, where: target{app: d.AppID}, items: make([]item, 1)}
	}
	for _, i := range r.items {
		f := m.items[i]
		if f == nil {
			m.fault(d.AppID, "%v is unasked for: %+v", r, i)
			f = &fate{event: &event{}}
		}
		r.fates = append(r.fates, f)
	}
	if known == nil {
		m.records[d.ID] = r
		return r
	}
	if !slices.Equal(known.items, r.items) {
		m.fault(d.AppID, "%v has other events than before: %v", r, known)
	}
	m.checkRestamped(known, r, d)
	known.body, known.stamp = r.body, r.stamp
	return known
}

// checkRestamped is for a delivery whose bytes are not what they were.
func (m *model) checkRestamped(known, r *record, d *webhook.Delivery) {
	t, first := m.tenant(d.AppID), known.fates[0]
	switch key := d.Header.Get("X-Pusher-Key"); {
	case r.where.app == stranger:
		m.fault(d.AppID, "%v of an unknown app was changed", r)
	case key != known.key || known.sends == 0: // signed by others, or redelivered
	case first.redelivered && !t.changed.Before(first.life.at): // and the app is back
	case slices.ContainsFunc(t.history, func(c credentials) bool {
		return c.key != key && !c.from.Before(known.stamp)
	}): // and back
	case time.Since(known.stamp) < 4*time.Minute:
		m.fault(d.AppID, "%v was stamped again after %v", r, time.Since(known.stamp))
	}
}

// begin notes a Send, and holds what is sent against the model. m.mu is not held.
func (m *model) begin(d *webhook.Delivery) *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record(d)
	s := m.site(r.where)
	r.sends++
	r.sent++
	f := &flight{site: s, record: r, started: time.Now(), n: r.sends}
	m.say(s.app, "send %d of %v", r.sends, r)
	m.checkSigned(d, r)
	m.checkLimits(s, r)
	m.checkMoment(s, r)
	m.checkOrder(s, r)
	r.key, r.last = d.Header.Get("X-Pusher-Key"), f
	for other := range s.flights {
		for _, channel := range distinct(r.items) {
			if slices.Contains(distinct(other.record.items), channel) && !r.aside() && !other.record.aside() {
				m.fault(s.app, "%v is sent beside %v", r, other.record)
			}
		}
	}
	s.flights[f] = true
	m.wire++
	for _, fate := range r.fates {
		fate.wire++
	}
	return f
}

func distinct(items []item) (channels []string) {
	for _, i := range items {
		if !slices.Contains(channels, i.channel) {
			channels = append(channels, i.channel)
		}
	}
	return channels
}

// aside reports whether a delivery may have been set aside, because it was refused and could not be
// divided.
func (r *record) aside() bool {
	return r.fates[0].refused > 0 && (len(r.items) == 1 || r.fates[0].redelivered)
}

// checkSigned checks who has signed a delivery that leaves, and when.
func (m *model) checkSigned(d *webhook.Delivery, r *record) {
	now, t := time.Now(), m.tenant(r.where.app)
	key := d.Header.Get("X-Pusher-Key")
	var valid, known, current bool
	for _, c := range t.history {
		if c.key == key && webhook.Verify(c.key, webhook.Secret(c.secret), d.Header, d.Body) == nil {
			valid = true
			current = current || !c.from.After(now) && (c.to.IsZero() || !c.to.Before(now))
		}
	}
	// An app that was removed may be forgotten: then a stored delivery goes out as it is.
	stored := slices.ContainsFunc(r.fates, func(f *fate) bool { return f.redelivered })
	known = t.configured && t.changed.Before(now) || !stored
	switch {
	case !valid:
		m.fault(r.where.app, "%v is signed by %q, and not validly", r, key)
	case known && !current:
		m.fault(r.where.app, "%v is signed by %q of another time", r, key)
	case known && now.Sub(r.stamp) > 4*time.Minute+time.Millisecond:
		m.fault(r.where.app, "%v has a time_ms of %v ago", r, now.Sub(r.stamp))
	}
	m.checkComplete(d, r)
}

// checkComplete looks at a delivery's fields.
func (m *model) checkComplete(d *webhook.Delivery, r *record) {
	h := d.Header
	if h.Get("Webhook-Id") != d.ID || h.Get("Content-Type") != "application/json" ||
		d.Events != len(r.items) {
		m.fault(d.AppID, "%v is not complete: %v", r, h)
	}
	for _, f := range r.fates[:1] {
		if !f.redelivered && !f.event.ruled && d.CreatedAt.After(f.life.at) {
			m.fault(d.AppID, "%v was created at %v, after its first event", r, d.CreatedAt.Sub(m.began))
		}
	}
}

// checkLimits checks how much is sent, at once and in all.
func (m *model) checkLimits(s *site, r *record) {
	if n := len(r.items); n > m.cfg.MaxBatchEvents || n == 0 {
		m.fault(s.app, "%v has %d events", r, n)
	}
	if n := len(r.body); n > m.cfg.MaxBatchBytes {
		m.fault(s.app, "%v has %d bytes", r, n)
	}
	shrunk := s.largest > 0 && m.stayed(s, s.shrunk) && s.answered.Before(time.Now())
	if shrunk && len(r.items) > 1 && len(r.body) > s.largest {
		m.fault(s.app, "%v has %d bytes after a 413", r, len(r.body))
	}
	encrypted := 0
	for _, i := range r.items {
		if strings.HasPrefix(i.channel, "private-encrypted-") {
			encrypted++
		}
	}
	if encrypted > 0 && encrypted < len(r.items) {
		m.fault(s.app, "%v mixes encrypted channels with others", r)
	}
	if n := len(s.flights); n >= m.cfg.MaxInFlight {
		m.fault(s.app, "%v: %d are in flight already", r, n)
	}
	if m.wire >= m.cfg.MaxConcurrent {
		m.fault(s.app, "%v: %d are on the wire already", r, m.wire)
	}
}

// checkMoment checks whether an endpoint may be tried now.
func (m *model) checkMoment(s *site, r *record) {
	now, t := time.Now(), m.tenant(s.app)
	switch {
	case !m.closed.IsZero() && now.After(m.closed):
		m.fault(s.app, "%v is sent after Close has returned", r)
	case !m.held.IsZero() && now.After(m.held):
		m.fault(s.app, "%v is sent while the dispatcher is held", r)
	case !m.plan.slow && !m.closing.IsZero() && s.lastTry && s.lastTries > 0:
		m.fault(s.app, "%v is a second attempt at an endpoint that was failing when Close began", r)
	case !m.plan.slow && t.purged.Before(now) && t.purged.After(r.fates[0].life.at):
		m.fault(s.app, "%v is sent after Purge", r)
	case !m.closing.IsZero():
	case m.cfg.RetryFor < 0 && r.sends > 1 && r.last.answer != verdictLocal:
		m.fault(s.app, "%v is the second attempt, in spite of RetryFor", r)
	default:
		m.checkWait(s, r)
	}
}

// checkWait checks that an endpoint is left alone after a failure, and then tried by one lane.
func (m *model) checkWait(s *site, r *record) {
	now, t := time.Now(), m.tenant(s.app)
	if !m.stayed(s, s.failed) || m.overdue(s) || m.cfg.MaxInFlight > 1 && s.answered.Equal(now) {
		return // what happens at one moment on two lanes has no order
	}
	purged := s.local && !t.purged.Before(s.failed)
	if now.Before(s.until) && t.retryNow.Before(s.failed) && !purged {
		m.fault(s.app, "%v is sent %v after a failure, %v too soon", r, now.Sub(s.failed), s.until.Sub(now))
	}
	for f := range s.flights {
		if s.probing && f.started.After(s.failed) {
			m.fault(s.app, "%v is sent to an endpoint that fails, beside %v", r, f.record)
		}
	}
}

// overdue reports whether a Send should have returned long ago, which counts as a failure.
func (m *model) overdue(s *site) bool {
	for f := range s.flights {
		if time.Since(f.started) >= m.cfg.SendTimeout+time.Second {
			return true
		}
	}
	return false
}

// stayed reports whether a webhook has led to an endpoint since a moment: else it may have been
// forgotten.
func (m *model) stayed(s *site, since time.Time) bool {
	return s.configured && s.unconfigured.Before(since)
}

// class is what of a channel comes in order: a timing rule holds counts, and lets others pass
// meanwhile.
func (m *model) class(i item) string {
	if m.plan.timing && i.kind == webhook.TypeSubscriptionCount {
		return i.channel + " counts"
	}
	return i.channel
}

// ordered reports whether items like this come in order. What a timing rule holds is queued when it
// lets go.
func ordered(i item, f *fate) bool {
	return !f.event.ruled || i.kind == webhook.TypeSubscriptionCount && !f.redelivered
}

// checkOrder checks that nothing was accepted that was queued behind what is sent now. What was
// refused by itself may come later.
func (m *model) checkOrder(s *site, r *record) {
	last := map[string]life{}
	for at, i := range r.items {
		f, class := r.fates[at], m.class(i)
		if f.ended >= f.queued && m.closing.IsZero() {
			m.fault(s.app, "%v has %s %d, which has ended", r, brief(i.channel), i.number)
		}
		if !ordered(i, f) || f.refused > 0 {
			continue
		}
		for _, behind := range []life{s.last[class], last[class]} {
			if f.life.before(behind) {
				m.fault(s.app, "%v has %s %d, out of order", r, brief(i.channel), i.number)
			}
		}
		last[class] = f.life
	}
}

// ---- an answer

// answer notes what came of a Send. m.mu is not held.
func (m *model) answer(f *flight, d *webhook.Delivery, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, r := f.site, f.record
	f.err, f.answer, f.ended = err, judge(err), time.Now()
	m.say(s.app, "answer to %v: %v", short(r.id), err)
	if !bytes.Equal(d.Body, r.body) {
		m.fault(s.app, "%v was changed while it was sent", r)
	}
	hung := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if took := time.Since(f.started); s.lastTry && hung && took > time.Second {
		m.fault(s.app, "%v took %v, as the last attempt at Close", r, took)
	}
	delete(s.flights, f)
	f.counts = m.cfg.MaxInFlight == 1 || s.answered.Before(f.started) && !m.overdue(s)
	s.answered = time.Now()
	m.wire--
	for at, fate := range r.fates {
		fate.wire--
		i := r.items[at]
		whole := fate.redelivered && !m.tenant(s.app).configured // nobody can sign its parts
		switch class := m.class(i); {
		case f.answer == verdictRefused && (len(r.items) == 1 || whole):
			fate.refused++
		case f.answer == verdictAccepted && ordered(i, fate) && s.last[class].turn < fate.life.turn:
			s.last[class] = fate.life
		}
	}
	if f.answer == verdictAccepted {
		r.accepted++
	}
	m.weigh(f)
	m.resize(f)
}

// weigh notes what an answer says about its endpoint.
func (m *model) weigh(f *flight) {
	s, now, kind := f.site, time.Now(), f.answer
	purged := !m.tenant(s.app).purging.Before(f.started)
	if kind == verdictRefused && m.cfg.RetryFor < 0 && !purged {
		kind = verdictFailed
	}
	if !m.stayed(s, s.failed) {
		s.doublings, s.probing = 0, false
	}
	late := now.Sub(f.started) >= m.cfg.SendTimeout+time.Second
	if late { // it counted already while it did not return
		s.until, s.probing = time.Time{}, false
		s.failures++
	}
	switch kind {
	case verdictAccepted:
		s.answers(f, late)
		if f.counts {
			s.failures = 0
		}
		return
	case verdictRefused:
		s.answers(f, late)
		s.refuses = true
	case verdictLocal: // which is nobody's failure
		s.failed, s.until, s.local, s.probing = now, now.Add(m.cfg.RetryWaitMin/2), true, false
		if purged { // then nothing may be left, and the wait be forgotten
			s.until = time.Time{}
		}
		return
	case verdictFailed:
		s.fails(f, m.backOff(s, f.err), m.cfg.RetryWaitMin/2)
	case verdictFinal:
		wait := m.cfg.RetryWaitMax
		if purged { // it fails, as far as anyone is concerned
			wait = m.cfg.RetryWaitMin / 2
		}
		s.fails(f, wait, m.cfg.RetryWaitMin/2)
		s.doublings = 0
	}
	s.trouble = now
	s.failures++
	if !m.closing.IsZero() && kind != verdictRefused {
		s.lastTries++
	}
}

// answers ends what was known of the endpoint's failures, unless the answer is to a request that
// left before them.
func (s *site) answers(f *flight, late bool) {
	s.lastTry = false
	if late || s.local || !f.started.Before(s.failed) {
		s.until, s.doublings, s.probing, s.local = time.Time{}, 0, false, false
	}
}

// fails has the model expect that an endpoint is left alone for some time, if it is certain that
// the failure counts.
func (s *site) fails(f *flight, wait, least time.Duration) {
	if !f.counts {
		s.doublings = 0
		if s.failed.Equal(f.ended) { // or it counts, and the other one does not
			s.until = f.ended.Add(least)
		}
		return
	}
	s.doublings++
	s.failed, s.until, s.probing, s.local = time.Now(), time.Now().Add(wait), true, false
}

// backOff is the shortest that an endpoint may wait after a failure.
func (m *model) backOff(s *site, err error) time.Duration {
	lowest, longest := m.cfg.RetryWaitMin, m.cfg.RetryWaitMax
	if answer, ok := errors.AsType[*webhook.StatusError](err); ok && answer.After > 0 {
		return min(max(answer.After, lowest), longest-longest/4)
	}
	wait := lowest
	for range s.doublings {
		wait = min(2*wait, longest)
	}
	return wait / 2
}

// resize notes what a 413 says about the endpoint's bodies. It may become larger again after 100
// deliveries.
func (m *model) resize(f *flight) {
	s := f.site
	answer, ok := errors.AsType[*webhook.StatusError](f.err)
	tooLarge := ok && answer.Code == http.StatusRequestEntityTooLarge
	switch {
	case !f.counts || len(s.flights) > 0 || !m.tenant(s.app).purging.Before(f.started):
		s.largest = 0
	case tooLarge && m.cfg.RetryFor > 0 && len(f.record.items) > 1:
		s.largest, s.shrunk = max(1<<10, len(f.record.body)/2+20), f.started
	case f.answer == verdictAccepted:
		s.largest = 0
	}
}

// ---- hooks

// end ends a life of every item of a delivery.
func (m *model) end(r *record, how string) {
	for at, f := range r.fates {
		if f.ended++; f.ended > f.queued {
			i := r.items[at]
			m.fault(r.where.app, "%v: %s %d has ended %d times of %d, now %s", r, brief(i.channel),
				i.number, f.ended, f.queued, how)
		}
		if f.event.result == resultRejected {
			m.fault(r.where.app, "%v has an event that Emit has refused", r)
		}
	}
}

func (m *model) hookDelivered(d *webhook.Delivery, took time.Duration) {
	defer m.linger(d.URL)
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record(d)
	m.say(d.AppID, "delivered %v", short(d.ID))
	if r.last == nil || r.last.answer != verdictAccepted || took > time.Since(r.last.started) {
		m.fault(d.AppID, "%v is reported delivered after %v", r, took)
	}
	r.delivered++
	m.requests++
	m.delivered += d.Events
	m.end(r, "delivered")
}

// linger is deferred by hooks that take their time in some seeds. m.mu is not held.
func (m *model) linger(about string) {
	if h := m.hash(about, time.Since(m.began)); m.plan.slow && h%2 == 0 {
		time.Sleep(time.Duration(h/2%50_000_000) * time.Nanosecond)
	}
}

func (m *model) hookAttempt(d *webhook.Delivery, a webhook.Attempt) {
	defer m.linger(d.URL)
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record(d)
	r.attempts++
	f := r.last
	switch {
	case f == nil:
		m.fault(d.AppID, "%v was attempted, and never sent", r)
	case r.cut: // Close has handed it back meanwhile
	case a.RetryIn < 0 || a.RetryIn > m.cfg.RetryWaitMax:
		m.fault(d.AppID, "%v is tried again in %v", r, a.RetryIn)
	case a.N != r.sends || judge(a.Err) != f.answer || a.Took != time.Since(f.started):
		m.fault(d.AppID, "%v: %+v was told as the attempt %d that took %v", r, a, r.sends,
			time.Since(f.started))
	case f.answer == verdictFailed && f.counts && a.RetryIn > 0 && m.closing.IsZero():
		if next := time.Now().Add(a.RetryIn); next.Before(f.site.until) {
			m.fault(d.AppID, "%v is tried again in %v, may only in %v", r, a.RetryIn,
				time.Until(f.site.until))
		} else if f.site.failed.Equal(time.Now()) && m.cfg.MaxInFlight == 1 {
			f.site.until = next
		}
	}
}

func (m *model) hookRejected(string, webhook.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rejectedTold++
}

// hookEndpoint checks that nobody else tells of the endpoint, and that it is not told of too often.
func (m *model) hookEndpoint(status webhook.EndpointStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.say(status.AppID, "endpoint %s is %v", status.ID, status.State)
	now, t := time.Now(), m.told[status.ID]
	if t == nil {
		t = &told{}
		m.told[status.ID] = t
	}
	switch since := now.Sub(t.at); {
	case !m.steady(status, t.at): // it may be another
	case t.telling:
		m.fault(status.AppID, "endpoint %s: two hooks at a time", status.ID)
	case !m.closing.IsZero():
	case since < m.cfg.RetryWaitMin || t.state == status.State:
		m.fault(status.AppID, "endpoint %s is %v, after %v in which it was %v", status.ID, status.State,
			since, t.state)
	}
	t.state, t.at, t.telling = status.State, now, true
	m.mu.Unlock()
	m.linger(status.ID)
	m.mu.Lock()
	t.telling = false
}

// steady reports whether webhooks have led to an endpoint since before what was told of it. Else it
// may have been another one of which that was told.
func (m *model) steady(status webhook.EndpointStatus, told time.Time) bool {
	since := told.Add(-m.cfg.RetryWaitMin)
	for _, s := range m.sites {
		if s.app == status.AppID && s.url == status.URL+"/" && !m.stayed(s, since) {
			return false
		}
	}
	return true
}

// checkTold checks that the hook knows the latest of every endpoint, a while after anything has
// happened.
func (m *model) checkTold() {
	good := m.began.Add(m.plan.length + m.cfg.SendTimeout + 5*time.Second) // if all are healed
	for app := range m.tenants {
		for _, status := range m.d.Endpoints(app) {
			told, ok := m.told[status.ID], status.State == webhook.EndpointOK
			if told == nil && !ok || told != nil && told.state != status.State && m.steady(status, told.at) {
				m.fault(app, "endpoint %s is %v, and the hook was told %+v", status.ID, status.State, told)
			}
			if m.plan.ending == endHealed && status.LastSuccess.After(good) && !ok {
				m.fault(app, "endpoint %s accepts everything: %+v", status.ID, status)
			}
		}
	}
}

func (m *model) hookUndelivered(d *webhook.Delivery, err error) {
	defer m.linger(d.URL)
	m.mu.Lock()
	r := m.record(d)
	m.say(d.AppID, "undelivered %v: %v", r, err)
	m.checkReason(r, err)
	m.checkComplete(d, r)
	if !m.validEver(d) {
		m.fault(d.AppID, "%v was handed back without a valid signature", r)
	}
	m.undelivered += d.Events
	if errors.Is(err, webhook.ErrPurged) {
		m.purged += d.Events
		m.tenant(d.AppID).gaveUp += d.Events
	}
	m.end(r, "undelivered")
	m.sinceClose[d] = !m.plan.slow && !m.closing.IsZero() && time.Now().After(m.closing)
	m.kept = append(m.kept, d)
	eager := m.plan.eager && m.again[d.ID] < 2
	if !eager {
		m.back = append(m.back, d)
	}
	m.mu.Unlock()
	if eager {
		m.redeliver(d)
	}
}

func (m *model) validEver(d *webhook.Delivery) bool {
	return slices.ContainsFunc(m.tenant(d.AppID).history, func(c credentials) bool {
		return webhook.Verify(c.key, webhook.Secret(c.secret), d.Header, d.Body) == nil
	})
}

// checkReason checks that a delivery may be given up for the reason that is given.
func (m *model) checkReason(r *record, err error) {
	now, s, t := time.Now(), m.site(r.where), m.tenant(r.where.app)
	answered := r.last != nil && r.sends > 0 && r.last.err != nil && errors.Is(err, r.last.err)
	text := err.Error()
	switch {
	case errors.Is(err, webhook.ErrPurged):
		late := slices.ContainsFunc(r.fates, func(f *fate) bool { return t.purged.Before(f.life.at) })
		if late && !m.plan.slow {
			m.fault(r.where.app, "%v is purged, but was queued after that", r)
		}
	case strings.Contains(text, "gave up after"):
		m.checkAge(s, r, err)
	case strings.Contains(text, "webhook: clos"):
		r.cut = true
		if m.closing.IsZero() {
			m.fault(r.where.app, "%v is given up as at Close: %v", r, err)
		}
	case errors.Is(err, webhook.ErrQueueFull):
		if !slices.ContainsFunc(r.fates, func(f *fate) bool { return f.event.ruled }) {
			m.fault(r.where.app, "%v was accepted and found no room", r)
		}
	case errors.Is(err, webhook.ErrFinal):
		if !answered || r.last.answer != verdictFinal {
			m.fault(r.where.app, "%v is given up, but had not that answer: %v", r, err)
		}
	case m.cfg.RetryFor < 0:
		if !answered {
			m.fault(r.where.app, "%v is given up for an answer that it has not got: %v", r, err)
		}
	case errors.Is(err, webhook.ErrRefused):
		m.checkRefused(s, r, err)
	default:
		m.fault(r.where.app, "%v is given up, at %v, and need not be: %v", r, now.Sub(m.began), err)
	}
}

// checkAge checks what is given up as too old.
func (m *model) checkAge(s *site, r *record, err error) {
	now := time.Now()
	if m.cfg.RetryFor < 0 {
		m.fault(s.app, "%v is given up without an attempt: %v", r, err)
		return
	}
	for _, f := range r.fates {
		if age := now.Sub(f.life.at); age <= m.cfg.RetryFor {
			m.fault(s.app, "%v is given up at the age of %v: %v", r, age, err)
			break
		}
	}
	sure := m.closing.IsZero() && !m.overdue(s) && !m.plan.slow
	if sure && (!s.trouble.Equal(now) || s.failures < 2) {
		m.fault(s.app, "%v is given up after %d failures in a row, the last %v ago", r, s.failures,
			now.Sub(s.trouble))
	}
}

// checkRefused checks what is given up as refused.
func (m *model) checkRefused(s *site, r *record, err error) {
	tries, youngest := r.fates[0].refused, r.fates[0].life.at
	for _, f := range r.fates {
		tries = min(tries, f.refused)
		if f.life.at.After(youngest) {
			youngest = f.life.at
		}
	}
	answer, ok := errors.AsType[*webhook.StatusError](err)
	age := time.Since(youngest)
	enough := tries >= 4
	if ok && answer.Code >= 500 && age+m.cfg.RetryWaitMax <= m.cfg.RetryFor {
		enough = false
	}
	if enough || !m.closing.IsZero() || r.fates[0].redelivered && len(r.items) > 1 {
		return
	}
	aside := 0
	for i, f := range m.items {
		if i.target == s.target && f.open() && f.refused > 0 {
			aside++
		}
	}
	if aside < 64 {
		m.fault(s.app, "%v is given up after %d refusals at the age of %v, with %d set aside: %v", r,
			tries, age, aside, err)
	}
}

// ---- what the server does. m.mu is not held in what follows, unless it is said.

// stranger is an app that the dispatcher is never told of.
const stranger = "stranger"

// An actor is the goroutine of the server that looks after an app: it changes the app's
// configuration and emits, one step after the other, so that the model knows what each event meets.
type actor struct {
	*model
	id       string
	r        *rand.Rand
	next     map[string]int // number, by channel
	channels []string
	left     []*event // members that may come back
	crowd    bool     // emits only, beside the one that changes the app
}

func newActor(m *model, n int, crowd bool) *actor {
	a := &actor{model: m, id: fmt.Sprint("app", n), next: map[string]int{}, crowd: crowd}
	a.r = rand.New(rand.NewPCG(m.hash(a.id, crowd), 0))
	middle := strings.Repeat("x", a.r.IntN(2)*a.r.IntN(500))
	prefixes := []string{"room-", "room-", "presence-", "private-encrypted-", "private-", `room-"],[{`}
	for _, prefix := range prefixes {
		name := fmt.Sprint(prefix, a.id, middle, "-", len(a.channels))
		if crowd {
			name = fmt.Sprint(prefix, a.id, "-crowd-", len(a.channels))
		}
		a.channels = append(a.channels, name)
	}
	return a
}

func (a *actor) run() {
	pause := 2 * a.plan.length / time.Duration(a.plan.steps)
	for range a.plan.steps {
		switch n := a.r.IntN(40); {
		case n == 0 && !a.crowd:
			a.remove()
		case n < 3 && !a.crowd, n < 20 && !a.crowd && !a.there():
			a.configure()
		case n == 3:
			for range a.r.IntN(a.plan.burst) {
				a.emit()
			}
		case n < 24:
			a.plan.sleep(a.r, 2*pause)
		default:
			a.emit()
		}
	}
}

// there reports whether the app is known.
func (a *actor) there() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tenant(a.id).configured
}

func (a *actor) remove() {
	a.mu.Lock()
	t := a.tenant(a.id)
	t.configured, t.changed = false, time.Now()
	a.change(t, set{})
	a.say(a.id, "removed")
	a.mu.Unlock()
	a.d.RemoveApp(a.id)
	a.mu.Lock()
	defer a.mu.Unlock()
	t.before = nil
}

func (a *actor) configure() {
	app := a.randomApp()
	a.mu.Lock()
	t, now := a.tenant(a.id), time.Now()
	t.configured, t.changed = true, now
	if n := len(t.history); n > 0 {
		t.history[n-1].to = now
	}
	t.history = append(t.history, credentials{key: app.Key, secret: string(app.Secret), from: now})
	before := t.now
	a.change(t, set{webhooks: app.Webhooks, known: true})
	a.say(a.id, "set with %s: %v", app.Key, app.Webhooks)
	a.mu.Unlock()
	err := a.d.SetApp(app)
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.before = nil; err == nil {
		return
	}
	if !errors.Is(err, webhook.ErrClosed) {
		a.fault(a.id, "SetApp: %v", err)
	}
	t.configured, t.now = before.known, before
	if t.history = t.history[:len(t.history)-1]; len(t.history) > 0 {
		t.history[len(t.history)-1].to = time.Time{}
	}
}

// change begins a change of the app's webhooks. Whoever emits at this moment may meet the old ones
// or the new ones. m.mu is held.
func (a *actor) change(t *tenant, to set) {
	before := t.now
	t.before, t.now = &before, to
	for e := range t.emitting {
		a.offer(e, to)
	}
	a.lead(to.webhooks)
}

// lead notes to which endpoints the app's webhooks lead now. m.mu is held.
func (a *actor) lead(webhooks []webhook.Webhook) {
	now := map[target]bool{}
	for _, w := range webhooks {
		now[target{a.id, w.URL, w.Headers["X-Team"]}] = true
	}
	for where := range now {
		a.site(where)
	}
	for where, s := range a.sites {
		if where.app == a.id && (s.configured || now[where]) && s.configured != now[where] {
			s.configured, s.unconfigured = now[where], time.Now()
		}
	}
}

// groups are event types of which a webhook asks for all or none.
var groups = [][]webhook.EventType{
	{webhook.TypeSubscriptionCount},
	{webhook.TypeClientEvent, webhook.TypeCacheMiss},
	{
		webhook.TypeMemberAdded, webhook.TypeMemberRemoved, webhook.TypeChannelOccupied,
		webhook.TypeChannelVacated,
	},
}

// randomApp has up to four webhooks, with URLs that all apps share, and one of three pairs of
// credentials.
func (a *actor) randomApp() webhook.App {
	version := a.r.IntN(3)
	app := webhook.App{ID: a.id, Key: fmt.Sprint(a.id, "-key-", version)}
	app.Secret = webhook.Secret(fmt.Sprint(a.id, "-secret-", version))
	for range a.r.IntN(5) {
		w := webhook.Webhook{URL: fmt.Sprint("http://host", a.r.IntN(a.plan.hosts), "/")}
		for i, group := range groups {
			if len(w.EventTypes) == 0 && i == len(groups)-1 || a.r.IntN(3) > 0 {
				w.EventTypes = append(w.EventTypes, group...)
			}
		}
		w.Filter.ChannelNameStartsWith = pick(a.r, "", "", "room-", "pr")
		w.Filter.ChannelNameEndsWith = pick(a.r, "", "", "", "-1")
		if a.r.IntN(3) == 0 {
			w.Headers = map[string]string{"X-Team": "blue"}
		}
		app.Webhooks = append(app.Webhooks, w)
	}
	return app
}

// emit emits the next event of a channel.
func (a *actor) emit() {
	a.mu.Lock()
	e, t := a.event(), a.tenant(a.id)
	a.events = append(a.events, e)
	t.emitting[e] = true
	if t.before != nil {
		a.offer(e, *t.before)
	}
	a.offer(e, t.now)
	a.mu.Unlock()
	wants := a.d.Wants(a.id, e.Type, e.Channel)
	err := a.d.Emit(a.id, e.Event)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(t.emitting, e)
	a.say(a.id, "emit %s %s %d to %d: %v", e.Type, brief(e.Channel), e.number, len(e.fates), err)
	if wants != (len(e.fates) > 0) && e.Channel != "" && len(e.sets) == 1 {
		a.fault(a.id, "Wants is %v", wants)
	}
	a.outcome(e, err)
}

// outcome notes what Emit returned. m.mu is held.
func (a *actor) outcome(e *event, err error) {
	known := slices.ContainsFunc(e.sets, func(s set) bool { return s.known })
	unknown := slices.ContainsFunc(e.sets, func(s set) bool { return !s.known })
	switch {
	case err == nil && known:
		e.result = resultCertain
		a.emitted++
		return
	case errors.Is(err, webhook.ErrQueueFull) && known, errors.Is(err, webhook.ErrClosed):
		e.result = resultPossible
	case errors.Is(err, webhook.ErrUnknownApp) && unknown,
		errors.Is(err, webhook.ErrInvalidEvent) && e.Channel == "":
		e.result = resultRejected
	default:
		a.fault(a.id, "Emit: %v", err)
	}
	a.rejected++
}

// event makes up the next one. m.mu is held.
func (a *actor) event() *event {
	channel := a.channels[a.r.IntN(len(a.channels))]
	e := &event{app: a.id, number: a.next[channel]}
	switch n := a.r.IntN(30); {
	case n == 0:
		e.Event = webhook.ChannelOccupied("") // which is invalid
		return e
	case n < 8 && !(a.crowd && a.plan.timing):
		e.Event = webhook.SubscriptionCount(channel, e.number)
		e.ruled = a.plan.timing
	case n < 14:
		e.Event = webhook.MemberAdded(channel, strconv.Itoa(e.number))
	case n < 18 && !(a.crowd && a.plan.timing):
		e.Event = webhook.MemberRemoved(channel, strconv.Itoa(e.number))
		if n == 14 {
			e.Event, e.number = webhook.ChannelVacated(a.once(channel)), 0
		}
		if e.ruled = a.plan.timing; e.ruled {
			a.left = append(a.left, e)
		}
	case n < 20 && len(a.left) > 0:
		return a.comesBack()
	case n == 20:
		e.Event, e.number = webhook.CacheMiss(a.once(channel)), 0
	default:
		data := strings.Repeat("d", a.r.IntN(2)*a.r.IntN(300)) + strings.Repeat(`]},{\"`, a.r.IntN(2))
		name := fmt.Sprint("client-", e.number)
		e.Event = webhook.ClientEvent(channel, name, []byte(`"`+data+`"`), "1.2", "user")
	}
	e.size = int64(len(channel) + len(e.Data) + 150)
	a.next[channel]++
	return e
}

// once is the name of a channel for an event that has no number.
func (a *actor) once(channel string) string {
	return fmt.Sprint(channel, "-", a.next[channel])
}

// comesBack is the event of a member who has left before, perhaps a moment ago.
func (a *actor) comesBack() *event {
	last := len(a.left) - 1
	left := a.left[last]
	a.left = a.left[:last]
	e := &event{app: a.id, number: left.number, ruled: true, pair: left}
	e.Event = webhook.MemberAdded(left.Channel, left.UserID)
	if left.Type == webhook.TypeChannelVacated {
		e.Event = webhook.ChannelOccupied(left.Channel)
	}
	left.pair = e
	e.size = left.size
	return e
}

// offer notes an event for every endpoint that wants it by some webhooks, found the long way. m.mu
// is held.
func (a *actor) offer(e *event, by set) {
	for _, w := range by.webhooks {
		wanted := slices.Contains(w.EventTypes, e.Type) && e.Channel != "" &&
			strings.HasPrefix(e.Channel, w.Filter.ChannelNameStartsWith) &&
			strings.HasSuffix(e.Channel, w.Filter.ChannelNameEndsWith)
		if !wanted {
			continue
		}
		i := item{target{a.id, w.URL, w.Headers["X-Team"]}, e.Channel, e.Type, e.number}
		f := a.items[i]
		if f == nil {
			f = &fate{event: e, queued: 1, life: a.begins(0)}
			a.items[i] = f
			e.fates = append(e.fates, f)
		}
		if !slices.Contains(by.fates, f) {
			by.fates = append(by.fates, f)
		}
	}
	e.sets = append(e.sets, by)
}

// meddle does what a server and its operators do beside.
func (m *model) meddle(r *rand.Rand) {
	const steps = 60
	for range steps {
		m.plan.sleep(r, 2*m.plan.length/steps)
		app := fmt.Sprint("app", r.IntN(m.plan.apps))
		switch r.IntN(11) {
		case 10:
			m.hold(time.Duration(r.Int64N(int64(m.plan.length / 10))))
		case 0, 1, 2:
			m.flush(time.Duration(r.IntN(1000)) * time.Millisecond)
		case 3:
			m.purge(app)
		case 4, 5:
			m.retryNow(app)
		case 6:
			m.redeliver(m.foreign(r))
		case 7:
			_, _ = m.d.Endpoints(""), m.d.Endpoints(app)
		default:
			m.redeliver(m.handedBack(1 + r.IntN(5))...)
		}
	}
}

// hold has nothing start for a while; checkMoment looks.
func (m *model) hold(lasts time.Duration) {
	resume := m.d.Hold(m.t.Context())
	m.mu.Lock()
	m.held = time.Now()
	m.say("", "hold")
	m.mu.Unlock()
	time.Sleep(lasts)
	m.mu.Lock()
	m.held = time.Time{}
	m.say("", "resume")
	m.mu.Unlock()
	resume()
}

// flush checks that everything that was pending has ended, if Flush says so.
func (m *model) flush(patience time.Duration) {
	m.mu.Lock()
	lives := map[*fate]int{}
	for _, f := range m.items {
		if f.open() && f.event.sure() {
			lives[f] = f.queued
		}
	}
	m.say("", "flush")
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	err := m.d.Flush(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.say("", "flushed: %v", err)
	if err != nil || !m.closing.IsZero() {
		return
	}
	for f, life := range lives {
		if f.ended < life {
			m.fault(f.event.app, "Flush returned, and %s %d is pending", brief(f.event.Channel), f.event.number)
		}
	}
}

func (m *model) purge(app string) (events int) {
	m.mu.Lock()
	t := m.tenant(app)
	t.purged, t.purging = time.Now(), time.Now().Add(time.Hour)
	t.purges++
	m.say(app, "purge")
	m.mu.Unlock()
	events = m.d.Purge(app)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.say(app, "purged %d", events)
	t.purging = time.Now()
	m.purgesReturned += events
	return events
}

func (m *model) retryNow(app string) {
	m.mu.Lock()
	m.tenant(app).retryNow = time.Now()
	m.say(app, "retry now")
	m.mu.Unlock()
	m.d.RetryNow(app)
}

// handedBack takes some of the deliveries that were handed back.
func (m *model) handedBack(n int) (some []*webhook.Delivery) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n = min(n, len(m.back))
	some, m.back = slices.Clone(m.back[:n]), m.back[n:]
	for i, d := range some {
		if m.hash(d.ID)%2 == 0 { // from a storage
			var stored *webhook.Delivery
			data, err := json.Marshal(d)
			if err == nil {
				err = json.Unmarshal(data, &stored)
			}
			if some[i] = stored; err != nil {
				m.t.Error(err)
			}
		}
	}
	return some
}

// foreign makes a delivery that another process would have stored, of an app that this one does not
// know.
func (m *model) foreign(r *rand.Rand) *webhook.Delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tenant(stranger)
	if len(t.history) == 0 {
		t.history = []credentials{{key: "stranger-key", secret: "stranger-secret", from: m.began}}
	}
	d := &webhook.Delivery{
		ID: fmt.Sprint("foreign", len(m.events)), AppID: stranger, CreatedAt: time.Now(),
		URL:    fmt.Sprint("http://host", r.IntN(m.plan.hosts), "/"),
		Header: http.Header{"Content-Type": {"application/json"}, "X-Pusher-Key": {"stranger-key"}},
	}
	channel := fmt.Sprint("room-stranger-", r.IntN(2))
	var events []string
	for range 1 + r.IntN(min(3, m.cfg.MaxBatchEvents)) {
		e := &event{app: stranger, number: len(m.events), result: resultCertain, size: 200}
		e.Event = webhook.ClientEvent(channel, fmt.Sprint("client-", e.number), nil, "", "")
		m.events = append(m.events, e)
		f := &fate{event: e}
		e.fates = []*fate{f}
		m.items[item{target{stranger, d.URL, ""}, channel, e.Type, e.number}] = f
		events = append(events, fmt.Sprintf(`{"name":"client_event","channel":"%s","event":"%s"}`,
			channel, e.Event.Event))
		d.Events++
	}
	d.Body = []byte(`{"time_ms":1,"events":[` + strings.Join(events, ",") + `]}`)
	d.Header.Set("X-Pusher-Signature", webhook.Sign("stranger-secret", d.Body))
	d.Header.Set("Webhook-Id", d.ID)
	return d
}

// redeliver begins another life of deliveries that have ended.
func (m *model) redeliver(deliveries ...*webhook.Delivery) {
	if len(deliveries) == 0 {
		return
	}
	m.mu.Lock()
	m.redeliveries++
	batch, before := m.redeliveries, map[string]int{}
	for _, d := range deliveries {
		r := m.record(d)
		m.say(d.AppID, "redeliver %v", r)
		m.again[d.ID]++
		for _, f := range r.fates {
			f.queued++
			f.life, f.redelivered, f.refused = m.begins(batch), true, 0
		}
		before[d.ID], r.sends = r.sends, 0
	}
	m.mu.Unlock()
	err := m.d.Redeliver(deliveries...)
	m.mu.Lock()
	defer m.mu.Unlock()
	var refused *webhook.UndeliveredError
	expected := errors.Is(err, webhook.ErrQueueFull) || errors.Is(err, webhook.ErrClosed)
	switch {
	case err == nil:
		return
	case !errors.As(err, &refused) || !expected:
		m.fault("", "Redeliver: %v", err)
		return
	}
	m.checkAllRefused(deliveries, refused.Deliveries)
	for _, d := range refused.Deliveries {
		r := m.records[d.ID]
		m.say(d.AppID, "redeliver %s: %v", short(d.ID), err)
		for _, f := range r.fates {
			f.queued--
		}
		r.sends = before[d.ID]
		if m.closing.IsZero() {
			m.back = append(m.back, d)
		}
	}
}

// checkAllRefused checks that what comes behind a delivery for which there was no room is refused
// as well. m.mu is held.
func (m *model) checkAllRefused(deliveries, refused []*webhook.Delivery) {
	full := map[target]bool{}
	for _, d := range deliveries {
		r := m.records[d.ID]
		if slices.Contains(refused, d) {
			full[r.where] = true
		} else if full[r.where] {
			m.fault(d.AppID, "%v found room behind one that did not", r)
		}
	}
}

// ---- the test

func (m *model) run() {
	var all sync.WaitGroup
	for i := range m.plan.apps {
		all.Go(newActor(m, i, false).run)
		if m.plan.crowd {
			all.Go(newActor(m, i, true).run)
		}
	}
	all.Go(func() { m.meddle(rand.New(rand.NewPCG(m.seed, 1000))) })
	m.watch()
	if m.plan.ending != endAbrupt && m.plan.settled {
		all.Wait()
		m.settle()
	}
	m.close()
	all.Wait()
	time.Sleep(m.cfg.SendTimeout + time.Minute) // for who does not hear
	synctest.Wait()
	checkAccounts(m.t, m.d)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conclude()
}

// watch looks at the dispatcher at moments when nothing moves.
func (m *model) watch() {
	for end := m.began.Add(m.plan.length); time.Now().Before(end); {
		m.plan.sleep(m.rng, m.plan.length/8)
		synctest.Wait()
		m.checkQuiet()
		if m.rng.IntN(10) == 0 && !m.plan.slow {
			m.purgeQuietly(fmt.Sprint("app", m.rng.IntN(m.plan.apps)))
		}
	}
	if m.rng.IntN(2) == 0 {
		time.Sleep(time.Duration(m.rng.IntN(1000)))
	}
}

// checkQuiet compares the accounts while nothing moves.
func (m *model) checkQuiet() {
	if m.plan.slow { // a hook may be late to tell the model
		return
	}
	stats, endpoints := m.d.Stats(), m.d.Endpoints("")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkCounts(stats)
	var pending uint64
	inFlight := 0
	for _, e := range endpoints {
		pending += e.Pending
		inFlight += e.InFlight
		oldest := e.Oldest
		if e.InFlight > m.cfg.MaxInFlight || (e.Pending > 0) == oldest.IsZero() || oldest.After(time.Now()) {
			m.fault(e.AppID, "a status: %+v", e)
		}
	}
	m.checkOverdue(endpoints)
	if pending != stats.Pending || inFlight != m.wire {
		m.fault("", "endpoints have %d events pending and %d requests, in all there are %d and %d",
			pending, inFlight, stats.Pending, m.wire)
	}
	least, most, slack := m.open()
	if stats.Pending < least || stats.Pending > most {
		m.fault("", "%d events are pending, by the model %d to %d", stats.Pending, least, most)
	}
	if stats.PendingBytes > m.cfg.MaxQueuedBytes+slack || stats.PendingBytes < 0 {
		m.fault("", "%d bytes are pending, may be %d and %d", stats.PendingBytes, m.cfg.MaxQueuedBytes, slack)
	}
}

// checkOverdue checks that an endpoint is failing whose only Send should have returned long ago.
// m.mu is held.
func (m *model) checkOverdue(endpoints []webhook.EndpointStatus) {
	for _, s := range m.sites {
		if m.cfg.MaxInFlight > 1 || !m.overdue(s) || !m.closing.IsZero() {
			continue
		}
		if !slices.ContainsFunc(endpoints, func(e webhook.EndpointStatus) bool {
			return e.AppID == s.app && e.URL+"/" == s.url && e.State != webhook.EndpointOK && e.InFlight == 1
		}) {
			m.fault(s.app, "%s%s is not failing, though its Sender does not return", s.url, s.team)
		}
	}
}

// checkCounts compares what both have counted. m.mu is held.
func (m *model) checkCounts(s webhook.Stats) {
	got := []uint64{s.Emitted, s.Rejected, s.Delivered, s.Undelivered, s.Requests}
	want := []uint64{}
	for _, n := range []int{m.emitted, m.rejected, m.delivered, m.undelivered, m.requests} {
		want = append(want, uint64(n))
	}
	if !slices.Equal(got, want) || m.rejected != m.rejectedTold {
		m.fault("", "emitted, rejected, delivered, undelivered, requests: %d, by the model %d", got, want)
	}
}

// open returns how many events may be pending, and how much memory those may hold that were
// divided. m.mu is held.
func (m *model) open() (least, most uint64, slack int64) {
	for i, f := range m.items {
		if !f.open() {
			continue
		}
		most++
		if f.event.sure() || f.redelivered {
			least++
		}
		if m.site(i.target).refuses {
			slack += f.event.size + 240
		}
	}
	return least, most, slack
}

// purgeQuietly purges an app while nothing moves: then nothing is pending but what is on the wire.
func (m *model) purgeQuietly(app string) {
	m.mu.Lock()
	t := m.tenant(app)
	calls, before := t.purges+1, t.gaveUp
	m.mu.Unlock()
	events := m.purge(app)
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	// Who waited in Flush may go on at this moment and purge as well, and a hook may have redelivered.
	if n := t.gaveUp - before; n != events && t.purges == calls && !m.plan.eager {
		m.fault(app, "Purge returned %d and reported %d events", events, n)
	}
	for i, f := range m.items {
		if i.app == app && f.open() && f.event.sure() && f.wire == 0 && f.life.at.Before(now) {
			m.fault(app, "%s %d is pending after Purge at %s%s", brief(i.channel), i.number, i.url, i.team)
		}
	}
}

// settle waits until everything must have ended, for the endpoints are all well or all dead.
func (m *model) settle() {
	cfg := &m.cfg
	bound := 2*cfg.RetryWaitMax + cfg.SendTimeout + cfg.BatchWindow + time.Minute
	if m.plan.ending == endDead {
		const endpoints = 30 // each in turn, if there is one place
		round := cfg.RetryWaitMax + endpoints*(cfg.SendTimeout+4*time.Second)
		bound = 3 * (cfg.RetryFor + 6*round)
		if cfg.RetryFor < 0 {
			bound = time.Duration(3*m.d.Stats().Pending+10) * round
		}
	}
	time.Sleep(bound)
	synctest.Wait()
	m.checkQuiet()
	stats := m.d.Stats()
	m.mu.Lock()
	defer m.mu.Unlock()
	if stats.Pending+stats.Held > 0 || stats.PendingBytes != 0 || stats.ActiveEndpoints != 0 {
		m.fault("", "%v after everything should have ended: %+v", bound, stats)
	}
	m.checkTold()
}

// close closes the dispatcher and looks at what it hands back.
func (m *model) close() {
	m.mu.Lock()
	m.closing = time.Now()
	for _, s := range m.sites {
		waits := m.closing.Before(s.until) && m.tenant(s.app).retryNow.Before(s.failed)
		s.lastTry = waits && s.probing && len(s.flights) == 0 && m.stayed(s, s.failed)
	}
	m.say("", "close")
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.plan.patient)
	defer cancel()
	err := m.d.Close(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = time.Now()
	m.say("", "closed")
	if took := m.closed.Sub(m.closing); took > m.plan.patient+200*time.Millisecond && !m.plan.slow {
		m.fault("", "Close took %v, and had %v", took, m.plan.patient)
	}
	if again := m.d.Close(ctx); again != err {
		m.fault("", "a second Close returned %v", again)
	}
	var left *webhook.UndeliveredError
	if err != nil && !errors.As(err, &left) {
		m.fault("", "Close returned %v", err)
	}
	if left != nil {
		m.checkLeft(left)
	} else if slices.Contains(slices.Collect(valuesOf(m.sinceClose)), true) {
		m.fault("", "Close returned nothing, and something was reported")
	}
}

func valuesOf(m map[*webhook.Delivery]bool) func(func(bool) bool) {
	return func(yield func(bool) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// checkLeft checks that Close returned what was reported, in order. m.mu is held.
func (m *model) checkLeft(left *webhook.UndeliveredError) {
	last := map[target]map[string]life{}
	for _, d := range left.Deliveries {
		r := m.record(d)
		if _, reported := m.sinceClose[d]; !reported && !m.plan.slow {
			m.fault(d.AppID, "Close returned %v, which was not reported", r)
		}
		delete(m.sinceClose, d)
		if last[r.where] == nil {
			last[r.where] = map[string]life{}
		}
		for at, i := range r.items {
			f, class := r.fates[at], m.class(i)
			purged := !m.tenant(d.AppID).purging.Before(m.closing) // and what is on the wire comes later
			if !ordered(i, f) || f.refused > 0 || f.redelivered || purged {
				continue
			}
			if f.life.before(last[r.where][class]) {
				m.fault(d.AppID, "Close returned %v out of order", r)
			}
			last[r.where][class] = f.life
		}
	}
	for d, since := range m.sinceClose {
		if since {
			m.fault(d.AppID, "Close did not return %s", short(d.ID))
		}
	}
}

// conclude compares what was emitted with what became of it, when all is over. m.mu is held, as in
// what follows.
func (m *model) conclude() {
	m.checkCounts(m.d.Stats())
	queued, suppressed := 0, 0
	counts := map[string]int{} // the last, by channel
	for _, e := range m.events {
		if e.Type == webhook.TypeSubscriptionCount && e.result != resultRejected && len(e.fates) > 0 {
			counts[e.Channel] = e.number
		}
	}
	for _, e := range m.events {
		ended := 0
		for _, f := range e.fates {
			ended += f.ended
		}
		queued += ended
		switch {
		case e.result == resultRejected:
		case ended == 0 && e.result == resultCertain && len(e.fates) > 0 && e.ruled:
			suppressed++
			m.checkSuppressed(e, counts)
		default:
			m.checkEnded(e)
		}
	}
	stats := m.d.Stats()
	if int(stats.Queued) != queued || int(stats.Suppressed) != suppressed {
		m.fault("", "%d events were queued and %d suppressed, by the model %d and %d", stats.Queued,
			stats.Suppressed, queued, suppressed)
	}
	if m.purgesReturned > m.purged {
		m.fault("", "Purge returned %d in all, and reported %d", m.purgesReturned, m.purged)
	}
	m.checkRecords()
}

// checkEnded checks that every life of an event has ended once.
func (m *model) checkEnded(e *event) {
	if len(e.sets) > 1 {
		m.checkOneSet(e)
		return
	}
	for _, f := range e.fates {
		if f.ended != f.queued && (e.result == resultCertain || f.ended != 0 || f.queued != 1) {
			m.fault(e.app, "%s %s %d was queued %d times and ended %d times", e.Type, brief(e.Channel),
				e.number, f.queued, f.ended)
		}
	}
}

// checkOneSet checks that an event went by one of the sets of webhooks that it met.
func (m *model) checkOneSet(e *event) {
	for _, s := range e.sets {
		if !slices.ContainsFunc(e.fates, func(f *fate) bool {
			wanted := slices.Contains(s.fates, f)
			never := f.ended == 0 && f.queued == 1
			return !(wanted && f.ended == f.queued || never && (!wanted || e.result == resultPossible))
		}) {
			return
		}
	}
	m.fault(e.app, "%s %s %d went by none of %d sets of webhooks", e.Type, brief(e.Channel), e.number,
		len(e.sets))
}

// checkSuppressed checks whether a timing rule may have left an event out.
func (m *model) checkSuppressed(e *event, counts map[string]int) {
	right := e.pair != nil && len(e.pair.fates) > 0 && e.pair.fates[0].ended == 0
	if e.Type == webhook.TypeSubscriptionCount {
		right = counts[e.Channel] != e.number // the last is sent
	}
	if !right {
		m.fault(e.app, "%s %s %d never arrived", e.Type, brief(e.Channel), e.number)
	}
}

// checkRecords checks that hooks were told of every Send, and that what was handed back is still
// what it was.
func (m *model) checkRecords() {
	for _, r := range m.records {
		if !r.cut && (r.attempts != r.sent || r.accepted != r.delivered) {
			m.fault(r.where.app, "%v: hooks were told of %d attempts of %d, %d deliveries of %d", r,
				r.attempts, r.sent, r.delivered, r.accepted)
		}
	}
	for _, d := range m.kept {
		if !m.validEver(d) {
			m.fault(d.AppID, "%s was changed after it was handed back", short(d.ID))
		}
	}
	if m.wire != 0 {
		m.fault("", "%d requests are on the wire", m.wire)
	}
}
