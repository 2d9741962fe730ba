// Package queue makes webhooks durable: events go into a stream of NATS JetStream, and a worker's Dispatcher delivers
// them from there. See the README, and the package embedded for an engine in the same process.
package queue

import (
	"cmp"
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

// Config is of the streams. They are made by the first process that opens the queue; what a later one leaves zero stays
// as it is.
type Config struct {
	// Partitions is how many ways the events are divided, by app: so many workers can share them at most. It is
	// fixed when the streams are made, and another number is an error then. Default 16.
	Partitions int

	// Replicas is on how many servers everything is stored. Default 3 in a cluster of servers, else 1.
	Replicas int

	// MaxBytes bounds the events that are stored and have not ended. When it is reached nothing is stored until some
	// have, and then Emit returns webhook.ErrQueueFull. Default 1 GiB.
	MaxBytes int64

	// MaxDeadBytes bounds the dead letters. When it is reached the oldest go, and of an app that has a quarter of it
	// the older half. Default 256 MiB.
	MaxDeadBytes int64

	// MaxDeadAge is how long a dead letter is kept. Default seven days.
	MaxDeadAge time.Duration
}

// Names of what the engine keeps.
const (
	eventStream  = "WH_EV"
	deadStream   = "WH_DEAD"
	leaseBucket  = "WH_LEASE"   // p.<partition>: its record; m.<worker>: a sign of life
	routeBucket  = "WH_ROUTES"  // what apps want, for whoever emits
	secretBucket = "WH_SECRETS" // the apps, for workers

	nonceKey      = "webhook.nonce"
	partitionsKey = "webhook.partitions"
)

func eventSubject(partition int) string { return "wh.ev." + strconv.Itoa(partition) }

func recordKey(partition int) string { return "p." + strconv.Itoa(partition) }

// A Queue is the streams of one engine.
type Queue struct {
	nc         *nats.Conn
	js         jetstream.JetStream
	cfg        Config // as the streams are
	partitions int
	leases     jetstream.KeyValue
	routes     jetstream.KeyValue
	secrets    jetstream.KeyValue
}

// Open makes the streams, or checks those that are there and sets their limits to cfg's. ctx bounds it. The connection
// stays the caller's, who should let it reconnect for ever (nats.MaxReconnects(-1)) and close it last.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Queue, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{nc: nc, js: js, cfg: cfg}
	if q.cfg.Replicas == 0 {
		q.cfg.Replicas = 1
		if nc.ConnectedClusterName() != "" {
			q.cfg.Replicas = 3
		}
	}
	if err := q.openEvents(ctx); err != nil {
		return nil, err
	}
	if err := q.openDead(ctx); err != nil {
		return nil, err
	}
	for name, bucket := range map[string]*jetstream.KeyValue{leaseBucket: &q.leases, routeBucket: &q.routes, secretBucket: &q.secrets} {
		if *bucket, err = q.openBucket(ctx, name); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (c Config) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("queue: "+format, args...)) }
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		fault("Partitions: must be from 1 to %d, is %d", maxPartitions, c.Partitions)
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		fault("Replicas: must be from 1 to 5, is %d", c.Replicas)
	}
	for name, bytes := range map[string]int64{"MaxBytes": c.MaxBytes, "MaxDeadBytes": c.MaxDeadBytes} {
		if bytes != 0 && bytes < 2*maxGroupBytes {
			fault("%s: must be at least %d, is %d", name, 2*maxGroupBytes, bytes)
		}
	}
	if c.MaxDeadAge != 0 && c.MaxDeadAge < time.Second {
		fault("MaxDeadAge: must be at least a second, is %v", c.MaxDeadAge)
	}
	return errors.Join(errs...)
}

// maxPartitions is less than the consumers that a stream may have, of which each partition has one.
const maxPartitions = 512

// openEvents makes or checks the stream of events, and notes how many partitions it has.
func (q *Queue) openEvents(ctx context.Context) error {
	info, err := q.openStream(ctx, eventStream, func(old *jetstream.StreamConfig) (jetstream.StreamConfig, error) {
		metadata := map[string]string{nonceKey: rand.Text(), partitionsKey: strconv.Itoa(cmp.Or(q.cfg.Partitions, 16))}
		if old != nil {
			if n := old.Metadata[partitionsKey]; q.cfg.Partitions != 0 && n != metadata[partitionsKey] {
				return *old, fmt.Errorf("it has %q partitions, which cannot be changed to %d", n, q.cfg.Partitions)
			}
			metadata = old.Metadata
		}
		return jetstream.StreamConfig{
			Name: eventStream, Subjects: []string{"wh.ev.*"}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Replicas: q.cfg.Replicas,
			Discard: jetstream.DiscardNew, MaxBytes: limit(q.cfg.MaxBytes, old, 1<<30), Duplicates: 2 * time.Minute, Metadata: metadata,
		}, nil
	})
	if err != nil {
		return err
	}
	q.cfg.MaxBytes = info.Config.MaxBytes
	q.partitions, err = strconv.Atoi(info.Config.Metadata[partitionsKey])
	if err != nil || q.partitions < 1 || q.partitions > maxPartitions {
		return fmt.Errorf("queue: stream %s: its metadata does not say how many partitions it has: %q", eventStream, info.Config.Metadata[partitionsKey])
	}
	q.cfg.Partitions = q.partitions
	return nil
}

func (q *Queue) openDead(ctx context.Context) error {
	info, err := q.openStream(ctx, deadStream, func(old *jetstream.StreamConfig) (jetstream.StreamConfig, error) {
		bytes, age := limit(q.cfg.MaxDeadBytes, old, 256<<20), q.cfg.MaxDeadAge
		if age == 0 && old != nil {
			age = old.MaxAge
		}
		age = cmp.Or(age, 7*24*time.Hour)
		return jetstream.StreamConfig{
			Name: deadStream, Subjects: []string{"wh.dead.*.*"}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Replicas: q.cfg.Replicas,
			Discard: jetstream.DiscardOld, MaxBytes: bytes, MaxAge: age, Duplicates: min(2*time.Minute, age),
			MaxMsgsPerSubject: max(1024, bytes/deadShare/4096), // small ones take room too; see letters.bound for others
		}, nil
	})
	if err == nil {
		q.cfg.MaxDeadBytes, q.cfg.MaxDeadAge = info.Config.MaxBytes, info.Config.MaxAge
	}
	return err
}

// limit is one that is set, or is as it was, or has its default.
func limit(bytes int64, old *jetstream.StreamConfig, otherwise int64) int64 {
	if bytes == 0 && old != nil {
		bytes = old.MaxBytes
	}
	return cmp.Or(bytes, otherwise)
}

// openStream makes a stream, or gives the one that is there the config that want returns. Of two processes that make it
// at the same time the second takes that of the first.
func (q *Queue) openStream(ctx context.Context, name string, want func(old *jetstream.StreamConfig) (jetstream.StreamConfig, error)) (*jetstream.StreamInfo, error) {
	wrap := func(err error) error { return fmt.Errorf("queue: stream %s: %w", name, err) }
	for {
		stream, err := q.js.Stream(ctx, name)
		if err != nil && !isNotFound(err) {
			return nil, wrap(err)
		}
		if err != nil {
			cfg, err := want(nil)
			if err == nil {
				stream, err = q.js.CreateStream(ctx, cfg)
			}
			switch {
			case err == nil:
				return stream.CachedInfo(), nil
			case !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
				return nil, wrap(err)
			}
			continue
		}
		cfg, err := want(&stream.CachedInfo().Config)
		if err != nil {
			return nil, wrap(err)
		}
		if old := stream.CachedInfo().Config; sameLimits(&old, &cfg) {
			return stream.CachedInfo(), nil
		}
		if stream, err = q.js.UpdateStream(ctx, cfg); err != nil {
			return nil, wrap(err)
		}
		return stream.CachedInfo(), nil
	}
}

func sameLimits(a, b *jetstream.StreamConfig) bool {
	return a.MaxBytes == b.MaxBytes && a.MaxAge == b.MaxAge && a.Replicas == b.Replicas && a.MaxMsgsPerSubject == b.MaxMsgsPerSubject && a.Duplicates == b.Duplicates
}

// openBucket makes a bucket, or opens the one that is there. Its stream is one that only the leader is asked for, as
// what a follower says may be old: leases and secrets are decided by what is read.
func (q *Queue) openBucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	_, err := q.openStream(ctx, "KV_"+name, func(old *jetstream.StreamConfig) (jetstream.StreamConfig, error) {
		return jetstream.StreamConfig{
			Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, Storage: jetstream.FileStorage, Replicas: q.cfg.Replicas, MaxMsgsPerSubject: 1,
			MaxBytes: -1, Discard: jetstream.DiscardNew, Duplicates: 2 * time.Minute, AllowRollup: true, DenyDelete: true,
		}, nil
	})
	if err != nil {
		return nil, err
	}
	kv, err := q.js.KeyValue(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("queue: bucket %s: %w", name, err)
	}
	return kv, nil
}

// token is what stands for an app in subjects and keys: an id may hold what has a meaning there.
func token(app string) string {
	hash := sha256.Sum256([]byte(app))
	return hex.EncodeToString(hash[:16])
}
