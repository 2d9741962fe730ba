package channels_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// A gate is an Emitter whose Emit waits for one app until it is opened.
func gate(appID string) (out *recorder, entered chan bool, open func()) {
	entered, opened := make(chan bool, 1), make(chan bool)
	return &recorder{before: func(id string, _ webhook.Event) error {
		if id == appID {
			select {
			case entered <- true:
			default:
			}
			<-opened
		}
		return nil
	}}, entered, sync.OnceFunc(func() { close(opened) })
}

// An Emit that hangs holds up the events of its app, but no call of another goroutine, and no other app at all.
func TestSlowEmitterHoldsUpItsOwnAppOnly(t *testing.T) {
	out, entered, open := gate("slow")
	defer open()
	tracker := channels.New(out, channels.Options{})
	slow := connect(t, tracker, "slow", "1.1")
	done := make(chan error)
	go func() {
		_, err := slow.Subscribe("a", channels.Member{})
		done <- err
	}()
	receive(t, entered)

	another := connect(t, tracker, "slow", "1.2")
	require.False(t, subscribe(t, another, "a", "").First)
	another.Leave()
	require.Equal(t, 1, tracker.Counts("slow", "a").Subscribers, "it asks while an event is emitted")
	for i := range 1000 { // on all shards
		s := connect(t, tracker, "quick", fmt.Sprint(i))
		subscribe(t, s, fmt.Sprint("a", i), "")
		s.Leave()
	}
	require.Len(t, out.told("quick"), 4000)
	require.Empty(t, out.told("slow"))

	open()
	require.NoError(t, receive(t, done))
	slow.Leave()
	require.Equal(t, []string{
		"channel_occupied a", "subscription_count a 1", "subscription_count a 2", "subscription_count a 1",
		"subscription_count a 0", "channel_vacated a",
	}, out.told("slow"))
}

// A call goes on with what others enter for a tenth of a second, and returns then, however many they are.
func TestNobodyEmitsForOthersWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &recorder{before: func(string, webhook.Event) error { time.Sleep(time.Millisecond); return nil }}
		tracker := channels.New(out, channels.Options{})
		first, others := connect(t, tracker, "app", "first"), make(chan bool)
		go func() { // they come faster than they can be told, while first holds the line
			defer close(others)
			for i := range 2000 {
				time.Sleep(500 * time.Microsecond)
				s, err := tracker.Connect("app", fmt.Sprint("other", i))
				if err != nil {
					panic(err)
				}
				_, _ = s.Subscribe("a", channels.Member{})
			}
		}()
		began := time.Now()
		subscribe(t, first, "a", "")
		took := time.Since(began)
		require.Greater(t, took, 100*time.Millisecond)
		require.Less(t, took, 110*time.Millisecond)
		<-others
		require.NoError(t, tracker.Flush(t.Context()))
		require.Equal(t, 2001, tracker.RemoveApp("app"))
		out.checkStories(t)
		require.Len(t, out.told("app"), 2+2*2001)
	})
}

// User code that ends its goroutine takes one event with it, and the line goes on.
func TestGoexitDoesNotWedgeTheLine(t *testing.T) {
	for name, hook := range map[string]func(out *recorder, opts *channels.Options){
		"in Emit": func(out *recorder, _ *channels.Options) {
			out.before = func(_ string, e webhook.Event) error {
				if e.SubscriptionCount == 1 || e.Type == webhook.TypeMemberRemoved {
					runtime.Goexit()
				}
				return nil
			}
		},
		"in Rejected": func(out *recorder, opts *channels.Options) {
			out.before = func(_ string, e webhook.Event) error {
				if e.SubscriptionCount == 1 || e.Type == webhook.TypeMemberRemoved {
					return errRefused
				}
				return nil
			}
			opts.Rejected = func(string, webhook.Event, error) { runtime.Goexit() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out, opts := &recorder{}, channels.Options{}
				hook(out, &opts)
				tracker := channels.New(out, opts)
				s := connect(t, tracker, "app", "1.1")
				for _, name := range []string{"a", "presence-a", "b", "c", "presence-b"} {
					go func() { _, _ = s.Subscribe(name, channels.Member{UserID: "ada"}) }() // may end in the middle
					synctest.Wait()
				}
				go s.Leave() // ends in the middle
				synctest.Wait()
				require.NoError(t, tracker.Flush(t.Context()))
				require.Empty(t, maps.Collect(tracker.Channels("app", "")), "a ghost")
				told := out.told("app")
				for _, name := range []string{"a", "b", "c", "presence-a", "presence-b"} {
					require.Contains(t, told, "channel_vacated "+name)
				}
				connect(t, tracker, "app", "1.1").Leave() // and its id is free
			})
		})
	}
}

// What user code may do in Emit and Rejected: ask everything, and change things too.
func TestHooksMayCallBack(t *testing.T) {
	var tracker *channels.Tracker
	var other *channels.Socket
	asked := 0
	ask := func(appID string, e webhook.Event) {
		asked++
		tracker.Counts(appID, e.Channel)
		for range tracker.Channels(appID, "") {
			_ = maps.Collect(tracker.Members(appID, e.Channel))
			_ = slices.Collect(tracker.Sockets(appID, e.Channel))
		}
		for range tracker.Snapshot() {
			tracker.CacheMiss(appID, "nothing")
		}
		if asked == 1 {
			_, _ = other.Subscribe(e.Channel, channels.Member{UserID: "other"})
			_, _ = other.Subscribe("presence-more", channels.Member{UserID: "other"})
			other.Leave()
		}
	}
	out := &recorder{before: func(appID string, e webhook.Event) error { ask(appID, e); return errRefused }}
	tracker = channels.New(out, channels.Options{Rejected: func(appID string, e webhook.Event, _ error) { ask(appID, e) }})
	other = connect(t, tracker, "app", "2.2")
	s := connect(t, tracker, "app", "1.1")
	subscribe(t, s, "presence-a", "ada")
	s.Leave()
	require.Equal(t, 2*(2+2+2+2+2), asked) // occupied, added; those of other, twice; removed, vacated
}

// When the first event of a Leave is emitted, the socket is on none of its channels any more.
func TestLeaveLeavesBeforeItTells(t *testing.T) {
	var tracker *channels.Tracker
	left := false
	out := &recorder{before: func(string, webhook.Event) error {
		if left {
			require.Empty(t, maps.Collect(tracker.Channels("app", "")))
		}
		return nil
	}}
	tracker = channels.New(out, channels.Options{})
	s := connect(t, tracker, "app", "1.1")
	for i := range 50 {
		subscribe(t, s, fmt.Sprint("a", i), "")
	}
	left = true
	s.Leave()
	out.checkStories(t)
}

// Behind an Emit that hangs there is room for much, but not for everything. Leaving always goes.
func TestLinesAreBounded(t *testing.T) {
	out, entered, open := gate("app")
	var rejected []string
	tracker := channels.New(out, channels.Options{Rejected: func(_ string, e webhook.Event, err error) {
		require.ErrorIs(t, err, webhook.ErrQueueFull)
		rejected = append(rejected, string(e.Type))
	}})
	hangs, s := connect(t, tracker, "app", "1.1"), connect(t, tracker, "app", "1.2")
	done := make(chan error)
	go func() {
		_, err := hangs.Subscribe("private-cache-a", channels.Member{})
		done <- err
	}()
	receive(t, entered)
	subscribe(t, s, "private-cache-a", "")
	data, accepted := make(json.RawMessage, 10<<10), 0
	for ; len(rejected) == 0; accepted++ {
		require.NoError(t, s.ClientEvent("private-cache-a", "client-x", data))
	}
	require.Less(t, accepted*len(data), 2<<20)
	require.NoError(t, s.ClientEvent("private-cache-a", "client-x", nil), "one that takes no room")

	unsubscribe(t, s, "private-cache-a")
	subscriptions := 0
	for {
		_, err := s.Subscribe("private-cache-a", channels.Member{})
		if err != nil {
			require.ErrorIs(t, err, webhook.ErrQueueFull)
			break
		}
		subscriptions++
		unsubscribe(t, s, "private-cache-a")
	}
	require.Greater(t, subscriptions, 50_000)
	tracker.CacheMiss("app", "private-cache-a")
	require.Equal(t, []string{"client_event", "cache_miss"}, rejected)
	s.Leave()
	open()
	require.NoError(t, receive(t, done))
	hangs.Leave()
	require.NoError(t, tracker.Flush(t.Context()))
	out.checkStories(t)
}

// A Subscribe that races with Leave is before it, or ErrGone.
func TestSubscribeRacesWithLeave(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	for i := range 300 {
		s := connect(t, tracker, "app", fmt.Sprint(i))
		var racing sync.WaitGroup
		var joined atomic.Int64
		for name := range 4 {
			racing.Go(func() {
				switch _, err := s.Subscribe(fmt.Sprint("presence-", name), channels.Member{UserID: "ada"}); err {
				case nil:
					joined.Add(1)
				case channels.ErrGone:
				default:
					panic(err)
				}
			})
		}
		var left []channels.Change
		racing.Go(func() { left = s.Leave() })
		racing.Wait()
		require.Len(t, left, int(joined.Load()))
		require.Empty(t, maps.Collect(tracker.Channels("app", "")), "a ghost")
	}
	out.checkStories(t)
}

// RemoveApp returns when everything about the app's sockets was emitted, by whomever.
func TestRemoveApp(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	require.Zero(t, tracker.RemoveApp("app"))
	for round := range 50 {
		var live atomic.Int64
		var others sync.WaitGroup
		for i := range 8 {
			s := connect(t, tracker, "app", fmt.Sprint(round, ".", i))
			live.Add(1)
			others.Go(func() {
				for j := range 4 {
					_, _ = s.Subscribe(fmt.Sprint("presence-", j), channels.Member{UserID: fmt.Sprint(i)})
				}
				if i%2 == 0 && s.Leave() != nil {
					live.Add(-1)
				}
			})
		}
		connect(t, tracker, "app", fmt.Sprint(round, ".none")) // on no channel
		tracker.RemoveApp("app")
		out.checkStories(t)
		others.Wait()
		out.checkStories(t)
		require.Empty(t, maps.Collect(tracker.Channels("app", "")))
	}
}

func TestRemoveAppWaitsForWhatOthersEmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, entered, open := gate("app")
		tracker := channels.New(out, channels.Options{})
		s := connect(t, tracker, "app", "1.1")
		go func() { _, _ = s.Subscribe("a", channels.Member{}) }()
		<-entered
		removed := make(chan int, 1)
		go func() { removed <- tracker.RemoveApp("app") }()
		synctest.Wait()
		require.Empty(t, removed)
		require.Empty(t, maps.Collect(tracker.Channels("app", "")), "they have left already")
		open()
		require.Equal(t, 1, <-removed)
		require.Len(t, out.told("app"), 4)
	})
}

func TestRemoveAppCountsItsSockets(t *testing.T) {
	tracker := channels.New(&recorder{}, channels.Options{})
	for i := range 500 {
		subscribe(t, connect(t, tracker, "app", fmt.Sprint(i)), "a", "")
	}
	other := connect(t, tracker, "other", "1.1")
	subscribe(t, other, "a", "")
	require.Equal(t, 500, tracker.RemoveApp("app"))
	require.Zero(t, tracker.RemoveApp("app"))
	require.Equal(t, 1, tracker.Counts("other", "a").Subscribers)
	subscribe(t, connect(t, tracker, "app", "1"), "a", "") // it may come again
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, entered, open := gate("app")
		tracker := channels.New(out, channels.Options{})
		s := connect(t, tracker, "app", "1.1")
		require.NoError(t, tracker.Flush(t.Context()), "nothing to wait for")
		go func() { _, _ = s.Subscribe("a", channels.Member{}) }()
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, tracker.Flush(ctx), context.DeadlineExceeded)
		s.Leave()
		flushed := make(chan error)
		go func() { flushed <- tracker.Flush(t.Context()) }()
		synctest.Wait()
		require.Empty(t, flushed)
		open()
		require.NoError(t, <-flushed)
		require.Len(t, out.told("app"), 4)
	})
}

// The next sockets of an app may come while the events of the last ones are emitted. They do not overtake those.
func TestEventsKeepTheirOrderWhenAnAppComesAndGoes(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	var comeAndGo sync.WaitGroup
	for worker := range 4 {
		comeAndGo.Go(func() {
			for i := range 500 {
				s, err := tracker.Connect("app", fmt.Sprint(worker, ".", i))
				if err != nil {
					panic(err)
				}
				_, _ = s.Subscribe("presence-a", channels.Member{UserID: fmt.Sprint(worker)})
				s.Leave()
			}
		})
	}
	comeAndGo.Wait()
	out.checkStories(t)
}

// While an item is yielded anything can be done, and who is there all the time is yielded once.
func TestIteratorsHoldNoLock(t *testing.T) {
	tracker := channels.New(&recorder{}, channels.Options{})
	stays := make(map[*channels.Socket]bool)
	var goes []*channels.Socket
	for i := range 1000 {
		s := connect(t, tracker, "app", fmt.Sprint(i))
		_, err := s.Subscribe("presence-a", channels.Member{UserID: fmt.Sprint("user", i), Info: json.RawMessage("1")})
		require.NoError(t, err)
		subscribe(t, s, fmt.Sprint("own", i), "")
		if i%2 == 0 {
			stays[s] = true
		} else {
			goes = append(goes, s)
		}
	}
	comes := 0
	disturb := func() { // somebody goes and somebody comes, wherever the iterator is
		if len(goes) > 0 {
			last := len(goes) - 1
			goes[last].Leave()
			goes = goes[:last]
		}
		if comes++; comes < 1000 {
			subscribe(t, connect(t, tracker, "app", fmt.Sprint("new", comes)), "presence-a", fmt.Sprint("new", comes))
		}
	}
	seen := make(map[*channels.Socket]int)
	for s := range tracker.Sockets("app", "presence-a") {
		seen[s]++
		disturb()
	}
	for s := range stays {
		require.Equal(t, 1, seen[s])
	}
	members := make(map[string]int)
	for id, info := range tracker.Members("app", "presence-a") {
		members[id]++
		require.True(t, info == nil || string(info) == "1")
		disturb()
	}
	names := make(map[string]int)
	for name := range tracker.Channels("app", "own") {
		names[name]++
		disturb()
	}
	for s := range stays {
		require.Equal(t, 1, members["user"+s.ID()])
		require.Equal(t, 1, names["own"+s.ID()])
	}
	for _, times := range seen {
		require.Equal(t, 1, times)
	}
}

// Sockets that leave and join all the time do not keep an iterator from its end.
func TestIteratorsEnd(t *testing.T) {
	tracker := channels.New(&recorder{}, channels.Options{})
	const n = 200
	for i := range n {
		subscribe(t, connect(t, tracker, "app", fmt.Sprint(i)), "a", "")
	}
	yielded := 0
	for s := range tracker.Sockets("app", "a") {
		yielded++
		require.LessOrEqual(t, yielded, n)
		unsubscribe(t, s, "a")
		subscribe(t, s, "a", "")
	}
	require.Equal(t, n, yielded)
}

// An iterator that is left early leaves nothing behind, however it is left.
func TestIteratorsMayBeLeft(t *testing.T) {
	out := &recorder{}
	tracker := channels.New(out, channels.Options{})
	for i := range 200 {
		subscribe(t, connect(t, tracker, "app", fmt.Sprint(i)), "a", "")
	}
	for n := range 200 {
		for range tracker.Sockets("app", "a") {
			if n--; n < 0 {
				break
			}
		}
	}
	require.Panics(t, func() {
		for s := range tracker.Sockets("app", "a") {
			if s.ID() == "100" {
				panic("at 100")
			}
		}
	})
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for s := range tracker.Sockets("app", "a") {
			if s.ID() == "100" {
				runtime.Goexit()
			}
		}
	}()
	<-ended
	require.Len(t, slices.Collect(tracker.Sockets("app", "a")), 200)
	require.Equal(t, 200, tracker.RemoveApp("app"))
	out.checkStories(t)
}
