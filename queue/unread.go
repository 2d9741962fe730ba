package queue

import "math"

// An unread is a group that is stored. What it has of its apps' shares goes back when a worker of this process has read
// it, or at once if none is known.
type unread struct {
	seq   uint64
	parts []appBytes
}

// giveBack gives back what was read, and reports whether that is anything. p.mu is held.
func (p *part) giveBack() (some bool) {
	next := uint64(math.MaxUint64)
	if w := p.e.cfg.Worker; w != nil {
		next = w.reached(p.n)
	}
	for len(p.unread) > 0 && p.unread[0].seq < next {
		for _, a := range p.unread[0].parts {
			p.e.held.Add(-a.bytes)
			if a.share.own -= a.bytes; a.share.own == 0 {
				delete(p.shares, a.share.app)
				*a.share = share{}
				if len(p.spares) < 1024 {
					p.spares = append(p.spares, a.share)
				}
			}
		}
		p.unread[0] = unread{}
		p.unread, some = p.unread[1:], true
	}
	if len(p.unread) == 0 {
		p.unread = nil
	}
	return some
}

// reached returns the sequence that is read next in a partition. One that stands still for good holds nobody up.
func (w *Worker) reached(partition int) uint64 {
	if w.failure.Load() != nil {
		return math.MaxUint64
	}
	return w.next[partition].Load()
}
