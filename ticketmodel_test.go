package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// TestTicketModel emits events with tickets, and holds, drops, purges, flushes and changes apps at random, against a Sender
// that accepts, fails, refuses, hangs and takes its time. Each ticket ends once at each endpoint where its event was queued,
// or never, if its app was dropped; events of one channel come in order, one request at a time, also after Drop; and the accounts
// are exact. WEBHOOK_SEEDS and WEBHOOK_SEED are those of TestModel.
func TestTicketModel(t *testing.T) {
	first, seeds := uint64(0), uint64(60)
	if n, err := strconv.ParseUint(os.Getenv("WEBHOOK_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	if one, err := strconv.ParseUint(os.Getenv("WEBHOOK_SEED"), 10, 64); err == nil {
		first, seeds = one, one+1
	}
	for seed := first; seed < seeds; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newTicketModel(t, seed).run() })
		})
	}
}

// An at is an event at an endpoint.
type at struct {
	endpoint string
	number   int
}

// A stub is the model's part of a ticket.
type stub struct {
	m      *ticketModel
	app    string
	life   int             // of the app, which ends with each Drop
	open   map[string]bool // endpoints where it was queued and has not ended
	ended  int
	done   bool
	ticket webhook.Ticket
}

type ticketModel struct {
	t   *testing.T
	d   *webhook.Dispatcher
	cfg webhook.Config

	mu        sync.Mutex
	r         *rand.Rand
	healed    bool
	held      map[int]time.Time // Holds under way, since when
	holds     int
	stubs     []*stub
	dropping  string         // the app
	lives     map[string]int // of each app
	wire      map[string]int // requests that are being made, by endpoint and channel
	last      map[string]int // the last that was accepted, by endpoint and channel
	aside     map[at]bool    // was refused by itself
	lost      map[at]bool    // was given up, and not settled
	queued    int            // pairs of an event and an endpoint
	delivered int
	givenUp   int
}

func newTicketModel(t *testing.T, seed uint64) *ticketModel {
	r := rand.New(rand.NewPCG(seed, 3))
	m := &ticketModel{t: t, r: r, held: map[int]time.Time{}, lives: map[string]int{}, wire: map[string]int{}, last: map[string]int{},
		aside: map[at]bool{}, lost: map[at]bool{}}
	m.cfg = webhook.Config{
		MaxBatchEvents: pick(r, 1, 3, 50), MaxInFlight: 1 + r.IntN(3), MaxConcurrent: pick(r, 1, 2, 8, 0), SendTimeout: 2 * time.Second,
		RetryFor: pick(r, 5*time.Second, 20*time.Second), MaxEventBytes: 300, MaxBatchBytes: 3000, MaxEndpointQueuedBytes: pick[int64](r, 0, 0, 8000),
		Sender: webhook.SenderFunc(m.send), Hooks: webhook.Hooks{GivenUp: m.giveUp},
	}
	if r.IntN(2) == 0 {
		m.cfg = m.cfg.WithPusherTiming()
		m.cfg.Lateness = pick(r, 0, lateness)
	}
	for n := range 3 {
		m.cfg.Apps = append(m.cfg.Apps, m.app(n))
	}
	m.d = newDispatcher(t, m.cfg)
	return m
}

func (m *ticketModel) app(n int) webhook.App {
	return testApp(fmt.Sprint("app", n), []string{"http://a.test", "http://b.test", "http://c.test"}[m.r.IntN(3):]...)
}

// fault is a failure. m.mu may be held.
func (m *ticketModel) fault(format string, args ...any) { m.t.Errorf(format, args...) }

// chance is a random number. m.mu is not held.
func (m *ticketModel) chance(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.r.IntN(n)
}

// ---- the follower

func (s *stub) Queue(_ *webhook.Ticket, endpoint string) bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.open[endpoint] || s.done {
		s.m.fault("%d is queued at %s again", s.ticket.Position, endpoint)
	}
	s.open[endpoint] = true
	s.m.queued++
	return true
}

func (s *stub) Held(*webhook.Ticket) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.done {
		s.m.fault("%d is held when it is done", s.ticket.Position)
	}
}

func (s *stub) Remembered(t *webhook.Ticket) { s.Held(t) }

func (s *stub) Ended(t *webhook.Ticket, endpoint string) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	pair := at{endpoint, int(t.Position)}
	switch {
	case !s.open[endpoint] || s.done:
		s.m.fault("%d has ended at %s, where it was not", t.Position, endpoint)
	case s.life < s.m.lives[s.app] && !s.m.lost[pair]:
		s.m.fault("%d of %s has ended at %s after Drop", t.Position, s.app, endpoint)
	}
	delete(s.open, endpoint)
	delete(s.m.lost, pair)
	s.ended++
}

func (s *stub) Done(t *webhook.Ticket) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.done || len(s.open) > 0 {
		s.m.fault("%d is done before it has ended, or twice", t.Position)
	}
	if s.ended == 0 && (s.m.dropping == s.app || s.life < s.m.lives[s.app]) {
		s.m.fault("%d of %s is done by Drop", t.Position, s.app)
	}
	s.done = true
}

// ---- the Sender and the hook

// numbers are those of a delivery's events, and the channels in order.
func (m *ticketModel) numbers(d *webhook.Delivery) (numbers []int, channels []string) {
	for _, e := range parse(m.t, d.Body).Events {
		n := e.SubscriptionCount
		if e.Event != "" {
			n, _ = strconv.Atoi(e.Event[len("client-"):])
		} else if e.UserID != "" {
			n, _ = strconv.Atoi(e.UserID)
		}
		numbers, channels = append(numbers, n), append(channels, e.Channel)
	}
	return numbers, channels
}

func (m *ticketModel) send(ctx context.Context, d *webhook.Delivery) error {
	numbers, channels := m.numbers(d)
	endpoint := d.EndpointID()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, since := range m.held {
		if time.Now().After(since) {
			m.fault("%v is sent while the dispatcher is held", d)
		}
	}
	if len(numbers) > 1 || !m.aside[at{endpoint, numbers[0]}] { // else others pass it
		for _, channel := range slices.Compact(slices.Sorted(slices.Values(channels))) {
			if m.wire[endpoint+channel]++; m.wire[endpoint+channel] > 1 {
				m.fault("%v is sent beside another of channel %s", d, channel)
			}
			defer func() { m.wire[endpoint+channel]-- }()
		}
	}
	how, takes, deaf := m.r.IntN(12), time.Duration(m.r.IntN(600))*time.Millisecond, m.r.IntN(20) == 0
	if m.healed {
		how, deaf = 11, false
	}
	m.mu.Unlock()
	cut := false
	if deaf {
		time.Sleep(3 * takes)
	} else {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			cut = true
		}
	}
	m.mu.Lock()
	if cut {
		return ctx.Err()
	}
	return m.answer(endpoint, how, numbers, channels)
}

// answer notes what is answered. m.mu is held.
func (m *ticketModel) answer(endpoint string, how int, numbers []int, channels []string) error {
	switch how {
	case 0, 1, 2:
		return errors.New("down")
	case 3, 4:
		if len(numbers) == 1 {
			m.aside[at{endpoint, numbers[0]}] = true
		}
		return pick(m.r, webhook.ErrRefused, error(&webhook.StatusError{Code: 413}))
	case 5:
		return webhook.ErrFinal
	}
	for i, n := range numbers {
		last := endpoint + channels[i]
		bypassed := m.cfg.ReconnectGrace > 0 && m.cfg.MaxEndpointQueuedBytes > 0 && strings.HasPrefix(channels[i], "presence-")
		if !m.aside[at{endpoint, n}] && !bypassed { // without memory there is no rule, and those that are held come later
			if n <= m.last[last] {
				m.fault("%d of channel %s is accepted after %d", n, channels[i], m.last[last])
			}
			m.last[last] = n
		}
	}
	m.delivered += len(numbers)
	return nil
}

func (m *ticketModel) giveUp(d *webhook.Delivery, _ error, settle func()) {
	numbers, _ := m.numbers(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range numbers {
		m.lost[at{d.EndpointID(), n}] = true
	}
	m.givenUp += len(numbers)
	time.AfterFunc(time.Duration(m.r.IntN(5000))*time.Millisecond, settle)
}

// ---- the test

func (m *ticketModel) emit() {
	m.mu.Lock()
	n := len(m.stubs) + 1
	app := fmt.Sprint("app", m.r.IntN(3))
	s := &stub{m: m, app: app, life: m.lives[app], open: map[string]bool{}}
	s.ticket = webhook.Ticket{Follower: s, Position: uint64(n)}
	e := webhook.ClientEvent(fmt.Sprint("private-", m.r.IntN(5)), fmt.Sprint("client-", n), nil, "", "")
	switch m.r.IntN(6) {
	case 0:
		e = webhook.SubscriptionCount(fmt.Sprint("counts-", m.r.IntN(3)), n) // soon above the threshold
	case 1:
		e = webhook.MemberRemoved("presence-c", fmt.Sprint(n))
	case 2:
		e.Channel = "private-encrypted-c"
	}
	m.stubs = append(m.stubs, s)
	m.mu.Unlock()
	require.NoError(m.t, m.d.EmitTicket(app, e, &s.ticket))
}

// step does something that is not Emit.
func (m *ticketModel) step() {
	app := fmt.Sprint("app", m.chance(3))
	switch m.chance(12) {
	case 0, 1:
		m.hold()
	case 2, 3:
		m.drop(app)
	case 4, 5:
		m.d.RetryNow(app)
	case 6:
		m.mu.Lock()
		changed := m.app(m.r.IntN(3))
		m.mu.Unlock()
		require.NoError(m.t, m.d.SetApp(changed))
	case 7:
		m.d.Purge(app)
	case 8:
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Duration(m.chance(1000))*time.Millisecond)
		defer cancel()
		_ = m.d.Flush(ctx) // what it promises is TestModel's concern
	default:
		m.check()
	}
}

// hold holds for a while, beside whatever comes.
func (m *ticketModel) hold() {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Duration(m.chance(2000))*time.Millisecond)
	resume := m.d.Hold(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holds++
	hold := m.holds
	m.held[hold] = time.Now()
	time.AfterFunc(time.Duration(m.r.IntN(3000))*time.Millisecond, func() {
		m.mu.Lock()
		delete(m.held, hold)
		m.mu.Unlock()
		resume()
		cancel()
	})
}

func (m *ticketModel) drop(app string) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Duration(m.chance(1000))*time.Millisecond)
	defer cancel()
	m.mu.Lock()
	m.dropping = app
	m.mu.Unlock()
	for m.d.Drop(ctx, only(app)) != nil { // a Send that does not hear
	}
	m.mu.Lock()
	m.dropping = ""
	m.lives[app]++
	m.mu.Unlock()
	for _, s := range m.d.Endpoints(app) {
		require.Zero(m.t, s.Pending+uint64(s.InFlight), "after Drop")
	}
}

// check compares the accounts while nothing moves.
func (m *ticketModel) check() {
	synctest.Wait()
	s, pending := m.d.Stats(), uint64(0)
	for _, e := range m.d.Endpoints("") {
		pending += e.Pending
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Equal(m.t, pending, s.Queued-s.Delivered-s.Undelivered-s.Dropped)
	require.EqualValues(m.t, m.delivered, s.Delivered)
	require.EqualValues(m.t, m.givenUp, s.Undelivered)
}

func (m *ticketModel) run() {
	for range 60 {
		for range m.chance(20) {
			m.emit()
		}
		m.step()
		time.Sleep(time.Duration(m.chance(300)) * time.Millisecond)
	}
	m.mu.Lock()
	m.healed = true
	m.mu.Unlock()
	time.Sleep(time.Hour)
	require.NoError(m.t, m.d.Flush(m.t.Context()))
	m.check()
	s := m.d.Stats()
	require.Equal(m.t, s.Queued, s.Delivered+s.Undelivered+s.Dropped)
	require.Zero(m.t, s.PendingBytes)
	m.mu.Lock()
	defer m.mu.Unlock()
	never := 0
	for _, stub := range m.stubs {
		never += len(stub.open)
		if !stub.done && stub.life == m.lives[stub.app] {
			m.fault("%d is not done, and was not dropped", stub.ticket.Position)
		}
	}
	if m.cfg.ReconnectGrace == 0 {
		require.EqualValues(m.t, never, s.Dropped)
		require.EqualValues(m.t, m.queued, s.Queued)
	}
}
