package main

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// An idSet is a set of event ids below a bound, one bit each. All of its memory is there from the start, so that keeping
// account of millions of events is no growth of the heap.
type idSet struct{ Words []uint64 }

func newIDSet(bound int) *idSet { return &idSet{make([]uint64, (bound+63)/64)} }

// add puts an id in and reports whether it is new. It may be called concurrently; the other methods read.
func (s *idSet) add(id int) (added bool) {
	bit := uint64(1) << (id % 64)
	return atomic.OrUint64(&s.Words[id/64], bit)&bit == 0
}

func (s *idSet) holds(id int) bool { return id >= 0 && id/64 < len(s.Words) }

func (s *idSet) len() (n int) {
	for i := range s.Words {
		n += bits.OnesCount64(atomic.LoadUint64(&s.Words[i]))
	}
	return n
}

// without counts the ids of s that none of the others has, and returns an error that names some of them.
func (s *idSet) without(complaint string, others ...*idSet) error {
	const named = 5
	var first []int
	missing := 0
	for i, word := range s.Words {
		for _, other := range others {
			word &^= other.Words[i]
		}
		missing += bits.OnesCount64(word)
		for ; word != 0 && len(first) < named; word &= word - 1 {
			first = append(first, i*64+bits.TrailingZeros64(word))
		}
	}
	if missing == 0 {
		return nil
	}
	return fmt.Errorf("%d events %s, such as %v", missing, complaint, first)
}
