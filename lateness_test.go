package webhook_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

const lateness = 500 * time.Millisecond

// on returns an event that happened on a node, so many milliseconds after a moment.
func on(node string, began time.Time, ms int, e webhook.Event) webhook.Event {
	e.Node, e.At = node, began.Add(time.Duration(ms)*time.Millisecond)
	return e
}

// late runs a test like timed, with a Lateness.
func late(t *testing.T, cfg webhook.Config, test func(t *testing.T, d *webhook.Dispatcher, said func() []string)) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{}
		cfg.Apps, cfg.MaxBatchEvents, cfg.Sender = []webhook.App{testApp("app", "http://localhost/")}, 1, sent
		if cfg.Lateness == 0 {
			cfg.Lateness = lateness
		}
		d := newDispatcher(t, cfg)
		test(t, d, func() []string {
			synctest.Wait()
			return spoken(t, sent)
		})
	})
}

// Events of two nodes, as they come; the number is when they happened. The member has been there before.
func TestWhoWasThereLastCounts(t *testing.T) {
	const occupied, vacated = "channel_occupied c", "channel_vacated c"
	in, out := webhook.ChannelOccupied("c"), webhook.ChannelVacated("c")
	type events []func(time.Time) webhook.Event
	at := func(node string, ms int, e webhook.Event) func(time.Time) webhook.Event {
		return func(began time.Time) webhook.Event { return on(node, began, ms, e) }
	}
	now := func(e webhook.Event) func(time.Time) webhook.Event {
		return func(time.Time) webhook.Event { return e }
	}
	for name, test := range map[string]struct {
		events     events
		with       []string // a ReconnectGrace
		without    []string
		suppressed [2]int
	}{
		"out, in":                     {events{at("a", 0, out), at("b", 400, in)}, nil, []string{vacated, occupied}, [2]int{2, 0}},
		"out, in, heard backwards":    {events{at("b", 400, in), at("a", 0, out)}, []string{occupied}, []string{occupied}, [2]int{1, 1}},
		"in, out":                     {events{at("a", 0, in), at("b", 400, out)}, []string{occupied, vacated}, []string{occupied, vacated}, [2]int{0, 0}},
		"in, out, heard backwards":    {events{at("b", 400, out), at("a", 0, in)}, []string{occupied, vacated}, []string{vacated}, [2]int{0, 1}},
		"at one moment":               {events{at("a", 0, out), at("b", 0, in)}, nil, []string{vacated, occupied}, [2]int{2, 0}},
		"at one moment, in first":     {events{at("b", 0, in), at("a", 0, out)}, []string{occupied}, []string{occupied}, [2]int{1, 1}},
		"at nearly one moment":        {events{at("a", 40, out), at("b", 0, in)}, nil, []string{vacated, occupied}, [2]int{2, 0}},
		"nearly, in first":            {events{at("b", 0, in), at("a", 40, out)}, []string{occupied}, []string{occupied}, [2]int{1, 1}},
		"at one moment on one node":   {events{at("a", 0, in), at("a", 0, out)}, []string{occupied, vacated}, []string{occupied, vacated}, [2]int{0, 0}},
		"out, in when it is heard":    {events{at("a", 0, out), now(in)}, nil, []string{vacated, occupied}, [2]int{2, 0}},
		"in when it is heard, before": {events{now(in), at("a", -1, out)}, []string{occupied}, []string{occupied}, [2]int{1, 1}},
		"out when it is heard":        {events{at("a", 0, in), now(out)}, []string{occupied, vacated}, []string{occupied, vacated}, [2]int{0, 0}},
		"in, out on one, in on another": {events{at("b", 300, in), at("a", 0, in), at("a", 200, out)}, []string{occupied, occupied},
			[]string{occupied, occupied}, [2]int{1, 1}},
		"in and back, heard backwards": {events{at("a", 0, out), at("a", 300, in), at("b", 100, in), at("b", 200, out)}, []string{occupied},
			[]string{vacated, occupied, occupied}, [2]int{3, 1}},
		"out twice, in between": {events{at("a", 0, out), at("a", 300, out), at("b", 100, in)}, []string{occupied, vacated}, []string{vacated, vacated}, [2]int{1, 1}},
	} {
		for i, grace := range []time.Duration{grace, 0} {
			t.Run(fmt.Sprintf("%s, grace %v", name, grace), func(t *testing.T) {
				late(t, webhook.Config{ReconnectGrace: grace}, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
					time.Sleep(time.Second)
					began := time.Now()
					time.Sleep(lateness)
					for _, e := range test.events {
						emit(t, d, "app", e(began))
					}
					time.Sleep(time.Minute)
					require.Equal(t, [][]string{test.with, test.without}[i], said())
					require.EqualValues(t, test.suppressed[i], d.Stats().Suppressed)
					require.Zero(t, d.Stats().PendingBytes, "nothing is remembered for ever")
				})
			})
		}
	}
}

// Each channel and each member has a latest of its own, and each app.
func TestTheLatestIsOfOneChannelOrMember(t *testing.T) {
	late(t, webhook.Config{CacheMissWindow: time.Millisecond}, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		time.Sleep(time.Second)
		began := time.Now().Add(-lateness)
		emit(t, d, "app", on("b", began, 400, webhook.MemberAdded("presence-c", "ada")), on("b", began, 400, webhook.ChannelOccupied("d")),
			on("b", began, 400, webhook.CacheMiss("cache-c")), on("b", began, 400, webhook.SubscriptionCount("presence-c", 2)))
		emit(t, d, "app", on("a", began, 0, webhook.MemberRemoved("presence-c", "bob")), on("a", began, 0, webhook.MemberRemoved("presence-d", "ada")),
			on("a", began, 0, webhook.ChannelVacated("presence-c")), on("a", began, 0, webhook.ChannelOccupied("cache-c")),
			on("a", began, 0, webhook.SubscriptionCount("d", 1)))
		time.Sleep(time.Minute)
		require.Len(t, said(), 9)
	})
}

func TestACountThatComesBehindALaterOneIsLeftOut(t *testing.T) {
	for name, cfg := range map[string]webhook.Config{
		"each is sent": {}, "one an interval": {CountInterval: 5 * time.Second, CountThreshold: 100},
	} {
		t.Run(name, func(t *testing.T) {
			late(t, cfg, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
				time.Sleep(time.Second)
				began := time.Now().Add(-lateness)
				emit(t, d, "app", on("b", began, 400, webhook.SubscriptionCount("c", 101)), on("a", began, 399, webhook.SubscriptionCount("c", 99)),
					on("a", began, 400, webhook.SubscriptionCount("c", 102)), on("b", began, 100, webhook.SubscriptionCount("c", 103)))
				time.Sleep(time.Minute)
				require.Equal(t, []string{"subscription_count c 101", "subscription_count c 102"}, said())
				require.EqualValues(t, 2, d.Stats().Suppressed)
			})
		})
	}
}

// Who is back within the grace, by when they were, hears nothing, also if that is heard only just in time; who is not does.
func TestTheGraceIsByWhenTheyWereBack(t *testing.T) {
	for gap, want := range map[time.Duration]int{grace - 1: 0, grace: 2} {
		late(t, webhook.Config{ReconnectGrace: grace}, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
			began := time.Now()
			emit(t, d, "app", webhook.ChannelVacated("c"))
			time.Sleep(gap + lateness - 1)
			back := webhook.ChannelOccupied("c")
			back.At, back.Node = began.Add(gap), "b"
			emit(t, d, "app", back)
			time.Sleep(time.Minute)
			require.Len(t, said(), want, "%v", gap)
		})
	}
}

func TestTheLatestIsForgottenAfterTheLateness(t *testing.T) {
	for wait, want := range map[time.Duration]int{lateness - 1: 1, lateness + 1: 2} {
		late(t, webhook.Config{}, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
			began := time.Now()
			emit(t, d, "app", on("b", began, 0, webhook.ChannelOccupied("c")))
			require.Positive(t, d.Stats().PendingBytes, "it is in the memory bounds")
			time.Sleep(wait)
			emit(t, d, "app", on("a", began, -1, webhook.ChannelVacated("c")))
			require.Len(t, said(), want)
		})
	}
}

// An event that is remembered is needed until it is not any more: whoever keeps it emits it again after a crash.
func TestTheTicketOfTheLatestIsDoneWhenItIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, webhook.Config{Sender: &recorder{}, Apps: []webhook.App{testApp("app", "http://a.test")},
			ReconnectGrace: grace, Lateness: lateness, MaxBatchEvents: 1})
		id := endpointIDs(d)[0]
		began := time.Now()
		for name, test := range map[string]struct {
			events        []webhook.Event
			during, after []string // the lateness
		}{
			"one that went through": {[]webhook.Event{on("a", began, 0, webhook.ChannelOccupied("1"))},
				[]string{"1 queued " + id, "1 remembered", "1 ended " + id}, []string{"1 done"}},
			"one that cancels another": {[]webhook.Event{on("a", began, 0, webhook.ChannelVacated("2")), on("b", began, 0, webhook.ChannelOccupied("2"))},
				[]string{"1 held", "1 done", "2 remembered"}, []string{"2 done"}},
			"one that is left out": {[]webhook.Event{on("b", began, 1, webhook.ChannelOccupied("3")), on("a", began, 0, webhook.ChannelVacated("3"))},
				[]string{"1 queued " + id, "1 remembered", "2 done", "1 ended " + id}, []string{"1 done"}},
			"a later one takes its place": {[]webhook.Event{on("b", began, 0, webhook.ChannelOccupied("4")), on("a", began, 1, webhook.ChannelOccupied("4"))},
				[]string{"1 queued " + id, "1 remembered", "2 queued " + id, "2 remembered", "1 ended " + id, "1 done", "2 ended " + id}, []string{"2 done"}},
			"one that is held itself": {[]webhook.Event{on("b", began, 0, webhook.ChannelVacated("5"))}, []string{"1 held"}, nil},
		} {
			time.Sleep(time.Until(began.Add(time.Second)))
			f := &follower{}
			follow(t, d, f, test.events...)
			time.Sleep(lateness - 1)
			require.ElementsMatch(t, test.during, f.said(), name)
			time.Sleep(2 * time.Nanosecond)
			require.Equal(t, test.after, append([]string(nil), f.said()[len(test.during):]...), name)
		}
	})
}

// A report is an event and when it is heard.
type report struct {
	webhook.Event
	heard time.Time
}

// A fleet is what nodes say of one member, each in order.
type fleet struct {
	chance *rand.Rand
	said   []report
	last   map[string]time.Time // by node
}

// says has a node say something that happens at a moment and is heard within the lateness.
func (f *fleet) says(node string, happens time.Time, e webhook.Event) {
	e.At, e.Node = happens, node
	heard := happens.Add(time.Duration(f.chance.Int64N(int64(lateness))))
	if heard.Before(f.last[node]) {
		heard = f.last[node]
	}
	f.last[node] = heard
	f.said = append(f.said, report{e, heard})
}

// emit emits all that was said when it is heard.
func (f *fleet) emit(t *testing.T, d *webhook.Dispatcher) {
	slices.SortStableFunc(f.said, func(a, b report) int { return a.heard.Compare(b.heard) })
	for _, one := range f.said {
		time.Sleep(time.Until(one.heard))
		emit(t, d, "app", one.Event)
	}
	time.Sleep(time.Minute)
}

func (f *fleet) String() string {
	var b strings.Builder
	for _, one := range f.said {
		fmt.Fprintf(&b, "%s %s at %s, heard at %s\n", one.Node, one.Type, one.At.Format("05.000"), one.heard.Format("05.000"))
	}
	return b.String()
}

var (
	comes  = webhook.MemberAdded("presence-c", "ada")
	leaves = webhook.MemberRemoved("presence-c", "ada")
)

// Somebody moves from node to node, at once or after a while: in the end the receiver believes what is true, and nobody was
// said to leave who was back well within the grace.
func TestInWhateverOrderAFleetIsHeard(t *testing.T) {
	for _, test := range []struct{ grace, away time.Duration }{{0, time.Second}, {100 * time.Millisecond, time.Second}, {grace, 5 * time.Second}, {grace, grace - lateness}} {
		for seed := range uint64(200) {
			late(t, webhook.Config{ReconnectGrace: test.grace}, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
				f := &fleet{chance: rand.New(rand.NewPCG(seed, 1)), last: map[string]time.Time{}}
				now := time.Now()
				for range f.chance.IntN(20) {
					node := fmt.Sprint(f.chance.IntN(3))
					f.says(node, now, comes)
					now = now.Add(time.Duration(1+f.chance.IntN(4)) * 100 * time.Millisecond)
					f.says(node, now, leaves)
					now = now.Add(time.Duration(f.chance.Int64N(int64(test.away))) * time.Duration(f.chance.IntN(2)))
				}
				here := len(f.said) == 0 || test.away < test.grace || f.chance.IntN(2) == 0
				if here {
					f.says("3", now, comes)
				}
				f.emit(t, d)
				lines := said()
				require.Equal(t, here, strings.HasPrefix(lines[len(lines)-1], "member_added"), "%v\n%v", lines, f)
				if test.away < test.grace {
					require.NotContains(t, lines, "member_removed presence-c ada", "%v\n%v", lines, f)
				}
			})
		}
	}
}

// Several nodes have somebody at once, and each tells its own story: what happened last counts.
func TestWhatHappenedLastCounts(t *testing.T) {
	for seed := range uint64(200) {
		late(t, webhook.Config{}, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
			f := &fleet{chance: rand.New(rand.NewPCG(seed, 2)), last: map[string]time.Time{}}
			last := map[string]webhook.Event{}
			var end time.Time
			for n := range 1 + f.chance.IntN(4) {
				node, now := fmt.Sprint(n), time.Now().Add(time.Duration(f.chance.IntN(10))*100*time.Millisecond)
				for i := range 1 + f.chance.IntN(6) {
					last[node] = []webhook.Event{comes, leaves}[i%2]
					f.says(node, now, last[node])
					end = now
					now = now.Add(time.Duration(1+f.chance.IntN(12)) * 100 * time.Millisecond)
				}
			}
			here := false
			for _, one := range f.said {
				if one.At.After(end) {
					end = one.At
				}
			}
			for _, one := range f.said {
				here = here || one.At.Equal(end) && one.Type == comes.Type // at one moment on two nodes: there
			}
			f.emit(t, d)
			lines := said()
			require.Equal(t, here, strings.HasPrefix(lines[len(lines)-1], "member_added"), "%v\n%v", lines, f)
		})
	}
}
