package channels

import "sync"

// A link is what a list keeps of a value, inside of the value. A link of nothing is the list's root or a cursor.
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

// walk yields what see makes of each value of a list that mu guards. see runs with the lock held, and leaves out a
// value by returning false; yield runs without. A value that is in the list from the beginning to the end is yielded
// once, because the walk keeps its place with a cursor in the list. It returns false if yield did.
func walk[T, V any](mu *sync.Mutex, l *list[T], see func(*T) (V, bool), yield func(V) bool) bool {
	var cursor *link[T]
	defer func() { // also if yield panics, or ends the goroutine
		if cursor != nil {
			mu.Lock()
			cursor.remove()
			mu.Unlock()
		}
	}()
	for {
		var chunk [chunkSize]V
		n, more := 0, false
		n, cursor, more = read(mu, l, cursor, &chunk, see)
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

// read sees the next values behind the cursor, or the first ones where there is none yet. It leaves a cursor only where
// there is more to see: most lists are short.
func read[T, V any](
	mu *sync.Mutex, l *list[T], cursor *link[T], chunk *[chunkSize]V, see func(*T) (V, bool),
) (n int, left *link[T], more bool) {
	mu.Lock()
	defer mu.Unlock()
	at := l.root.next
	if cursor != nil {
		at = cursor.next
		cursor.remove()
	}
	for looked := 0; at != &l.root && looked < chunkSize; at = at.next {
		if at.of == nil {
			continue // another walk's cursor
		}
		looked++
		if v, ok := see(at.of); ok {
			chunk[n] = v
			n++
		}
	}
	if at == &l.root {
		return n, nil, false
	}
	if cursor == nil {
		cursor = new(link[T])
	}
	cursor.insert(at)
	return n, cursor, true
}
