package channels

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

type entry struct{ node node[entry] }

// A table holds what a map holds, whatever comes and goes, and is as large as what it holds.
func TestTableIsAMap(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		random, hash := rand.New(rand.NewPCG(seed, 0)), maphash.MakeSeed()
		var all table[entry]
		want := make(map[string]*entry)
		for phase := range 6 {
			share := []int{90, 50, 10}[phase%3] // grow, stay, shrink
			for range 5000 {
				key := fmt.Sprint(random.IntN(4000))
				h := maphash.String(hash, key)
				require.Same(t, want[key], all.find(h, key))
				if e := want[key]; e == nil && random.IntN(100) < share {
					e = &entry{node[entry]{hash: h, key: key}}
					e.node.of = e
					all.insert(&e.node)
					want[key] = e
				} else if e != nil && random.IntN(100) >= share {
					all.remove(&e.node)
					delete(want, key)
				}
				require.Equal(t, len(want), all.count)
				require.LessOrEqual(t, all.buckets, max(2*all.count, 1)+1)
			}
		}
		for key, e := range want {
			require.Same(t, e, all.find(e.node.hash, key))
			all.remove(&e.node)
		}
		require.Zero(t, all, "nothing is kept")
	}
}

// Values whose hashes are alike are told apart, however few buckets can tell them apart.
func TestTableWithBadHashes(t *testing.T) {
	var all table[entry]
	entries := make([]*entry, 1000)
	for i := range entries {
		entries[i] = &entry{node[entry]{hash: uint64(i % 3), key: fmt.Sprint(i)}}
		entries[i].node.of = entries[i]
		all.insert(&entries[i].node)
	}
	for i, e := range entries {
		require.Same(t, e, all.find(uint64(i%3), fmt.Sprint(i)))
		all.remove(&e.node)
		require.Nil(t, all.find(uint64(i%3), fmt.Sprint(i)))
	}
}
