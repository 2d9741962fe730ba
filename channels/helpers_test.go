package channels_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
	"github.com/pusherhooks/webhook/webhooktest"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// A recorder is an Emitter that keeps what it gets. It may be told to do something before.
type recorder struct {
	before   func(appID string, e webhook.Event) error
	unwanted bool

	mu     sync.Mutex
	events map[string][]webhook.Event // by app
}

func (r *recorder) Emit(appID string, e webhook.Event) error {
	if r.before != nil {
		if err := r.before(appID, e); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events == nil {
		r.events = make(map[string][]webhook.Event)
	}
	r.events[appID] = append(r.events[appID], e)
	return nil
}

func (r *recorder) Wants(string, webhook.EventType, string) bool { return !r.unwanted }

// told returns an app's events in short, and forgets them.
func (r *recorder) told(appID string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := inShort(r.events[appID])
	delete(r.events, appID)
	return told
}

func inShort(events []webhook.Event) []string {
	told := []string{}
	for _, e := range events {
		told = append(told, short(e))
	}
	return told
}

func short(e webhook.Event) string {
	switch e.Type {
	case webhook.TypeMemberAdded, webhook.TypeMemberRemoved:
		return fmt.Sprint(e.Type, " ", e.Channel, " ", e.UserID)
	case webhook.TypeSubscriptionCount:
		return fmt.Sprint(e.Type, " ", e.Channel, " ", e.SubscriptionCount)
	case webhook.TypeClientEvent:
		return fmt.Sprint(e.Type, " ", e.Channel, " ", e.Event, " ", string(e.Data), " ", e.SocketID, " ", e.UserID)
	}
	return fmt.Sprint(e.Type, " ", e.Channel)
}

// checkStories checks every story that was told: everybody has left.
func (r *recorder) checkStories(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []webhooktest.Request
	for _, appID := range slices.Sorted(maps.Keys(r.events)) {
		d := webhooktest.Request{Key: appID}
		for _, e := range r.events[appID] {
			d.Events = append(d.Events, webhooktest.Event{Name: e.Type, Channel: e.Channel, UserID: e.UserID, SubscriptionCount: e.SubscriptionCount})
		}
		all = append(all, d)
	}
	require.NoError(t, webhooktest.CheckStory(all, webhooktest.StoryOptions{Ended: true}))
	r.checkCounts(t)
}

// checkCounts checks that counts go by one, which CheckStory does not: a dispatcher may leave some out.
func (r *recorder) checkCounts(t *testing.T) {
	t.Helper()
	for appID, events := range r.events {
		counts := make(map[string]int)
		for _, e := range events {
			switch e.Type {
			case webhook.TypeSubscriptionCount:
				require.Equal(t, 1, max(counts[e.Channel]-e.SubscriptionCount, e.SubscriptionCount-counts[e.Channel]), "%s %s", appID, e.Channel)
				counts[e.Channel] = e.SubscriptionCount
			case webhook.TypeChannelVacated:
				require.Zero(t, counts[e.Channel])
			}
		}
	}
}

func connect(t testing.TB, tracker *channels.Tracker, appID, socketID string) *channels.Socket {
	t.Helper()
	s, err := tracker.Connect(appID, socketID)
	require.NoError(t, err)
	return s
}

func subscribe(t testing.TB, s *channels.Socket, channel, userID string) channels.Change {
	t.Helper()
	change, err := s.Subscribe(channel, channels.Member{UserID: userID})
	require.NoError(t, err)
	return change
}

func unsubscribe(t testing.TB, s *channels.Socket, channel string) channels.Change {
	t.Helper()
	change, err := s.Unsubscribe(channel)
	require.NoError(t, err)
	return change
}

// receive waits for something that must come.
func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

var errRefused = errors.New("refused")
