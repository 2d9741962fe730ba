package queue

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// A clockedBucket is one of an engine whose clock is behind this one's.
type clockedBucket struct {
	jetstream.KeyValue
	behind time.Duration
}

type clockedEntry struct {
	jetstream.KeyValueEntry
	created time.Time
}

func (e clockedEntry) Created() time.Time { return e.created }

func (b clockedBucket) Update(context.Context, string, []byte, uint64) (uint64, error) {
	return 1, nil
}

func (b clockedBucket) Get(context.Context, string) (jetstream.KeyValueEntry, error) {
	return clockedEntry{created: time.Now().Add(-b.behind)}, nil
}

// Events' ages are by the engine's clock. Also the first owner of a partition finds out how far his is off.
func TestAnOwnerWhoseClockIsOff(t *testing.T) {
	for _, behind := range []time.Duration{time.Hour, -time.Hour} {
		w := &Worker{q: &Queue{partitions: 1, leases: clockedBucket{behind: behind}}}
		w.cfg.Lease = 3 * time.Second
		r := newReader(w, 0)
		r.track = newTracking(record{Next: positionOf(1, 0)})
		require.NoError(t, r.own(t.Context()))
		require.WithinDuration(t, time.Now(), r.when(time.Now().Add(-behind), 1, 0), time.Minute)
	}
}
