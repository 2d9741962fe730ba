package queue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// heartbeatEvery is how often the engine says that it has nothing new: if it has not for twice as long, whoever follows
// a stream asks again.
const heartbeatEvery = time.Second

// prefetched bounds the messages that were asked for and not handled.
const prefetched = 4 << 20

// errGap says that a message is missing: the engine's consumer is to be made again.
var errGap = errors.New("queue: a message did not come")

// follow hands a stream's messages over, in order and without a gap, until something fails. Nothing is acknowledged:
// whoever follows knows where he is, and asks for what is behind that the next time. (jetstream's own ordered consumer
// does that too, but waits up to twenty seconds for an engine that has no leader and then has one again.) caughtUp is
// called when there was nothing to hand over at first.
func (q *Queue) follow(ctx context.Context, stream jetstream.Stream, from jetstream.ConsumerConfig, caughtUp func(), handle func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	connected := q.nc.StatusChanged(nats.CONNECTED)
	defer q.nc.RemoveStatusListener(connected)
	from.AckPolicy, from.MemoryStorage, from.Replicas, from.InactiveThreshold = jetstream.AckNonePolicy, true, 1, time.Minute
	create, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	consumer, err := stream.CreateConsumer(create, from)
	if err != nil {
		return err
	}
	name := consumer.CachedInfo().Name
	defer func() {
		gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond)
		defer cancel()
		_ = stream.DeleteConsumer(gone, name) // else it goes by itself
	}()
	// In a cluster the server that we talk to may not know yet where the consumer is, and drops the first request. An
	// answer from there comes behind that news.
	if _, err := consumer.Info(create); err != nil {
		return err
	}
	// The client has room for a thousand messages and drops what finds none. The engine answers a request with one
	// more, that it is done: so there is only one at a time. If the last message is dropped all the same, no heartbeat
	// comes either.
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(1000, prefetched), jetstream.PullThresholdMessages(1), jetstream.PullHeartbeat(heartbeatEvery))
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		defer messages.Stop()
		select {
		case <-connected: // to an engine that may have forgotten the consumer
		case <-ctx.Done():
		case <-ended:
		}
	}()
	if consumer.CachedInfo().NumPending == 0 {
		caughtUp()
	}
	for next := uint64(1); ; next++ {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		about, err := msg.Metadata()
		if err != nil {
			return err
		}
		if about.Sequence.Consumer != next {
			return errGap
		}
		if err := handle(msg, about); err != nil {
			return err
		}
	}
}

// again calls f until ctx ends, or f returns an error that is not to be tried again, with longer and longer waits.
func again(ctx context.Context, log *limitedLog, what string, f func() (again bool, err error)) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		began := time.Now()
		more, err := f()
		if ctx.Err() != nil || !more {
			return
		}
		log.limited(what, err)
		if time.Since(began) > time.Minute {
			wait = 10 * time.Millisecond
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}
