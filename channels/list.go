package channels

import "sync"

// A link is what a list keeps of a value, inside of the value. A link of nothing is the list's root or a walk's.
type link[T any] struct {
	prev, next *link[T]
	of         *T
}

// A list has values in the order in which they came. Its root closes the ring.
type list[T any] struct{ root link[T] }

func (l *list[T]) init() { l.root.prev, l.root.next = &l.root, &l.root }

func (l *list[T]) add(n *link[T]) { n.insert(&l.root) }

// insert puts n before another link.
func (n *link[T]) insert(before *link[T]) {
	n.prev, n.next = before.prev, before
	n.prev.next, before.prev = n, n
}

func (n *link[T]) remove() {
	n.prev.next, n.next.prev = n.next, n.prev
	n.prev, n.next = nil, nil
}

// chunkSize is how many values are read while a lock is held.
const chunkSize = 64

// A place is where a walk is, and where it will end: it does not follow those who come meanwhile, or it might never end.
type place[T any] struct{ at, end link[T] }

// walk yields what see makes of each value of a list that mu guards. see runs with the lock held, and leaves out a
// value by returning false; yield runs without. A value that is in the list from the beginning to the end is yielded
// once, because the walk keeps its place in the list. It returns false if yield did.
func walk[T, V any](mu *sync.Mutex, l *list[T], see func(*T) (V, bool), yield func(V) bool) bool {
	var p *place[T]
	defer func() { // also if yield panics, or ends the goroutine
		if p != nil {
			mu.Lock()
			defer mu.Unlock()
			p.at.remove()
			p.end.remove()
		}
	}()
	for {
		var chunk [chunkSize]V
		n, more := 0, false
		n, p, more = read(mu, l, p, &chunk, see)
		for _, v := range chunk[:n] {
			if !yield(v) {
				return false
			}
		}
		if !more {
			return true
		}
	}
}

// read sees the next values behind a place, or the first ones where there is none yet. It makes a place only where there
// is more to see: most lists are short.
func read[T, V any](
	mu *sync.Mutex, l *list[T], p *place[T], chunk *[chunkSize]V, see func(*T) (V, bool),
) (n int, left *place[T], more bool) {
	mu.Lock()
	defer mu.Unlock()
	at, end := l.root.next, &l.root
	if p != nil {
		at, end = p.at.next, &p.end
	}
	for looked := 0; at != end && looked < chunkSize; at = at.next {
		if at.of == nil {
			continue // another walk's
		}
		looked++
		if v, ok := see(at.of); ok {
			chunk[n] = v
			n++
		}
	}
	if at == end {
		return n, p, false
	}
	if p == nil {
		p = new(place[T])
		p.end.insert(&l.root)
	} else {
		p.at.remove()
	}
	p.at.insert(at)
	return n, p, true
}
