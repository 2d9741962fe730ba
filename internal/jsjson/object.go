package jsjson

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// JavaScript enumerates the members of an object in its own order: names that are array indices by
// number, then the others as they came. Of equal names the last value counts, at the place of the
// first. An object is written as it comes; where its order differs, jumps say how to read what is
// written. They are followed once, when all is written, so that no byte is moved once for each
// object around it.

// A member is a name and a value of an object, already written: the name from start to colon, the
// value up to end.
type member struct {
	start, colon, end int
	rank              uint64 // its place among the members in JavaScript
}

// A jump leaves the text at from, writes sep and reads on at to.
type jump struct {
	from, to int
	sep      byte
}

// arrange notes the jumps of an object that is written in dst from its opening brace on, up to but
// without the closing one.
func (n *normalizer) arrange(dst []byte, brace int, members []member) {
	if len(members) < 2 {
		return
	}
	members = unique(dst, members)
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.rank, b.rank) })
	from, sep := brace, byte('{')
	for _, m := range members {
		n.jump(from, m.start, sep)
		from, sep = m.end, ','
	}
	n.jump(from, len(dst)+1, '}')
}

// jump notes a jump, unless sep is what stands at from and to comes next anyway.
func (n *normalizer) jump(from, to int, sep byte) {
	if to != from+1 {
		n.jumps = append(n.jumps, jump{from, to, sep})
	}
}

// unique ranks members and drops all but the last of an equal name. They come back sorted by name.
func unique(dst []byte, members []member) []member {
	for i := range members {
		members[i].rank = rank(dst[members[i].start+1:members[i].colon-1], i)
	}
	slices.SortFunc(members, func(a, b member) int {
		if c := bytes.Compare(dst[a.start:a.colon], dst[b.start:b.colon]); c != 0 {
			return c
		}
		return cmp.Compare(a.start, b.start)
	})
	kept := members[:1]
	for _, m := range members[1:] {
		last := &kept[len(kept)-1]
		if bytes.Equal(dst[last.start:last.colon], dst[m.start:m.colon]) {
			m.rank = last.rank
			*last = m
			continue
		}
		kept = append(kept, m)
	}
	return kept
}

// rank is the array index that name is, 0 to 2^32-2 without leading zeros, or else more than any
// index and the more the later the member comes.
func rank(name []byte, place int) uint64 {
	other := math.MaxUint32 + uint64(place)
	if len(name) == 0 || len(name) > len("4294967294") || name[0] == '0' && len(name) > 1 {
		return other
	}
	var index uint64
	for _, c := range name {
		if c < '0' || c > '9' {
			return other
		}
		index = index*10 + uint64(c-'0')
	}
	if index >= math.MaxUint32 {
		return other
	}
	return index
}

// follow writes again what dst has from start on, in the order that the jumps give. No two of them
// leave from the same place, for a brace starts one object, and a member ends after all that is in
// it.
func (n *normalizer) follow(dst []byte, start int) []byte {
	slices.SortFunc(n.jumps, func(a, b jump) int { return cmp.Compare(a.from, b.from) })
	n.text = append(n.text[:0], dst[start:]...)
	dst = dst[:start]
	pos := start
	for {
		i, _ := slices.BinarySearchFunc(n.jumps, pos, func(j jump, at int) int { return cmp.Compare(j.from, at) })
		if i == len(n.jumps) {
			return append(dst, n.text[pos-start:]...)
		}
		j := n.jumps[i]
		dst = append(dst, n.text[pos-start:j.from-start]...)
		dst = append(dst, j.sep)
		pos = j.to
	}
}
