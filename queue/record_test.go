package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARecordIsBounded(t *testing.T) {
	r := record{Next: 1_000_000, Pend: map[string]position{}}
	for i := range 50_000 {
		r.Pend[fmt.Sprintf("%08x", i)] = position(10 + i)
		r.Held = append(r.Held, position(10+i))
	}
	r.bounded(maxRecordEntries)
	require.LessOrEqual(t, len(r.Pend)+len(r.Held), maxRecordEntries)
	require.EqualValues(t, 10+maxRecordEntries/2, r.Next, "what is dropped is read again")
	require.EqualValues(t, 10, r.floor())
	b, err := r.encode()
	require.NoError(t, err)
	require.Less(t, len(b), 512<<10)
}

// A life is one owner: it reads events and has endpoints finish them, until it is killed.
type life struct {
	*tracking
	chance  *rand.Rand
	got     map[string]map[position]bool // by endpoint
	waiting map[string][]position
	held    []position
}

// deliver queues an event for whoever has not had it.
func (l *life) deliver(p position) {
	for e := range l.got {
		if l.wants(e, p) {
			l.queue(e, p)
			l.waiting[e] = append(l.waiting[e], p)
		}
	}
}

// next reads an event; a timing rule holds every seventh.
func (l *life) next() {
	p := l.at
	if again, needed := l.again(p); needed && (!again || l.wasHeld[p]) && p%7 == 0 {
		l.hold(p)
		l.held = append(l.held, p)
	} else if needed {
		l.deliver(p)
	}
	l.tracking.read(p + 1)
}

// release ends the hold of an event.
func (l *life) release() {
	if len(l.held) > 0 {
		l.deliver(l.held[0])
		l.done(l.held[0])
		l.held = l.held[1:]
	}
}

// finish has each endpoint finish an event, mostly the first.
func (l *life) finish() {
	for e, all := range l.waiting {
		if len(all) > 0 {
			i := 0
			if l.chance.IntN(3) == 0 { // set aside
				i = l.chance.IntN(len(all))
			}
			l.got[e][all[i]] = true
			l.end(e, all[i])
			l.waiting[e] = slices.Delete(all, i, i+1)
		}
	}
}

// Each life begins from the last record that was written. In the end everybody has had everything.
func TestNoRecordSwallowsAnything(t *testing.T) {
	for seed := range uint64(200) {
		chance := rand.New(rand.NewPCG(seed, 1))
		const n = 300
		got := map[string]map[position]bool{"a": {}, "b": {}, "c": {}, "d": {}}
		rec := record{Stream: "s", Next: 1}
		for lives := 0; rec.floor() <= n; lives++ {
			require.Less(t, lives, 200, "seed %d", seed)
			l := &life{tracking: newTracking(rec), chance: chance, got: got, waiting: map[string][]position{}}
			left := chance.IntN(300)
			if lives > 20 {
				left = 10_000
			}
			for ; left > 0; left-- {
				switch chance.IntN(6) {
				case 0, 1:
					if l.at <= n {
						l.next()
					}
				case 2:
					l.release()
				case 3, 4:
					l.finish()
				default:
					if now, changed := l.snapshot("o", false); changed {
						require.GreaterOrEqual(t, now.floor(), rec.floor(), "seed %d: what is purged is not needed again", seed)
						if chance.IntN(4) == 0 {
							now.bounded(chance.IntN(3) + 1)
						}
						rec = now
					}
				}
			}
		}
		for e, all := range got {
			require.Len(t, all, n, "seed %d: %s", seed, e)
		}
	}
}

// A dead endpoint's first event may end long after many others that have found no room: they leave nothing behind.
func TestWhatHasEndedTakesNoMemory(t *testing.T) {
	tr := newTracking(record{Stream: "s", Next: 1})
	tr.queue("e", 1)
	for p := position(2); p < 100_000; p++ {
		tr.queue("e", p)
		if p > 1000 {
			tr.end("e", p-999)
		}
		q := tr.lanes["e"]
		require.Less(t, len(q.order)+len(q.ended), 4000)
	}
	require.EqualValues(t, 1, tr.lanes["e"].first())
	for p := position(99_001); p < 100_000; p++ {
		tr.end("e", p)
	}
	tr.end("e", 1)
	require.Empty(t, tr.lanes)
}

// What was held comes after later events, and is its endpoint's first unfinished position all the same.
func TestALateEventIsTheFirstUnfinished(t *testing.T) {
	tr := newTracking(record{Stream: "s", Next: 1})
	tr.queue("e", 5)
	tr.queue("e", 3)
	tr.read(9)
	r, _ := tr.snapshot("o", false)
	require.Equal(t, map[string]position{"e": 3}, r.Pend)
	tr.end("e", 3)
	r, _ = tr.snapshot("o", false)
	require.Equal(t, map[string]position{"e": 5}, r.Pend)
	tr.end("e", 5)
	r, _ = tr.snapshot("o", false)
	require.Empty(t, r.Pend)
	require.EqualValues(t, 9, r.floor())
	_, changed := tr.snapshot("o", false)
	require.False(t, changed)
}

// What a timing rule remembers is read again for the rule, by the next owner and by the one after him, and goes to
// nobody a second time.
func TestWhatARuleRemembersIsSeenAgainAndGoesToNobody(t *testing.T) {
	p := func(seq uint64) position { return positionOf(seq, 0) }
	first := newTracking(record{Next: p(1)})
	first.queue("e", p(7))
	first.remember(p(7))
	first.end("e", p(7))
	first.read(p(9))
	r, _ := first.snapshot("first", false)
	require.Equal(t, p(7), r.floor(), "nobody may forget it")

	second := newTracking(r)
	again, needed := second.again(p(7))
	require.True(t, again && needed)
	require.True(t, second.timed(p(7)))
	require.False(t, second.wants("e", p(7)))
	before, _ := second.snapshot("second", true)
	require.Equal(t, p(7), before.floor(), "he has not read it yet")

	second.remember(p(7))
	second.read(p(8))
	second.done(p(7))
	second.read(p(9))
	after, _ := second.snapshot("second", false)
	require.Equal(t, p(9), after.floor())
}

// A record says whose the endpoints are that have something unfinished: at the next owner they may be none of the app's
// any more.
func TestARecordSaysWhoseItsEndpointsAre(t *testing.T) {
	tr := newTracking(record{Stream: "s", Next: 1})
	tr.app = "a"
	tr.queue("old", 1)
	tr.hold(2)
	tr.app = "b"
	tr.queue("of b", 3)
	tr.queue("held", 2) // when its time is over, while b's is read
	tr.queue(unknownApp, 3)
	tr.read(4)
	rec, _ := tr.snapshot("w", true)
	rec.Held = nil
	next := newTracking(rec)
	require.ElementsMatch(t, []string{"old", "held"}, next.unfinished("a", 3))
	require.Equal(t, []string{"old"}, next.unfinished("a", 1))
	require.Equal(t, []string{"of b"}, next.unfinished("b", 3))
	again, _ := next.snapshot("x", true)
	require.Equal(t, rec.Apps, again.Apps, "also when nothing was read yet")
}

// What became a letter of an app that nobody knew, and was not stored, is for all if the app is known now.
func TestWhatWasUnknownIsForAll(t *testing.T) {
	tr := newTracking(record{Stream: "s", Next: 9, Pend: map[string]position{unknownApp: 5}})
	require.True(t, tr.wants("e", 5))
	require.False(t, tr.wants("e", 4))
}
