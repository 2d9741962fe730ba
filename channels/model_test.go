package channels_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// A model is the tracker in the plainest way: who is where, and what is told of each step.
type model struct {
	sockets map[string][]modelSubscription // by socket id, in the order of joining
	told    []string
}

type modelSubscription struct{ channel, user string }

func (m *model) counts(channel string) channels.Counts {
	users := make(map[string]bool)
	var c channels.Counts
	for _, subscriptions := range m.sockets {
		for _, s := range subscriptions {
			if s.channel == channel {
				c.Subscribers++
				users[s.user] = true
			}
		}
	}
	delete(users, "")
	c.Members = len(users)
	return c
}

func (m *model) tell(format string, args ...any) {
	m.told = append(m.told, fmt.Sprintf(format, args...))
}

func (m *model) subscribe(id, channel, user string) (channels.Change, error) {
	if !strings.HasPrefix(channel, "presence-") {
		user = ""
	}
	for _, s := range m.sockets[id] {
		if s.channel == channel {
			return channels.Change{}, channels.ErrSubscribed
		}
	}
	before := m.counts(channel)
	m.sockets[id] = append(m.sockets[id], modelSubscription{channel, user})
	c := channels.Change{Channel: channel, UserID: user, First: before.Subscribers == 0, Counts: m.counts(channel)}
	c.Member = c.Members > before.Members
	if c.First {
		m.tell("channel_occupied %s", channel)
	}
	if c.Member {
		m.tell("member_added %s %s", channel, user)
	}
	if user == "" {
		m.tell("subscription_count %s %d", channel, c.Subscribers)
	}
	return c, nil
}

func (m *model) unsubscribe(id, channel string) (channels.Change, error) {
	at := slices.IndexFunc(m.sockets[id], func(s modelSubscription) bool { return s.channel == channel })
	if at < 0 {
		return channels.Change{}, channels.ErrNotSubscribed
	}
	before, user := m.counts(channel), m.sockets[id][at].user
	m.sockets[id] = slices.Delete(m.sockets[id], at, at+1)
	c := channels.Change{Channel: channel, UserID: user, Counts: m.counts(channel)}
	c.Last, c.Member = c.Subscribers == 0, c.Members < before.Members
	if c.Member {
		m.tell("member_removed %s %s", channel, user)
	}
	if user == "" {
		m.tell("subscription_count %s %d", channel, c.Subscribers)
	}
	if c.Last {
		m.tell("channel_vacated %s", channel)
	}
	return c, nil
}

func (m *model) leave(id string) (changes []channels.Change) {
	for len(m.sockets[id]) > 0 {
		c, _ := m.unsubscribe(id, m.sockets[id][0].channel)
		changes = append(changes, c)
	}
	delete(m.sockets, id)
	return changes
}

func modelNames(n int) (names []string) {
	for _, prefix := range []string{"", "private-", "presence-", "presence-cache-", "private-encrypted-"} {
		for i := range n {
			names = append(names, fmt.Sprint(prefix, i))
		}
	}
	return names
}

// Whatever one goroutine does, the tracker answers and tells exactly what the model does, in the same order.
func TestTrackerIsTheModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			m := &model{sockets: make(map[string][]modelSubscription)}
			out := &recorder{}
			tracker := channels.New(out, channels.Options{})
			live := make(map[string]*channels.Socket)
			names := modelNames(1 + random.IntN(12))
			for range 2000 {
				id := fmt.Sprint(random.IntN(8))
				if live[id] == nil {
					live[id] = connect(t, tracker, "app", id)
				}
				step(t, random, m, live, id, names)
				require.Equal(t, append([]string{}, m.told...), out.told("app"))
				m.told = nil
			}
			checkState(t, tracker, m, names)
			tracker.RemoveApp("app")
			require.Empty(t, maps.Collect(tracker.Channels("app", "")))
		})
	}
}

// step does something at random to both.
func step(t *testing.T, random *rand.Rand, m *model, live map[string]*channels.Socket, id string, names []string) {
	t.Helper()
	name, user := names[random.IntN(len(names))], fmt.Sprint("user", random.IntN(4))
	switch n := random.IntN(100); {
	case n < 55:
		want, wantErr := m.subscribe(id, name, user)
		got, err := live[id].Subscribe(name, channels.Member{UserID: user})
		require.Equal(t, wantErr, err)
		require.Equal(t, want, got)
	case n < 95:
		want, wantErr := m.unsubscribe(id, name)
		got, err := live[id].Unsubscribe(name)
		require.Equal(t, wantErr, err)
		require.Equal(t, want, got)
	default:
		require.Equal(t, m.leave(id), live[id].Leave())
		delete(live, id)
	}
}

// checkState compares what the tracker answers with the model.
func checkState(t *testing.T, tracker *channels.Tracker, m *model, names []string) {
	t.Helper()
	want := make(map[string]channels.Counts)
	for _, name := range names {
		counts := m.counts(name)
		require.Equal(t, counts, tracker.Counts("app", name))
		if counts.Subscribers > 0 {
			want[name] = counts
		}
		require.Len(t, slices.Collect(tracker.Sockets("app", name)), counts.Subscribers)
		require.Len(t, maps.Collect(tracker.Members("app", name)), counts.Members)
	}
	require.Equal(t, want, maps.Collect(tracker.Channels("app", "")))
	occupied := 0
	for _, e := range tracker.Snapshot() {
		if e.Type == webhook.TypeChannelOccupied {
			occupied++
		}
	}
	require.Len(t, want, occupied)
}

// Whatever many goroutines do at once, also to the same sockets: every story can be true, and nobody stays behind.
func TestStoriesOnRandomSchedules(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			out := &recorder{}
			tracker := channels.New(out, channels.Options{})
			names := modelNames(2)
			var everybody sync.WaitGroup
			for worker := range uint64(8) {
				everybody.Go(func() {
					random := rand.New(rand.NewPCG(seed, worker))
					for i := range 40 {
						churn(tracker, random, fmt.Sprint("app", random.IntN(2)), fmt.Sprint(worker, ".", i), names)
					}
				})
			}
			everybody.Wait()
			require.Empty(t, maps.Collect(tracker.Channels("app0", "")), "a ghost")
			require.Empty(t, maps.Collect(tracker.Channels("app1", "")), "a ghost")
			out.checkStories(t)
		})
	}
}

// churn is the life of a socket, which may be closed while it does something.
func churn(tracker *channels.Tracker, random *rand.Rand, appID, id string, names []string) {
	s, err := tracker.Connect(appID, id)
	if err != nil {
		panic(err)
	}
	var closing sync.WaitGroup
	steps, last := 1+random.IntN(20), random.IntN(20)
	for i := range steps {
		if i == last {
			closing.Go(func() { s.Leave() })
		}
		name := names[random.IntN(len(names))]
		switch random.IntN(8) {
		case 0, 1, 2, 3:
			_, _ = s.Subscribe(name, channels.Member{UserID: fmt.Sprint("user", random.IntN(3))})
		case 4, 5:
			_, _ = s.Unsubscribe(name)
		case 6:
			_ = s.ClientEvent(name, "client-x", nil)
		case 7:
			tracker.CacheMiss(appID, name)
			for socket := range tracker.Sockets(appID, name) {
				_ = socket.ID()
			}
		}
	}
	closing.Wait()
	s.Leave()
}
