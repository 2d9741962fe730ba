package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// startUpSpec asks for how long a process takes to open a directory in which events wait, from a process that has
// put them there.
type startUpSpec struct {
	Dir    string
	Events int
	Single bool // each in a message of its own, as if it had come alone
}

// A filledResult says what is in the directory.
type filledResult struct{ Messages, Bytes float64 }

// measureFill puts the events there. Not synced, since that is not what is measured.
func measureFill(spec startUpSpec) (result filledResult, err error) {
	nc, stop, err := startLocal(filepath.Join(spec.Dir, "store"), false)
	if err != nil {
		return result, err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), childTime)
	defer cancel()
	q, err := queue.Open(ctx, nc, queue.Config{Partitions: 1}) // as embedded's
	if err != nil {
		return result, err
	}
	e, err := q.NewEmitter(queue.EmitterConfig{})
	if err != nil {
		return result, err
	}
	if spec.Single {
		err = fillSingly(ctx, e, nc, spec.Events)
	} else {
		err = fillInGroups(ctx, e, spec.Events)
	}
	if err := errors.Join(err, e.Close(ctx)); err != nil {
		return result, err
	}
	return filled(ctx, nc)
}

func fillInGroups(ctx context.Context, e *queue.Emitter, n int) error {
	events := newSource()
	for i := range n {
		if i%10_000 == 0 {
			if err := e.Flush(ctx); err != nil {
				return err
			}
		}
		if err := e.Emit(appID(0), webhook.MemberAdded(events.event(i))); err != nil {
			return err
		}
	}
	return nil
}

// eventStream is where the queue keeps events.
const eventStream = "WH_EV"

// fillSingly has the queue store one event, and stores the message that this has become as often as is needed.
func fillSingly(ctx context.Context, e *queue.Emitter, nc *nats.Conn, n int) error {
	if err := e.EmitDurable(ctx, appID(0), webhook.MemberAdded(newSource().event(0))); err != nil {
		return err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, eventStream)
	if err != nil {
		return err
	}
	one, err := stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq)
	if err != nil {
		return err
	}
	for range n - 1 {
		if _, err := js.PublishAsync(one.Subject, one.Data, jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func filled(ctx context.Context, nc *nats.Conn) (filledResult, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return filledResult{}, err
	}
	stream, err := js.Stream(ctx, eventStream)
	if err != nil {
		return filledResult{}, err
	}
	state := stream.CachedInfo().State
	return filledResult{float64(state.Msgs), float64(state.Bytes)}, nil
}

// A startUpResult holds nanoseconds from the beginning, and bytes.
type startUpResult struct {
	Open, First, All float64 // until Open returns, something is delivered, everything is
	Peak             float64
}

// measureStartUp opens the directory, with a Sender that accepts at once.
func measureStartUp(spec startUpSpec) (result startUpResult, err error) {
	began, first := time.Now(), make(chan time.Duration, 1)
	q, err := queueSpec{Dir: spec.Dir}.open(webhook.Config{
		Apps: benchApps(1, "http://127.0.0.1"),
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
			select {
			case first <- time.Since(began):
			default:
			}
			return nil
		}),
	})
	if err != nil {
		return result, err
	}
	result.Open = float64(time.Since(began))
	if err := q.await(uint64(spec.Events)); err != nil {
		return result, err
	}
	result.All = float64(time.Since(began))
	if delivered := q.worker().Delivered; delivered != uint64(spec.Events) {
		return result, fmt.Errorf("%d of %d events delivered", delivered, spec.Events)
	}
	result.First = float64(<-first)
	peak, err := peakMemory()
	if err != nil {
		return result, err
	}
	result.Peak = float64(peak)
	return result, q.end()
}
