package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// The soak test is a test that has to fail when it should: each case here is a fault that a dispatcher might have.

func TestEveryFaultInTheAccountsIsFound(t *testing.T) {
	all := func(sets ...*idSet) {
		for _, set := range sets {
			set.add(1)
		}
	}
	for name, test := range map[string]struct {
		fault func(l *ledger, s *webhook.Stats, seen *seen)
		want  string // "": nothing is wrong
	}{
		"delivered":   {func(l *ledger, s *webhook.Stats, seen *seen) {}, ""},
		"undelivered": {func(l *ledger, s *webhook.Stats, seen *seen) { all(l.emitted, l.owed, l.undelivered) }, ""},
		"its answer was lost": {func(l *ledger, s *webhook.Stats, seen *seen) {
			l.emitted.add(2)
			l.undelivered.add(2)
			seen.Accepted.add(2)
		}, ""},
		"lost":                     {func(l *ledger, s *webhook.Stats, seen *seen) { l.emitted.add(2); l.owed.add(2) }, "neither delivered nor reported"},
		"not in Stats":             {func(l *ledger, s *webhook.Stats, seen *seen) { s.Queued++; s.Emitted++ }, "Queued is not"},
		"twice in Stats":           {func(l *ledger, s *webhook.Stats, seen *seen) { s.Queued++; s.Delivered++ }, "Queued + Suppressed"},
		"hook not called":          {func(l *ledger, s *webhook.Stats, seen *seen) { l.deliveredEvents.Store(0) }, "Hooks.Delivered was not told"},
		"loss not told":            {func(l *ledger, s *webhook.Stats, seen *seen) { l.undeliveredEvents.Store(1) }, "Hooks.Undelivered was not told"},
		"never arrived":            {func(l *ledger, s *webhook.Stats, seen *seen) { l.emitted.add(2); l.delivered.add(2) }, "no endpoint has taken"},
		"in no account":            {func(l *ledger, s *webhook.Stats, seen *seen) { l.emitted.add(2); seen.Accepted.add(2) }, "in no account"},
		"never emitted":            {func(l *ledger, s *webhook.Stats, seen *seen) { l.delivered.add(2); seen.Accepted.add(2) }, "Emit has not accepted"},
		"late":                     {func(l *ledger, s *webhook.Stats, seen *seen) { seen.Late.add(1) }, "behind younger ones"},
		"late, but it was refused": {func(l *ledger, s *webhook.Stats, seen *seen) { seen.Late.add(1); seen.Refused.add(1) }, ""},
		"at another endpoint":      {func(l *ledger, s *webhook.Stats, seen *seen) { seen.Faults = []string{"not mine"} }, "not mine"},
	} {
		t.Run(name, func(t *testing.T) {
			const bound = 100
			l := newLedger(bound)
			s := webhook.Stats{Emitted: 1, Queued: 1, Delivered: 1}
			seen := newReceiver(receiverSpec{Bound: bound}).seen
			all(l.emitted, l.owed, l.delivered, seen.Accepted)
			l.deliveredEvents.Store(1)
			test.fault(l, &s, &seen)
			err := l.check(s, &seen)
			if test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
			}
		})
	}
}

func TestGrowthIsFound(t *testing.T) {
	samples := func(last float64) (all []sample) {
		for i := range 30 {
			s := sample{heap: 700 << 20, goroutines: 1000, descriptors: 500}
			if i >= 20 {
				s.heap, s.goroutines, s.descriptors = s.heap*last, s.goroutines*last, s.descriptors*last
			}
			all = append(all, s)
		}
		return all
	}
	for _, f := range figures()[:3] {
		require.NoError(t, f.grown(samples(1.01)), f.name)
		require.ErrorContains(t, f.grown(samples(1.3)), f.name+" grew from")
	}
}

func TestWhatIsLeftAfterCloseIsFound(t *testing.T) {
	for name, change := range map[string]func(r *report){
		"heap":            func(r *report) { r.after.heap += heapLeft + 1 },
		"goroutines":      func(r *report) { r.after.goroutines++ },
		"descriptors":     func(r *report) { r.after.descriptors++ },
		"Pending":         func(r *report) { r.after.stats.Pending++ },
		"Held":            func(r *report) { r.after.stats.Held++ },
		"PendingBytes":    func(r *report) { r.after.stats.PendingBytes++ },
		"ActiveEndpoints": func(r *report) { r.after.stats.ActiveEndpoints++ },
	} {
		var r report
		require.NoError(t, r.leftovers())
		change(&r)
		require.ErrorContains(t, r.leftovers(), "after Close: "+name+":")
	}
	r := report{released: sample{heap: heapLeft/2 + 1}}
	require.ErrorContains(t, r.remains(), "without the dispatcher")
}

// post signs events as a dispatcher does for a tenant, and has the healthy endpoint of t1 answer.
func post(r *receiver, tenant, key, channel string, ids ...int) int {
	var events []string
	for _, id := range ids {
		data, _ := json.Marshal(fmt.Sprintf(`{"id":%d,"padding":""}`, id)) // a string cannot fail
		events = append(events, fmt.Sprintf(`{"name":"client_event","channel":%q,"data":%s}`, channel, data))
	}
	body := `{"time_ms":1,"events":[` + strings.Join(events, ",") + `]}`
	req := httptest.NewRequest(http.MethodPost, "/healthy/t1/0", strings.NewReader(body))
	req.Header.Set(tenantHeader, tenant)
	req.Header.Set("X-Pusher-Key", key)
	req.Header.Set("X-Pusher-Signature", webhook.Sign(webhook.Secret(secretOf(key)), []byte(body)))
	w := httptest.NewRecorder()
	r.handler("healthy", (*receiver).healthy).ServeHTTP(w, req)
	return w.Code
}

func TestAnEndpointTakesOnlyWhatIsItsOwn(t *testing.T) {
	for name, test := range map[string]struct {
		tenant, key, channel string
		want                 int
	}{
		"its own":          {"t1", "t1-3", "private-t1-0", http.StatusOK},
		"another's header": {"t2", "t1-3", "private-t1-0", http.StatusInternalServerError},
		"another's key":    {"t1", "t2-3", "private-t1-0", http.StatusInternalServerError},
		"another's event":  {"t1", "t1-3", "private-t11-0", http.StatusInternalServerError},
	} {
		r := newReceiver(receiverSpec{Bound: 100})
		require.Equal(t, test.want, post(r, test.tenant, test.key, test.channel, 1), name)
		require.Equal(t, test.want != http.StatusOK, len(r.Faults) > 0, name)
	}
}

func TestAnEndpointSeesWhatIsOutOfOrder(t *testing.T) {
	r := newReceiver(receiverSpec{Bound: 100})
	for _, ids := range [][]int{{1, 2}, {1, 2}, {5, 7}, {6}} {
		require.Equal(t, http.StatusOK, post(r, "t1", "t1-0", "private-t1-0", ids...))
	}
	require.Equal(t, http.StatusOK, post(r, "t1", "t1-0", "private-t1-1", 3)) // another channel
	require.NoError(t, r.Late.without("are late", &idSet{[]uint64{1 << 6, 0}}))
	require.Equal(t, 1, r.Late.len())
}

func TestEveryEventCarriesItsID(t *testing.T) {
	for want, event := range map[int]string{
		5: `{"name":"client_event","channel":"private-t1-0","event":"e","data":"{\"id\":5,\"padding\":\"xx\"}"}`,
		6: `{"name":"member_added","channel":"presence-t1-0","user_id":"u6"}`,
		7: `{"name":"member_removed","channel":"presence-t1-0","user_id":"u6"}`,
		8: `{"name":"channel_occupied","channel":"room-t1-8"}`,
		9: `{"name":"channel_vacated","channel":"room-t1-8"}`,
		4: `{"name":"cache_miss","channel":"private-cache-t1-4"}`,
		3: `{"name":"subscription_count","channel":"private-t1-0","subscription_count":3}`,
	} {
		events, err := decode([]byte(`{"time_ms":1,"events":[` + event + `]}`))
		require.NoError(t, err)
		id, err := events[0].id()
		require.NoError(t, err)
		require.Equal(t, want, id, event)
	}
	_, err := (&received{Name: webhook.TypeMemberAdded, UserID: "someone"}).id()
	require.Error(t, err)
}
