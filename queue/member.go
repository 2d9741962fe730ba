package queue

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// beatsPerLease is how many signs of life a worker gives within its lease. One that gives none while another worker
// gives so many, and has each acknowledged, is gone. So nobody is gone while the engine answers nobody.
const beatsPerLease = 6

// A heartbeat is a worker's sign of life.
type heartbeat struct {
	Lease  time.Duration `json:"lease,omitempty"`  // how long it may be silent
	Parts  []int         `json:"parts,omitempty"`  // the partitions that it has
	Barred int           `json:"barred,omitempty"` // how many it leaves to others for good, because a newer version wrote them
	Left   bool          `json:"left,omitempty"`   // it has none and takes none: this is its last
}

// A member is another worker.
type member struct {
	heartbeat
	revision uint64
	missed   int // so many of this worker's own beats since
}

// members are the other workers of a queue, as this one knows them.
type members struct {
	q     *Queue
	self  string
	lease time.Duration
	news  chan struct{} // has one if somebody came, left or has other partitions

	mu  sync.Mutex
	all map[string]*member
}

func newMembers(q *Queue, self string, lease time.Duration) *members {
	return &members{q: q, self: self, lease: lease, news: make(chan struct{}, 1), all: make(map[string]*member)}
}

func memberKey(id string) string { return "m." + id }

// learn takes in what the bucket says of a worker.
func (s *members) learn(entry watched) {
	id := entry.key[len(memberKey("")):]
	beat, err := decodeHeartbeat(entry.value)
	if id == s.self || err != nil && len(entry.value) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.all[id]
	if m == nil {
		m = &member{}
		s.all[id] = m
		s.tell()
	}
	if beat.Left != m.Left || beat.Barred != m.Barred || !slices.Equal(beat.Parts, m.Parts) {
		s.tell()
	}
	m.heartbeat, m.revision, m.missed = beat, entry.revision, 0 // of a newer version it is known that it lives
}

func (s *members) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// count is for a beat of this worker that was acknowledged. It returns those who are gone, with the revision of their
// last sign.
func (s *members) count() (gone map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, m := range s.all {
		if m.missed++; s.gone(m) {
			if gone == nil {
				gone = make(map[string]uint64)
			}
			gone[id] = m.revision
		}
	}
	return gone
}

// there returns the workers that are there.
func (s *members) there() (all []heartbeat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.all {
		if !s.gone(m) {
			all = append(all, m.heartbeat)
		}
	}
	return all
}

// gone reports whether a worker has left, or its lease has passed: the first of the beats that were missed may have
// come right after the sign. One with a longer lease than this worker's may miss more of its beats. mu is held.
func (s *members) gone(m *member) bool {
	return m.Left || time.Duration(m.missed) > max(beatsPerLease, (beatsPerLease*m.Lease+s.lease-1)/s.lease)
}

// isGone reports whether the owner of a record is gone: whether it has left, or has been silent for a lease. The
// engine's leader is asked for its last sign, as what this worker was told may be old.
func (s *members) isGone(ctx context.Context, id string) (bool, error) {
	if id == "" || id == s.self {
		return true, nil
	}
	entry, err := s.q.leases.Get(ctx, memberKey(id))
	if isNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	m := s.all[id]
	known := m != nil && m.revision == entry.Revision()
	gone := known && s.gone(m)
	s.mu.Unlock()
	if !known {
		s.learn(watched{memberKey(id), entry.Value(), entry.Revision()})
	}
	return gone, nil
}

// forget deletes the last signs of workers that are gone, so that nobody who comes waits for them. One that has come
// back meanwhile has given a later sign, which stays.
func (s *members) forget(ctx context.Context, gone map[string]uint64) error {
	stream, err := s.q.js.Stream(ctx, "KV_"+leaseBucket)
	if err != nil {
		return err
	}
	for id, revision := range gone {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+leaseBucket+"."+memberKey(id)), jetstream.WithPurgeSequence(revision+1)); err != nil {
			return err
		}
		s.mu.Lock()
		if m := s.all[id]; m != nil && m.revision == revision {
			delete(s.all, id)
		}
		s.mu.Unlock()
	}
	s.tell()
	return nil
}

// beat gives a sign of life.
func (s *members) beat(ctx context.Context, beat heartbeat) error {
	b, err := versioned(beat)
	if err != nil {
		return err
	}
	_, err = s.q.leases.Put(ctx, memberKey(s.self), b)
	return err
}

func decodeHeartbeat(b []byte) (beat heartbeat, err error) {
	if err := checkVersion(b); err != nil {
		return beat, err
	}
	if json.Unmarshal(b[1:], &beat) != nil {
		return heartbeat{}, errPoison
	}
	return beat, nil
}
