package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A network is a RoundTripper without sockets, for tests on synctest's clock: each host does what a test wants and
// takes its time, so that an afternoon of traffic passes in a second.
type network struct {
	mu       sync.Mutex
	hosts    map[string]host
	requests map[string]int // by host
}

// A host answers a request with a status after some time; nil hangs until the sender gives up. n counts from 1.
type host func(n int, body []byte) (status int, took time.Duration)

func newNetwork() *network {
	return &network{hosts: map[string]host{}, requests: map[string]int{}}
}

// bubble runs a test on synctest's clock with a network of its own.
func bubble(t *testing.T, test func(t *testing.T, net *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newNetwork()) })
}

// sender returns an HTTPSender whose requests go through the network.
func (n *network) sender(t testing.TB) *webhook.HTTPSender {
	return newSender(t, func(c *webhook.HTTPConfig) { c.Transport = n })
}

func (n *network) set(name string, h host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[name] = h
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.requests[r.URL.Host]++
	h, count := n.hosts[r.URL.Host], n.requests[r.URL.Host]
	n.mu.Unlock()
	if h == nil {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	status, took := h(count, body)
	if took > 0 {
		timer := time.NewTimer(took)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if strings.HasPrefix(r.URL.Host, "drip") {
		return dripping(r), nil
	}
	return answer(status), nil
}

// count returns how many requests a host has seen.
func (n *network) count(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.requests[name]
}

func quick(int, []byte) (int, time.Duration)     { return 200, 5 * time.Millisecond }
func unhurried(int, []byte) (int, time.Duration) { return 200, 400 * time.Millisecond }
func leisurely(int, []byte) (int, time.Duration) { return 200, 600 * time.Millisecond }
func sluggish(int, []byte) (int, time.Duration)  { return 200, 9900 * time.Millisecond }

// inTurns answers at once and hangs, in turns.
func inTurns(n int, _ []byte) (int, time.Duration) {
	if n%2 == 0 {
		return 200, time.Hour
	}
	return 200, 5 * time.Millisecond
}

// A town is many tenants of one dispatcher, and how long their deliveries take.
type town struct {
	t   *testing.T
	net *network
	d   *webhook.Dispatcher

	mu        sync.Mutex
	latencies map[string][]time.Duration // by the first letters of the app's id
	first     map[string]time.Duration   // by app: since the town began
	began     time.Time
	rejected  map[string]int
	stop      chan struct{}
	emitters  sync.WaitGroup
}

func newTown(t *testing.T, cfg webhook.Config) *town {
	town := &town{t: t, net: newNetwork(), latencies: map[string][]time.Duration{}, first: map[string]time.Duration{},
		began: time.Now(), rejected: map[string]int{}, stop: make(chan struct{})}
	cfg.Sender = town.net.sender(t)
	cfg.MaxWebhooks = 10_000
	cfg.Hooks.Delivered = func(d *webhook.Delivery, _ time.Duration) { town.delivered(d) }
	var err error
	town.d, err = webhook.New(cfg)
	require.NoError(t, err)
	return town
}

func group(appID string) string { return strings.TrimRight(appID, "0123456789") }

func (town *town) delivered(d *webhook.Delivery) {
	town.mu.Lock()
	defer town.mu.Unlock()
	g := group(d.AppID)
	town.latencies[g] = append(town.latencies[g], time.Since(d.CreatedAt))
	if _, known := town.first[d.AppID]; !known {
		town.first[d.AppID] = time.Since(town.began)
	}
}

// settle adds n apps of a kind with one webhook each, that emit an event every so often.
func (town *town) settle(kind string, n int, h host, every time.Duration) {
	for i := range n {
		id := fmt.Sprint(kind, i)
		town.net.set(id, h)
		if err := town.d.SetApp(testApp(id, "http://"+id+"/")); err != nil {
			town.t.Error(err)
		}
		town.emitEvery(id, every, every*time.Duration(i)/time.Duration(n))
	}
}

func (town *town) emitEvery(id string, every, after time.Duration) {
	town.emitters.Go(func() {
		for n, wait := 0, after; ; n, wait = n+1, every {
			select {
			case <-town.stop:
				return
			case <-time.After(wait):
			}
			if town.d.Emit(id, webhook.ChannelOccupied(fmt.Sprint("room-", n%100))) != nil { // on all lanes
				town.mu.Lock()
				town.rejected[id]++
				town.mu.Unlock()
			}
		}
	})
}

// firstOf is when an app got its first delivery, 0 if it has got none.
func (town *town) firstOf(appID string) time.Duration {
	town.mu.Lock()
	defer town.mu.Unlock()
	return town.first[appID]
}

// took returns the latencies of a kind of tenants.
func (town *town) took(kind string) []time.Duration {
	town.mu.Lock()
	defer town.mu.Unlock()
	return slices.Clone(town.latencies[kind])
}

// forget starts the measurement anew.
func (town *town) forget() {
	town.mu.Lock()
	defer town.mu.Unlock()
	clear(town.latencies)
}

// close ends everything.
func (town *town) close() {
	close(town.stop)
	town.emitters.Wait()
	ctx, cancel := context.WithCancel(town.t.Context())
	cancel()
	_ = town.d.Close(ctx)
	synctest.Wait()
	checkAccounts(town.t, town.d)
}

// require checks the latencies of a kind of tenants.
func (town *town) require(kind string, p50, p99 time.Duration) {
	town.t.Helper()
	town.mu.Lock()
	defer town.mu.Unlock()
	all := town.latencies[kind]
	require.NotEmpty(town.t, all, kind)
	slices.Sort(all)
	median, late := all[len(all)/2], all[len(all)*99/100]
	town.t.Logf("%s: p50 %v, p99 %v, worst %v of %d", kind, median, late, all[len(all)-1], len(all))
	require.LessOrEqual(town.t, median, p50, "p50 of %s", kind)
	require.LessOrEqual(town.t, late, p99, "p99 of %s", kind)
	for id, n := range town.rejected {
		if group(id) == kind {
			require.Zero(town.t, n, "%s was refused", id)
		}
	}
}

// requireHealthy is what everybody who behaves may expect beside any tenant who does not.
func (town *town) requireHealthy() {
	town.t.Helper()
	town.require("good", 200*time.Millisecond, time.Second)
	town.require("slow", time.Second, 8*time.Second)
}
