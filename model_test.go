package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// TestModel runs apps that emit, change their webhooks, are removed and come back, beside flushes and
// redeliveries, against a Sender that fails, hangs, panics and takes its time, and closes at some moment. Then
// every event must be accounted for exactly once at every endpoint that wanted it.
//
// WEBHOOK_SEEDS=1000 runs more seeds than the usual number, WEBHOOK_SEED=7 runs one.
func TestModel(t *testing.T) {
	seeds, one := 40, os.Getenv("WEBHOOK_SEED")
	if n, err := strconv.Atoi(os.Getenv("WEBHOOK_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		if one == "" || one == fmt.Sprint(seed) {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { newModel(t, seed).run() })
			})
		}
	}
}

// A target is an endpoint as the model knows it.
type target struct {
	app, url, team string
}

// A sequence is what must arrive in order: the events of one channel at one endpoint.
type sequence struct {
	target
	channel string
}

// A model is a dispatcher and what the test knows of it.
type model struct {
	t    *testing.T
	d    *webhook.Dispatcher
	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu
	hung chan struct{}

	expected map[sequence]map[int]bool // by number: true where Emit said nil, false where it said ErrQueueFull
	batches  map[string]*webhook.Delivery
	ended    map[string]int // times that a hook reported a batch
	queued   map[string]int // times that a batch was queued
	first    []*webhook.Delivery
	sending  map[sequence]bool
	failed   []*webhook.Delivery // candidates for Redeliver
	lost     []string

	emitted, rejected uint64
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), hung: make(chan struct{}), expected: map[sequence]map[int]bool{},
		batches: map[string]*webhook.Delivery{}, ended: map[string]int{}, queued: map[string]int{}, sending: map[sequence]bool{},
	}
	cfg := webhook.Config{
		MaxBatchEvents: []int{1, 3, 20}[m.n(3)], MaxInFlight: 1 + m.n(4), MaxEventBytes: 1000,
		BatchWindow: time.Duration(1+m.n(100)) * time.Millisecond, Sender: webhook.SenderFunc(m.send),
		Hooks: webhook.Hooks{
			Delivered:   func(d *webhook.Delivery, _ time.Duration) { m.end(d, nil) },
			Undelivered: func(d *webhook.Delivery, err error) { m.end(d, err) },
		},
	}
	if m.n(2) == 0 {
		cfg.MaxQueuedBytes, cfg.MaxEndpointQueuedBytes = 20_000, 5_000
	}
	var err error
	m.d, err = webhook.New(cfg)
	require.NoError(t, err)
	return m
}

func (m *model) n(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n)
}

// identify tells where a delivery goes and which numbers of which channels it holds.
func identify(d *webhook.Delivery) (where target, channelOf []string, numbers []int) {
	var body envelope
	_ = json.Unmarshal(d.Body, &body)
	for _, e := range body.Events {
		channelOf = append(channelOf, e.Channel)
		number := e.SubscriptionCount
		if e.Name == webhook.TypeMemberAdded {
			number, _ = strconv.Atoi(e.UserID)
		}
		numbers = append(numbers, number)
	}
	return target{d.AppID, d.URL, d.Header.Get("X-Team")}, channelOf, numbers
}

func (m *model) send(ctx context.Context, d *webhook.Delivery) error {
	where, channelOf, _ := identify(d)
	m.mu.Lock()
	if m.batches[d.ID] == nil {
		m.batches[d.ID] = d
		m.first = append(m.first, d)
		m.queued[d.ID]++
	}
	if m.batches[d.ID].Header.Get("X-Pusher-Signature") != d.Header.Get("X-Pusher-Signature") {
		m.lost = append(m.lost, "a redelivery is not the same")
	}
	for _, channel := range channelOf {
		if m.sending[sequence{where, channel}] {
			m.lost = append(m.lost, "two requests with events of one channel at a time")
		}
	}
	for _, channel := range channelOf {
		m.sending[sequence{where, channel}] = true
	}
	fate, pause := m.rng.IntN(10), time.Duration(m.rng.IntN(200))*time.Millisecond
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, channel := range channelOf {
			delete(m.sending, sequence{where, channel})
		}
	}()
	switch fate {
	case 0:
		return errors.New("refused")
	case 1:
		panic("trouble")
	case 2: // hangs, until the end of time or of the test's patience
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.hung:
		}
	case 3, 4, 5:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return nil
}

func (m *model) end(d *webhook.Delivery, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.batches[d.ID] == nil { // handed back by Close without ever having been sent
		m.batches[d.ID] = d
		m.first = append(m.first, d)
		m.queued[d.ID]++
	}
	m.ended[d.ID]++
	if err != nil {
		m.failed = append(m.failed, d)
	}
}

// app is one tenant: it changes its own configuration and emits, one step after the other, so that the model
// knows what each event meets.
func (m *model) app(id string) {
	middle := strings.Repeat("x", m.n(2)*800) // long enough, in batches of 20, to be signed ahead
	channels := []string{id + "-private-" + middle + "-a", id + "-private-" + middle + "-b", id + "-presence-" + middle + "-c"}
	next := map[string]int{}
	var now webhook.App
	configured := false
	for range 300 {
		switch m.n(20) {
		case 0:
			m.d.RemoveApp(id)
			configured = false
		case 1, 2:
			now = m.randomApp(id)
			configured = m.d.SetApp(now) == nil
		case 3:
			time.Sleep(time.Duration(m.n(100)) * time.Millisecond)
		default:
			channel := channels[m.n(len(channels))]
			e := webhook.SubscriptionCount(channel, next[channel])
			if m.n(2) == 0 {
				e = webhook.MemberAdded(channel, strconv.Itoa(next[channel]))
			}
			err := m.d.Emit(id, e)
			m.count(err)
			switch {
			case err == nil, errors.Is(err, webhook.ErrQueueFull), errors.Is(err, webhook.ErrClosed) && configured:
				m.expect(now, channel, next[channel], err == nil)
				next[channel]++
			case !errors.Is(err, webhook.ErrUnknownApp) && !errors.Is(err, webhook.ErrClosed):
				m.t.Error(err)
			}
		}
	}
}

// count keeps the accounts of Emit.
func (m *model) count(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.emitted++
	} else {
		m.rejected++
	}
}

// randomApp has up to four webhooks, with URLs that all apps share, and one of three pairs of credentials.
func (m *model) randomApp(id string) webhook.App {
	version := m.n(3)
	app := webhook.App{ID: id, Key: fmt.Sprint(id, "-key-", version), Secret: webhook.Secret(fmt.Sprint(id, "-secret-", version))}
	for range m.n(4) {
		w := webhook.Webhook{URL: fmt.Sprint("http://localhost/", m.n(2)),
			EventTypes: []webhook.EventType{webhook.TypeSubscriptionCount, webhook.TypeMemberAdded}}
		w.Filter.ChannelNameStartsWith = []string{"", id + "-private-"}[m.n(2)]
		w.Filter.ChannelNameEndsWith = []string{"", "-a"}[m.n(2)]
		if m.n(2) == 0 {
			w.Headers = map[string]string{"X-Team": "blue"}
		}
		app.Webhooks = append(app.Webhooks, w)
	}
	return app
}

// expect notes an event for every endpoint that wants it, found the long way.
func (m *model) expect(app webhook.App, channel string, number int, accepted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range app.Webhooks {
		if !strings.HasPrefix(channel, w.Filter.ChannelNameStartsWith) || !strings.HasSuffix(channel, w.Filter.ChannelNameEndsWith) {
			continue
		}
		s := sequence{target{app.ID, w.URL, w.Headers["X-Team"]}, channel}
		if m.expected[s] == nil {
			m.expected[s] = map[int]bool{}
		}
		m.expected[s][number] = accepted
	}
}

// meddle flushes and redelivers beside the apps.
func (m *model) meddle() {
	for range 50 {
		time.Sleep(time.Duration(m.n(50)) * time.Millisecond)
		if m.n(3) == 0 {
			ctx, cancel := context.WithTimeout(m.t.Context(), time.Duration(m.n(100))*time.Millisecond)
			_ = m.d.Flush(ctx)
			cancel()
		}
		m.mu.Lock()
		var again *webhook.Delivery
		if len(m.failed) > 0 {
			again, m.failed = m.failed[0], m.failed[1:]
			m.queued[again.ID]++
		}
		m.mu.Unlock()
		if again != nil && m.d.Redeliver(again) != nil {
			m.mu.Lock()
			m.queued[again.ID]--
			m.mu.Unlock()
		}
	}
}

func (m *model) run() {
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() { m.app(fmt.Sprint("app", i)) })
	}
	all.Go(m.meddle)
	closeAt := time.Duration(m.n(4000)) * time.Millisecond
	time.Sleep(closeAt)
	if m.n(2) == 0 {
		close(m.hung)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Duration(m.n(2000))*time.Millisecond)
	defer cancel()
	_ = m.d.Close(ctx)
	all.Wait()
	checkAccounts(m.t, m.d)
	m.check()
}

// check compares what was emitted with what became of it.
func (m *model) check() {
	require.Empty(m.t, m.lost)
	require.Equal(m.t, m.emitted, m.d.Stats().Emitted)
	require.Equal(m.t, m.rejected, m.d.Stats().Rejected)
	for id, times := range m.queued {
		require.Equal(m.t, times, m.ended[id], "a batch ends as often as it was queued")
	}
	last := map[sequence]int{}
	for _, d := range m.first {
		where, channelOf, numbers := identify(d)
		key := d.Header.Get("X-Pusher-Key")
		require.True(m.t, strings.HasPrefix(key, where.app+"-key-"), "%s signed for %s", key, where.app)
		require.NoError(m.t, webhook.Verify(key, webhook.Secret(strings.Replace(key, "-key-", "-secret-", 1)), d.Header, d.Body))
		for i, channel := range channelOf {
			require.True(m.t, strings.HasPrefix(channel, where.app+"-"), "%s got an event of %s", where.app, channel)
			s := sequence{where, channel}
			_, wanted := m.expected[s][numbers[i]]
			require.True(m.t, wanted, "%+v got %d, which is unasked for or a second copy", s, numbers[i])
			delete(m.expected[s], numbers[i])
			require.GreaterOrEqual(m.t, numbers[i], last[s], "%+v is out of order", s)
			last[s] = numbers[i] + 1
		}
	}
	for s, numbers := range m.expected {
		for number, accepted := range numbers {
			require.False(m.t, accepted, "%+v never got %d", s, number)
		}
	}
}
