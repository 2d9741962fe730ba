// Package queue makes webhooks durable: events go into a stream of NATS JetStream, and a worker's Dispatcher delivers them
// from there. See the README, and the package embedded for an engine in the same process.
package queue

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config is of the streams. The zero value of every field means its default.
type Config struct {
	// MaxBytes bounds the events that are stored and have not ended. When it is reached nothing is stored until some
	// have, and then Emit returns webhook.ErrQueueFull. Default 1 GiB.
	MaxBytes int64

	// MaxDeadBytes bounds the dead letters. When it is reached the oldest go, and of an endpoint that has a quarter of it
	// the older half. Default 256 MiB.
	MaxDeadBytes int64

	// MaxDeadAge is how long a dead letter is kept. Default seven days.
	MaxDeadAge time.Duration
}

// Names of what the engine keeps.
const (
	eventStream  = "WH_EV"
	deadStream   = "WH_DEAD"
	recordBucket = "WH_LEASE"
	appBucket    = "WH_SECRETS"

	nonceKey      = "webhook.nonce"
	partitionsKey = "webhook.partitions"
)

func eventSubject(partition int) string { return "wh.ev." + strconv.Itoa(partition) }

// A Queue is the streams of one engine.
type Queue struct {
	nc         *nats.Conn
	js         jetstream.JetStream
	cfg        Config
	partitions int
	records    jetstream.KeyValue
	apps       jetstream.KeyValue
}

// Open creates the streams, or checks those that are there and sets their limits to cfg's. ctx bounds it.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Queue, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{nc: nc, js: js, cfg: cfg, partitions: 1}
	if err := q.openEvents(ctx); err != nil {
		return nil, err
	}
	if err := q.openDead(ctx); err != nil {
		return nil, err
	}
	if q.records, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: recordBucket, Storage: jetstream.FileStorage}); err != nil {
		return nil, fmt.Errorf("queue: bucket %s: %w", recordBucket, err)
	}
	if q.apps, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: appBucket, Storage: jetstream.FileStorage}); err != nil {
		return nil, fmt.Errorf("queue: bucket %s: %w", appBucket, err)
	}
	return q, nil
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.MaxDeadBytes == 0 {
		c.MaxDeadBytes = 256 << 20
	}
	if c.MaxDeadAge == 0 {
		c.MaxDeadAge = 7 * 24 * time.Hour
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	for _, limit := range []struct {
		name  string
		bytes int64
	}{{"MaxBytes", c.MaxBytes}, {"MaxDeadBytes", c.MaxDeadBytes}} {
		if limit.bytes < 2*maxGroupBytes {
			errs = append(errs, fmt.Errorf("queue: %s: must be at least %d, is %d", limit.name, 2*maxGroupBytes, limit.bytes))
		}
	}
	if c.MaxDeadAge < time.Second {
		errs = append(errs, fmt.Errorf("queue: MaxDeadAge: must be at least a second, is %v", c.MaxDeadAge))
	}
	return errors.Join(errs...)
}

func (q *Queue) openEvents(ctx context.Context) error {
	metadata := map[string]string{nonceKey: rand.Text(), partitionsKey: strconv.Itoa(q.partitions)}
	switch s, err := q.js.Stream(ctx, eventStream); {
	case err == nil:
		if n := s.CachedInfo().Config.Metadata[partitionsKey]; n != metadata[partitionsKey] {
			return fmt.Errorf("queue: stream %s has %q partitions, which cannot be changed to %d", eventStream, n, q.partitions)
		}
		metadata[nonceKey] = s.CachedInfo().Config.Metadata[nonceKey]
	case !isNotFound(err):
		return fmt.Errorf("queue: stream %s: %w", eventStream, err)
	}
	_, err := q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: eventStream, Subjects: []string{"wh.ev.*"}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		Discard: jetstream.DiscardNew, MaxBytes: q.cfg.MaxBytes, Duplicates: 2 * time.Minute, Metadata: metadata,
	})
	if err != nil {
		return fmt.Errorf("queue: stream %s: %w", eventStream, err)
	}
	return nil
}

func (q *Queue) openDead(ctx context.Context) error {
	_, err := q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: deadStream, Subjects: []string{"wh.dead.*.*"}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		Discard: jetstream.DiscardOld, MaxBytes: q.cfg.MaxDeadBytes, MaxAge: q.cfg.MaxDeadAge, Duplicates: min(2*time.Minute, q.cfg.MaxDeadAge),
		MaxMsgsPerSubject: max(1024, q.cfg.MaxDeadBytes/deadShare/4096), // small ones take room too; see letters.bound for others
	})
	if err != nil {
		return fmt.Errorf("queue: stream %s: %w", deadStream, err)
	}
	return nil
}

// token is what stands for an app in subjects and keys: an id may hold what has a meaning there.
func token(app string) string {
	hash := sha256.Sum256([]byte(app))
	return hex.EncodeToString(hash[:16])
}
