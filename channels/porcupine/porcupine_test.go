package porcupine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// An input is what was called on one channel. Leave is two for each channel, with Leave's call and return: going, from
// which on the socket does nothing more, and parting, when it is off this channel.
type input struct {
	op      string // subscribe, unsubscribe, counts, going or parting
	socket  string
	user    string
	channel string
}

type output struct {
	change channels.Change // or only its Counts
	err    error
	parted bool // Leave has a Change of this channel
}

// A state is a channel: who is on it, and which sockets have gone.
type state struct {
	users map[string]string // by socket
	gone  map[string]bool
}

func (s state) counts(channel string) (c channels.Counts) {
	c.Subscribers = len(s.users)
	if strings.HasPrefix(channel, "presence-") {
		members := slices.Sorted(maps.Values(s.users))
		c.Members = len(slices.Compact(members))
	}
	return c
}

func (s state) clone() state { return state{maps.Clone(s.users), maps.Clone(s.gone)} }

// model says what one step does to a channel, and whether that is what was seen.
var model = porcupine.Model{
	Init: func() any { return state{map[string]string{}, map[string]bool{}} },
	Equal: func(a, b any) bool {
		return maps.Equal(a.(state).users, b.(state).users) && maps.Equal(a.(state).gone, b.(state).gone)
	},
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byChannel := make(map[string][]porcupine.Operation)
		for _, o := range history {
			name := o.Input.(input).channel
			byChannel[name] = append(byChannel[name], o)
		}
		return slices.Collect(maps.Values(byChannel))
	},
	Step:              func(before, in, out any) (bool, any) { return step(before.(state), in.(input), out.(output)) },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %+v", in, out) },
}

func step(before state, in input, out output) (bool, state) {
	_, on := before.users[in.socket]
	switch {
	case in.op == "counts":
		return out.change.Counts == before.counts(in.channel), before
	case in.op == "going":
		after := before.clone()
		after.gone[in.socket] = true
		return !before.gone[in.socket], after
	case in.op == "parting":
		if on != out.parted || !before.gone[in.socket] {
			return false, before
		}
		return !on || matches(before, in, out.change), part(before, in)
	case before.gone[in.socket]:
		return out.err == channels.ErrGone, before
	case in.op == "unsubscribe" && !on:
		return out.err == channels.ErrNotSubscribed, before
	case in.op == "unsubscribe":
		return out.err == nil && matches(before, in, out.change), part(before, in)
	case on:
		return out.err == channels.ErrSubscribed, before
	}
	after := before.clone()
	after.users[in.socket] = in.user
	c := channels.Change{Channel: in.channel, First: len(before.users) == 0, Counts: after.counts(in.channel)}
	c.Member = c.Members > before.counts(in.channel).Members
	if strings.HasPrefix(in.channel, "presence-") {
		c.UserID = in.user
	}
	return out.err == nil && out.change == c, after
}

func part(before state, in input) state {
	after := before.clone()
	delete(after.users, in.socket)
	return after
}

// matches compares what was seen with what parting does.
func matches(before state, in input, seen channels.Change) bool {
	after := part(before, in)
	c := channels.Change{Channel: in.channel, Last: len(after.users) == 0, Counts: after.counts(in.channel)}
	c.Member = c.Members < before.counts(in.channel).Members
	if strings.HasPrefix(in.channel, "presence-") {
		c.UserID = before.users[in.socket]
	}
	return c == seen
}

// A history is what many goroutines have called, and when.
type history struct {
	began time.Time
	mu    sync.Mutex
	all   []porcupine.Operation
}

func (h *history) call(client int, in input, do func() output) {
	call := time.Since(h.began).Nanoseconds()
	out := do()
	h.add(client, in, out, call, time.Since(h.began).Nanoseconds())
}

func (h *history) add(client int, in input, out output, call, ret int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: ret})
}

// leave records both parts of a Leave on each channel.
func (h *history) leave(client int, s *channels.Socket, names []string) {
	call := time.Since(h.began).Nanoseconds()
	changes := s.Leave()
	ret := time.Since(h.began).Nanoseconds()
	for _, name := range names {
		h.add(client, input{op: "going", socket: s.ID(), channel: name}, output{}, call, ret)
		at := slices.IndexFunc(changes, func(c channels.Change) bool { return c.Channel == name })
		out := output{parted: at >= 0}
		if at >= 0 {
			out.change = changes[at]
		}
		h.add(client, input{op: "parting", socket: s.ID(), channel: name}, out, call, ret)
	}
}

// deaf takes every event. It gives way, so that goroutines meet in many ways also on few cores.
type deaf struct{}

func (deaf) Emit(string, webhook.Event) error             { runtime.Gosched(); return nil }
func (deaf) Wants(string, webhook.EventType, string) bool { return true }

var names = []string{"public", "presence-a"}

// life has a socket do things at random, from two goroutines at once, until one of them closes it.
func (h *history) life(tracker *channels.Tracker, random *rand.Rand, client int, id string) {
	s, err := tracker.Connect("app", id)
	if err != nil {
		panic(err)
	}
	var both sync.WaitGroup
	for side := range 2 {
		seed, closes := random.Uint64(), side == 0
		both.Go(func() {
			random, client := rand.New(rand.NewPCG(seed, 0)), 2*client+side
			for range 3 + random.IntN(5) {
				h.step(tracker, random, client, s)
			}
			if closes {
				h.leave(client, s, names)
			}
		})
	}
	both.Wait()
}

func (h *history) step(tracker *channels.Tracker, random *rand.Rand, client int, s *channels.Socket) {
	in := input{socket: s.ID(), user: fmt.Sprint("user", random.IntN(2)), channel: names[random.IntN(len(names))]}
	switch random.IntN(5) {
	case 0, 1:
		in.op = "subscribe"
		h.call(client, in, func() output {
			c, err := s.Subscribe(in.channel, channels.Member{UserID: in.user})
			return output{change: c, err: err}
		})
	case 2, 3:
		in.op = "unsubscribe"
		h.call(client, in, func() output {
			c, err := s.Unsubscribe(in.channel)
			return output{change: c, err: err}
		})
	default:
		in.op = "counts"
		h.call(client, in, func() output { return output{change: channels.Change{Counts: tracker.Counts("app", in.channel)}} })
	}
}

// Subscribe, Unsubscribe, Counts and each channel's share of Leave have an order in which all of them are true. A history is
// short, so that its goroutines run at the same time for all of it, and there are many.
func TestChannelsAreLinearisable(t *testing.T) {
	const clients = 3
	for seed := range uint64(3000) {
		h := &history{began: time.Now()}
		tracker := channels.New(deaf{}, channels.Options{})
		var everybody sync.WaitGroup
		var ready atomic.Int64
		for client := range clients {
			everybody.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(client)))
				for ready.Add(1); ready.Load() < clients; { // together
					runtime.Gosched()
				}
				for i := range 2 {
					h.life(tracker, random, client, fmt.Sprint(client, ".", i))
				}
			})
		}
		everybody.Wait()
		require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(model, h.all, time.Minute), "seed %d", seed)
	}
}

// The check sees what is wrong: a count that nobody can have seen, and a ghost.
func TestTheCheckCanFail(t *testing.T) {
	subscribe := input{op: "subscribe", socket: "1", channel: "public"}
	joined := output{change: channels.Change{Channel: "public", First: true, Counts: channels.Counts{Subscribers: 1}}}
	for name, wrong := range map[string]porcupine.Operation{
		"a count": {Input: input{op: "counts", channel: "public"}, Output: output{}, Call: 3, Return: 4},
		"a ghost": {Input: input{op: "going", socket: "1", channel: "public"}, Output: output{}, Call: -2, Return: -1},
	} {
		h := []porcupine.Operation{{Input: subscribe, Output: joined, Call: 1, Return: 2}, wrong}
		require.False(t, porcupine.CheckOperations(model, h), name)
	}
}
