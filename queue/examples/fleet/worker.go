package main

import (
	"context"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// work delivers its share of the partitions, and hands them over in the end. It is the command webhook-worker in short.
func work(ctx context.Context, j job) error {
	nc, q, err := join(ctx, j.NATS, logger())
	if err != nil {
		return err
	}
	defer nc.Close()
	w, err := q.NewWorker(queue.WorkerConfig{Config: webhook.Config{Logger: logger()}})
	if err != nil {
		return err
	}
	ready("")
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = w.Close(closing)
	logger().Info("stopped", "stats", w.Stats())
	return err
}
