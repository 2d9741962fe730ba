package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// An appsFile has the apps, in soketi's format. The empty one is none.
type appsFile string

func (f appsFile) load() ([]webhook.App, error) {
	if f == "" {
		return nil, nil
	}
	data, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("-apps: %w", err)
	}
	apps, err := webhook.AppsFromJSON(data)
	for _, a := range apps {
		err = errors.Join(err, a.Validate())
	}
	if err != nil {
		return nil, fmt.Errorf("-apps: %s: %w", f, err)
	}
	return apps, nil
}

// put makes the file's apps, as they were loaded, those of the queue. If anything is wrong with one, nothing changes.
func (f appsFile) put(ctx context.Context, q *queue.Queue, apps []webhook.App, log *slog.Logger) error {
	if f == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := q.ReplaceApps(ctx, apps); err != nil {
		return fmt.Errorf("-apps: %s: %w", f, err)
	}
	log.Info("the queue's apps are those of the file", "apps", len(apps), "file", string(f))
	return nil
}

// follow loads and puts the apps whenever asked to, until ctx ends.
func (f appsFile) follow(ctx context.Context, q *queue.Queue, log *slog.Logger, again <-chan os.Signal) {
	for {
		select {
		case <-again:
		case <-ctx.Done():
			return
		}
		if f == "" {
			log.Info("SIGHUP: without -apps there is no file to read; the apps are the queue's, and always up to date")
			continue
		}
		apps, err := f.load()
		if err == nil {
			err = f.put(ctx, q, apps, log)
		}
		if err != nil {
			log.Error("the apps are not replaced", "error", err)
		}
	}
}
