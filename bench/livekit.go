package main

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/livekit/protocol/livekit"
	livekithook "github.com/livekit/protocol/webhook"
)

// openLiveKit opens notifiers whose workers' queues hold a chunk together. Their endpoint accepts connections and never
// answers, so that only queueing is measured, without the cost of sending beside it.
func openLiveKit(c emitCase) (emitter, error) {
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return emitter{}, err
	}
	var dropped atomic.Int64
	notifiers := make([][]*livekithook.URLNotifier, c.apps())
	events := newLiveKitEvents()
	open := func() error {
		for a := range notifiers {
			for _, n := range notifiers[a] {
				n.Stop(true)
			}
			notifiers[a] = nil
			for range c.Copies {
				notifiers[a] = append(notifiers[a], newLiveKit("http://"+hanging.Addr().String(), chunk/4, c.Type, &dropped))
			}
			for _, n := range notifiers[a] {
				for _, event := range events { // its workers start, and allocate their queues, with their first event
					if err := n.QueueNotify(context.Background(), event); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	if err := open(); err != nil {
		return emitter{}, err
	}
	return emitter{
		emit: func(worker, i int) error {
			for _, n := range notifiers[c.app(worker)] {
				if err := n.QueueNotify(context.Background(), events[i%eventNames]); err != nil {
					return err
				}
			}
			return nil
		},
		renew: open,
		lost:  func(int) int { return int(dropped.Load()) },
	}, nil
}

// newLiveKit returns a notifier that counts what it drops. If only is set, it wants nothing but that type.
func newLiveKit(url string, queue int, only string, dropped *atomic.Int64) *livekithook.URLNotifier {
	params := livekithook.URLNotifierParams{
		URL: url, APIKey: appKey, APISecret: appSecret,
		Config: livekithook.URLNotifierConfig{NumWorkers: unbatchedInFlight, QueueSize: queue},
	}
	if only != "" {
		params.IncludeEvents = []string{only}
	}
	livekithook.InitWebhookStats(nil) // it counts into these, and panics without
	n := livekithook.NewURLNotifier(params)
	n.RegisterProcessedHook(func(_ context.Context, info *livekit.WebhookInfo) {
		if info.IsDropped {
			dropped.Add(1)
		}
	})
	return n
}

// newLiveKitEvents makes the events beforehand: how a caller builds one is not the notifier's cost.
func newLiveKitEvents() []*livekit.WebhookEvent {
	source := newSource()
	events := make([]*livekit.WebhookEvent, eventNames)
	for i := range events {
		channel, user := source.event(i)
		events[i] = &livekit.WebhookEvent{
			Event:       livekithook.EventParticipantJoined,
			Room:        &livekit.Room{Name: channel},
			Participant: &livekit.ParticipantInfo{Identity: user},
		}
	}
	return events
}

// livekitSender is LiveKit's notifier against a real receiver.
func openLiveKitSender(spec sendSpec) (eventSender, error) {
	const queue = 100 // the default, of each worker
	var dropped atomic.Int64
	room := make(chan struct{}, queue)
	n := newLiveKit(spec.URL, queue, "", &dropped)
	n.RegisterProcessedHook(func(context.Context, *livekit.WebhookInfo) { <-room })
	events := newLiveKitEvents()
	return eventSender{
		send: func(count int) error {
			for i := range count {
				room <- struct{}{} // all that is queued fits into one worker's queue, so nothing is dropped
				if err := n.QueueNotify(context.Background(), events[i%eventNames]); err != nil {
					return err
				}
			}
			for range queue { // full of our own: everything has been processed
				room <- struct{}{}
			}
			for range queue {
				<-room
			}
			return nil
		},
		close: func() error { n.Stop(false); return nil },
	}, nil
}
