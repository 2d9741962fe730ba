package channels

import "math/bits"

// A node is what a table keeps of a value, inside of the value.
type node[T any] struct {
	next *node[T] // in its bucket
	hash uint64   // of key
	key  string
	of   *T
}

// A table finds values by their keys. It grows and shrinks by a bucket at a time (linear hashing, Litwin 1980): no call
// pays for all values at once, as a tenant with a million names would have others pay, and a table that was large
// once gives its memory back. A Go map does neither.
type table[T any] struct {
	segments [][]*node[T] // of segmentSize buckets each; the last may have fewer
	buckets  int
	mask     uint64 // the smallest 2^n-1 that reaches every bucket
	count    int    // of values
}

const segmentSize = 256

func (t *table[T]) bucket(i int) **node[T] { return &t.segments[i/segmentSize][i%segmentSize] }

// home is the bucket of a hash: a bucket that is not there yet shares the one that it will be split from.
func (t *table[T]) home(hash uint64) **node[T] {
	i := hash & t.mask
	if i >= uint64(t.buckets) {
		i &= t.mask >> 1
	}
	return t.bucket(int(i))
}

// find returns the value of a key, or nil.
func (t *table[T]) find(hash uint64, key string) *T {
	if t.count == 0 {
		return nil
	}
	for n := *t.home(hash); n != nil; n = n.next {
		if n.hash == hash && n.key == key {
			return n.of
		}
	}
	return nil
}

// insert adds a value whose key is not there.
func (t *table[T]) insert(n *node[T]) {
	t.count++
	if t.buckets < t.count {
		t.grow()
	}
	home := t.home(n.hash)
	n.next, *home = *home, n
}

// remove takes a value out that is there.
func (t *table[T]) remove(n *node[T]) {
	at := t.home(n.hash)
	for *at != n {
		at = &(*at).next
	}
	*at, n.next = n.next, nil
	if t.count--; t.count == 0 {
		*t = table[T]{}
		return
	}
	for range 2 { // two, to keep up with a bound that falls by two
		if t.buckets > 2*t.count {
			t.shrink()
		}
	}
}

// grow adds a bucket and moves to it what belongs there.
func (t *table[T]) grow() {
	added := t.buckets
	if added%segmentSize == 0 {
		var segment []*node[T] // the first one grows as its table does: most tables are small
		if added > 0 {
			segment = make([]*node[T], 0, segmentSize)
		}
		t.segments = append(t.segments, segment)
	}
	last := &t.segments[len(t.segments)-1]
	*last = append(*last, nil)
	t.resized(added + 1)
	if added == 0 {
		return
	}
	to := t.bucket(added)
	for at := t.bucket(added & int(t.mask>>1)); *at != nil; {
		n := *at
		if n.hash&t.mask == uint64(added) {
			*at, n.next, *to = n.next, *to, n
		} else {
			at = &n.next
		}
	}
}

// shrink takes the last bucket away, and gives what is in it to the one that it was split from.
func (t *table[T]) shrink() {
	removed := t.buckets - 1
	end := t.bucket(removed & int(t.mask>>1))
	for *end != nil {
		end = &(*end).next
	}
	*end = *t.bucket(removed)
	last := &t.segments[len(t.segments)-1]
	(*last)[len(*last)-1] = nil
	if *last = (*last)[:len(*last)-1]; len(*last) == 0 {
		*last = nil
		t.segments = t.segments[:len(t.segments)-1]
	}
	t.resized(removed)
}

func (t *table[T]) resized(buckets int) {
	t.buckets, t.mask = buckets, 1<<bits.Len(uint(buckets-1))-1
}
