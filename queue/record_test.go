package queue

import (
	"fmt"
	"math/rand/v2"
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

// A life is one owner: it reads events and has endpoints finish them, until it is killed. The next one begins from the last record that
// was written. In the end everybody has had everything.
func TestNoRecordSwallowsAnything(t *testing.T) {
	for seed := range uint64(200) {
		chance := rand.New(rand.NewPCG(seed, 1))
		const n, endpoints = 300, 4
		got := map[string]map[position]bool{}
		for e := range endpoints {
			got[fmt.Sprint("e", e)] = map[position]bool{}
		}
		rec := record{Stream: "s", Next: 1}
		for life := 0; rec.floor() <= n; life++ {
			tr := newTracking(rec)
			left, waiting, held := chance.IntN(300), map[string][]position{}, []position{}
			if life > 20 {
				left = 10_000
			}
			deliver := func(p position) {
				for e := range got {
					if tr.wants(e, p) {
						tr.queue(e, p)
						waiting[e] = append(waiting[e], p)
					}
				}
			}
			for ; left > 0; left-- {
				switch chance.IntN(6) {
				case 0, 1:
					p := tr.at
					if p > n {
						break
					}
					if again, needed := tr.again(p); needed {
						if (!again || tr.wasHeld[p]) && p%7 == 0 {
							tr.hold(p)
							held = append(held, p)
						} else {
							deliver(p)
						}
					}
					tr.read(p + 1)
				case 2:
					if len(held) > 0 {
						p := held[0]
						held = held[1:]
						deliver(p)
						tr.done(p)
					}
				case 3, 4:
					for e, all := range waiting {
						if len(all) > 0 {
							i := 0
							if chance.IntN(3) == 0 { // set aside
								i = chance.IntN(len(all))
							}
							got[e][all[i]] = true
							tr.end(e, all[i])
							waiting[e] = append(append([]position{}, all[:i]...), all[i+1:]...)
						}
					}
				default:
					if now, changed := tr.snapshot("o"); changed {
						require.GreaterOrEqual(t, now.floor(), rec.floor(), "seed %d: what is purged is not needed again", seed)
						if chance.IntN(4) == 0 {
							now.bounded(chance.IntN(3) + 1)
						}
						if now.floor() >= rec.floor() {
							rec = now
						}
					}
				}
			}
			require.Less(t, life, 200, "seed %d", seed)
		}
		for e, all := range got {
			require.Len(t, all, n, "seed %d: %s", seed, e)
		}
	}
}

// What was held comes after later events, and is its endpoint's first unfinished position all the same.
func TestALateEventIsTheFirstUnfinished(t *testing.T) {
	tr := newTracking(record{Stream: "s", Next: 1})
	tr.queue("e", 5)
	tr.queue("e", 3)
	tr.read(9)
	r, _ := tr.snapshot("o")
	require.Equal(t, map[string]position{"e": 3}, r.Pend)
	tr.end("e", 3)
	r, _ = tr.snapshot("o")
	require.Equal(t, map[string]position{"e": 5}, r.Pend)
	tr.end("e", 5)
	r, _ = tr.snapshot("o")
	require.Empty(t, r.Pend)
	require.EqualValues(t, 9, r.floor())
	_, changed := tr.snapshot("o")
	require.False(t, changed)
}
