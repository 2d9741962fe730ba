//go:build !race

package channels_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook/channels"
)

// cost returns what f leaves on the heap, and how many allocations it made, per n.
func cost(n int, f func()) (bytes, allocations float64) {
	var before, after runtime.MemStats
	collect := func() { runtime.GC(); runtime.GC() } // the second frees what the first has found in pools
	collect()
	runtime.ReadMemStats(&before)
	f()
	collect()
	runtime.ReadMemStats(&after)
	return (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)
}

// A subscription to a channel that is there, by a socket and a user that are there, is one allocation and at most 200
// bytes: all that it leaves on the heap, a socket's index and tables that grow included. A channel, a member and a socket
// cost more, once each; that is logged, and bounded.
func TestCostOfASubscription(t *testing.T) {
	for _, test := range []costCase{
		{name: "a channel each", sockets: 100_000, each: 1, of: 1000, bytes: 80, allocations: 1.01},
		{name: "ten channels each", sockets: 10_000, each: 10, of: 1000, bytes: 80, allocations: 1.01},
		{name: "a hundred channels each", sockets: 1000, each: 100, of: 1000, bytes: 200, allocations: 1.1},
		{name: "a thousand channels each", sockets: 100, each: 1000, of: 1000, bytes: 200, allocations: 1.1},
		{name: "another socket of a member", sockets: 100_000, each: 1, of: 1000, prefix: "presence-", users: 1, bytes: 80, allocations: 1.01},
		{name: "a new member each", sockets: 100_000, each: 1, of: 1000, prefix: "presence-", users: 100_000, bytes: 250, allocations: 3.1},
		{name: "a new channel each", sockets: 1, each: 100_000, of: 100_000, bytes: 400, allocations: 3.1},
		{name: "a new presence channel each", sockets: 1, each: 100_000, of: 100_000, prefix: "presence-", users: 1, bytes: 700, allocations: 8.1},
	} {
		t.Run(test.name, func(t *testing.T) {
			bytes, allocations := test.measure(t)
			t.Logf("%.0f B and %.2f allocations a subscription", bytes, allocations)
			require.LessOrEqual(t, bytes, test.bytes)
			require.LessOrEqual(t, allocations, test.allocations)
		})
	}
}

// A costCase is so many sockets that each join so many of the channels, and the bounds of what that costs.
type costCase struct {
	name               string
	sockets, each, of  int
	prefix             string // of the channels
	users              int
	bytes, allocations float64
}

// measure returns what a subscription costs.
func (test *costCase) measure(t *testing.T) (bytes, allocations float64) {
	tracker := channels.New(deaf{}, channels.Options{})
	names, users, sockets := make([]string, test.of), make([]string, max(test.users, 1)), make([]*channels.Socket, test.sockets)
	for i := range names {
		names[i] = fmt.Sprint(test.prefix, "channel-", i)
	}
	for i := range users {
		users[i] = fmt.Sprint("user-", i)
	}
	stays := connect(t, tracker, "app", "stays")
	for _, name := range names {
		if test.of < 100_000 { // or every channel is new
			subscribe(t, stays, name, users[0])
		}
	}
	socket, _ := cost(test.sockets, func() {
		for i := range sockets {
			sockets[i] = connect(t, tracker, "app", fmt.Sprint(i))
		}
	})
	if test.sockets >= 1000 { // or other things weigh more
		t.Logf("%.0f B a socket", socket)
	}
	bytes, allocations = cost(test.sockets*test.each, func() {
		for n := range test.sockets * test.each {
			m := channels.Member{UserID: users[n/test.each%len(users)]}
			if _, err := sockets[n/test.each].Subscribe(names[n%len(names)], m); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, kept := range []any{tracker, names, users, sockets} { // or they would be counted as freed
		runtime.KeepAlive(kept)
	}
	return bytes, allocations
}

// A million sockets on a hundred thousand channels, and all of them on one that is hot; and the memory of all that goes.
func TestAMillionSockets(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	tracker := channels.New(deaf{}, channels.Options{})
	sockets := make([]*channels.Socket, 1_000_000)
	began := time.Now()
	bytes, _ := cost(len(sockets), func() {
		for i := range sockets {
			sockets[i] = connect(t, tracker, "app", fmt.Sprint(i))
			if _, err := sockets[i].Subscribe(fmt.Sprint("channel-", i%100_000), channels.Member{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Logf("%.0f B a socket with its subscription and a tenth of a channel; all within %v", bytes, time.Since(began))
	require.LessOrEqual(t, bytes, 400.0)
	require.Equal(t, 10, tracker.Counts("app", "channel-7").Subscribers)

	hot, allocations := cost(len(sockets), func() {
		for _, s := range sockets {
			if _, err := s.Subscribe("hot", channels.Member{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	require.LessOrEqual(t, hot, 80.0)
	require.LessOrEqual(t, allocations, 1.01)
	yielded := 0
	for range tracker.Sockets("app", "hot") {
		yielded++
	}
	require.Equal(t, len(sockets), yielded)

	left, _ := cost(1, func() {
		for i, s := range sockets {
			if i > 0 {
				s.Leave()
			}
			sockets[i] = nil
		}
	})
	t.Logf("%.0f MB are free again when one is left", -left/1e6)
	require.LessOrEqual(t, left, -0.99*(bytes+hot)*float64(len(sockets)))
	require.Equal(t, 1, tracker.RemoveApp("app"))
}

// A tenant whose socket subscribes to any number of names: when these are gone the memory is, although the socket stays.
func TestManyNames(t *testing.T) {
	const n = 250_000
	tracker := channels.New(deaf{}, channels.Options{})
	greedy, other := connect(t, tracker, "app", "greedy"), connect(t, tracker, "app", "other")
	subscribe(t, other, "room", "")
	grown, _ := cost(n, func() {
		for i := range n {
			if _, err := greedy.Subscribe(fmt.Sprint("name-", i), channels.Member{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	shrunk, _ := cost(n, func() {
		for i := range n - 20 {
			if _, err := greedy.Unsubscribe(fmt.Sprint("name-", i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Logf("%.0f B a name, and %.0f B when they are gone", grown, grown+shrunk)
	require.LessOrEqual(t, grown+shrunk, 1.0, "the socket and the app live on")
	runtime.KeepAlive(tracker)
}

// Apps that come and go leave nothing.
func TestAppsVanish(t *testing.T) {
	tracker := channels.New(deaf{}, channels.Options{})
	left, _ := cost(10_000, func() {
		for i := range 10_000 {
			s := connect(t, tracker, fmt.Sprint("app", i), "1.1")
			subscribe(t, s, "a", "")
			s.Leave()
		}
	})
	require.LessOrEqual(t, left, 10.0)
	runtime.KeepAlive(tracker)
}

// Leave of a socket on some thousand channels holds no lock for longer than one channel takes. What others wait is measured
// from outside, in many rounds: in the best one nothing but the tracker is in their way. A Leave under one lock would
// have them wait for all of its channels in every round.
func TestLeaveHoldsNoLockForLong(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("needs two cores")
	}
	const n, bound = 4000, 50 * time.Microsecond
	best, taken := time.Hour, time.Duration(0)
	for round := 0; round < 200 && best > bound/5; round++ {
		tracker := channels.New(deaf{}, channels.Options{})
		s, other := connect(t, tracker, "app", "1.1"), connect(t, tracker, "app", "1.2")
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprint("presence-", i)
			subscribe(t, s, names[i], "ada")
			subscribe(t, other, names[i], "ada")
		}
		started, left := make(chan bool), make(chan time.Duration)
		go func() {
			close(started)
			began := time.Now()
			s.Leave()
			left <- time.Since(began)
		}()
		<-started
		longest, asked := time.Duration(0), 0
		for done := false; !done; asked++ {
			began := time.Now()
			tracker.Counts("app", names[asked%n])
			longest = max(longest, time.Since(began))
			select {
			case taken = <-left:
				done = true
			default:
			}
		}
		if asked > 100 { // they did run side by side
			best = min(best, longest)
		}
	}
	t.Logf("others wait %v at the most; the last Leave took %v", best, taken)
	require.Less(t, best, bound)
}

// A name is often a part of a frame that came from the client. The frame is not kept for it.
func TestNothingOfTheCallersIsKept(t *testing.T) {
	const n, large = 1000, 16 << 10
	tracker := channels.New(deaf{}, channels.Options{})
	cut := func(what string, i int) string { return (strings.Repeat("x", large) + fmt.Sprint(what, i))[large:] }
	bytes, _ := cost(n, func() {
		for i := range n {
			s := connect(t, tracker, cut("app", i), cut("1.", i))
			info := []byte(cut("1", i))
			if _, err := s.Subscribe(cut("presence-", i), channels.Member{UserID: cut("user", i), Info: info}); err != nil {
				t.Fatal(err)
			}
		}
	})
	require.LessOrEqual(t, bytes, 8192.0, "an app, a socket, a channel and a member")
	runtime.KeepAlive(tracker)
}
