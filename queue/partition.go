package queue

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// partitionOf returns the partition of an app. It is never changed: what is stored was divided by it.
func partitionOf(app string, partitions int) int {
	if partitions == 1 {
		return 0
	}
	return int(appHash(app) % uint32(partitions))
}

func appHash(app string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(app))
	return h.Sum32()
}

// A PartitionStatus says how far a partition has got, as of its record.
type PartitionStatus struct {
	Partition int
	Owner     string    // a worker's id; empty: nobody
	Epoch     uint64    // how often it was taken
	Messages  uint64    // stored, a group of events each
	Recorded  time.Time // when the record was written; zero: never
	Pending   int       // endpoints that have not finished what was read
	Held      int       // events that timing rules hold
}

// Partitions returns the status of all partitions, in order.
func (q *Queue) Partitions(ctx context.Context) ([]PartitionStatus, error) {
	waiting, err := q.waiting(ctx)
	if err != nil {
		return nil, fmt.Errorf("queue: partitions: %w", err)
	}
	all := make([]PartitionStatus, q.partitions)
	for n := range all {
		s := &all[n]
		s.Partition, s.Messages = n, waiting[n]
		entry, err := q.leases.Get(ctx, recordKey(n))
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("queue: record %d: %w", n, err)
		}
		rec, err := decodeRecord(entry.Value())
		if err != nil {
			return nil, fmt.Errorf("queue: record %d: %w", n, err)
		}
		s.Owner, s.Epoch, s.Recorded, s.Pending, s.Held = rec.Owner, rec.Epoch, entry.Created(), len(rec.Pend), len(rec.Held)
	}
	return all, nil
}

// waiting returns how many messages of each partition are stored.
func (q *Queue) waiting(ctx context.Context) ([]uint64, error) {
	stream, err := q.js.Stream(ctx, eventStream)
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("wh.ev.*"))
	if err != nil {
		return nil, err
	}
	all := make([]uint64, q.partitions)
	for n := range all {
		all[n] = info.State.Subjects[eventSubject(n)]
	}
	return all, nil
}
