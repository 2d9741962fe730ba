package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
	"github.com/pusherhooks/webhook/queue"
)

// eventsPerRound are those that a user makes: one comes, says something and goes.
const eventsPerRound = 3

const room = "presence-room"

// A node has the sockets of some apps, and emits what their users do. In each round one user comes to each app's channel, says
// something and goes. The user's id is the node's run and the round, so the receiver knows what it should get.
type node struct {
	tracker *channels.Tracker
	emitter *queue.Emitter
	job     job
	rounds  atomic.Int64
	refused atomic.Int64
}

func emit(ctx context.Context, j job) error {
	nc, q, err := join(ctx, j.NATS, logger())
	if err != nil {
		return err
	}
	defer nc.Close()
	e, err := q.NewEmitter(queue.EmitterConfig{Logger: logger()})
	if err != nil {
		return err
	}
	n := &node{emitter: e, job: j}
	n.tracker = channels.New(e, channels.Options{Node: j.Name, Rejected: n.rejected})
	for _, app := range j.Apps { // somebody who stays
		host, err := n.tracker.Connect(appID(app), "host")
		if err == nil {
			_, err = host.Subscribe(room, channels.Member{UserID: "host"})
		}
		if err != nil {
			return err
		}
	}
	ready("")
	reported := make(chan struct{})
	reporting, stop := context.WithCancel(context.Background())
	go func() {
		defer close(reported)
		for n.report(reporting) {
		}
	}()
	err = n.run(ctx)
	stop()
	<-reported
	closing, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if failed := errors.Join(n.tracker.Flush(closing), e.Close(closing)); failed != nil {
		return failed
	}
	fmt.Println("stored", n.rounds.Load())
	if refused := n.refused.Load(); refused > 0 {
		return fmt.Errorf("%d events were refused", refused)
	}
	return err
}

func (n *node) rejected(app string, e webhook.Event, err error) {
	if n.refused.Add(1) == 1 {
		logger().Error("refused", "app", app, "type", e.Type, "error", err)
	}
}

// run does round after round until ctx ends.
func (n *node) run(ctx context.Context) error {
	tick := time.NewTicker(time.Duration(float64(time.Second) / n.job.Rate))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		round := n.rounds.Load()
		for _, app := range n.job.Apps {
			if err := n.visit(appID(app), fmt.Sprintf("%d.%d", n.job.Run, round)); err != nil {
				return err
			}
		}
		n.rounds.Add(1)
	}
}

// visit is what one user does.
func (n *node) visit(app, user string) error {
	socket, err := n.tracker.Connect(app, user)
	if err != nil {
		return err
	}
	defer socket.Leave()
	if _, err := socket.Subscribe(room, channels.Member{UserID: user}); err != nil {
		return err
	}
	now, err := json.Marshal(time.Now().UnixMicro())
	if err != nil {
		return err
	}
	return socket.ClientEvent(room, "client-hello", now)
}

// report says how many rounds are stored. It waits until they are, in an election for seconds.
func (n *node) report(ctx context.Context) bool {
	rounds := n.rounds.Load()
	if n.tracker.Flush(ctx) != nil || n.emitter.Flush(ctx) != nil {
		return false
	}
	fmt.Println("stored", rounds)
	select {
	case <-time.After(20 * time.Millisecond):
		return true
	case <-ctx.Done():
		return false
	}
}
