package channels

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// emitterFunc is an Emitter that wants everything.
type emitterFunc func(webhook.Event)

func (f emitterFunc) Emit(_ string, e webhook.Event) error       { f(e); return nil }
func (emitterFunc) Wants(string, webhook.EventType, string) bool { return true }

// What enters behind others waits behind them, also where it is the holder's own.
func TestNothingOvertakesInALine(t *testing.T) {
	var told []string
	tracker := New(emitterFunc(func(e webhook.Event) { told = append(told, e.Channel) }), Options{})
	a := newApp(tracker, "app")
	sh := &a.shards[0]
	enter := func(e *emission, name string) {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		e.enter(sh, transition{what: webhook.TypeCacheMiss, channel: newChannel(0, name)})
	}
	var holder, other emission
	holder.begin(a, 3)
	other.begin(a, 1)
	enter(&holder, "1")
	enter(&holder, "2")
	enter(&other, "3")
	enter(&holder, "4")
	other.run(patience)
	require.Empty(t, told, "the line is not the other's")
	holder.run(patience)
	require.Equal(t, []string{"1", "2", "3", "4"}, told)
	require.Zero(t, sh.line)
}

// An app is forgotten when it has no sockets and nothing to emit, in whatever order these end, and takes no socket then.
func TestAppsAreForgotten(t *testing.T) {
	entered, open := make(chan bool), make(chan bool)
	tracker := New(emitterFunc(func(e webhook.Event) {
		if e.Type == webhook.TypeChannelOccupied {
			entered <- true
			<-open
		}
	}), Options{})
	socket := func(id string) *Socket {
		s, err := tracker.Connect("app", id)
		require.NoError(t, err)
		return s
	}
	socket("on no channel").Leave()
	require.Nil(t, tracker.app("app"))

	s := socket("1.1")
	a := tracker.app("app")
	var emitting sync.WaitGroup
	emitting.Go(func() { _, _ = s.Subscribe("a", Member{}) })
	<-entered
	s.Leave()
	require.Same(t, a, tracker.app("app"), "its events are not emitted yet")
	again := socket("1.2")
	require.Same(t, a, again.app)
	again.Leave()
	open <- true
	emitting.Wait()
	require.Nil(t, tracker.app("app"))
	alive, err := a.connect(s)
	require.False(t, alive)
	require.NoError(t, err)
	require.NotSame(t, a, socket("1.3").app)
}

// Walks that were left, or have ended, leave nothing in the list.
func TestWalksLeaveNothing(t *testing.T) {
	var mu sync.Mutex
	var all list[entry]
	all.init()
	links := make([]link[entry], 3*chunkSize)
	for i := range links {
		links[i].of = &entry{node[entry]{key: fmt.Sprint(i)}}
		all.add(&links[i])
	}
	for stop := range len(links) + 1 {
		seen := 0
		walk(&mu, &all, func(e *entry) (string, bool) { return e.node.key, true }, func(key string) bool {
			require.Equal(t, fmt.Sprint(seen), key)
			seen++
			return seen <= stop
		})
		require.Equal(t, min(stop+1, len(links)), seen)
		n := 0
		for at := all.root.next; at != &all.root; at = at.next {
			require.NotNil(t, at.of, "a walk's")
			n++
		}
		require.Len(t, links, n)
	}
}
