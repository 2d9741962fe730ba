package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// A storedApp is an app with its secrets: an App's own JSON leaves them out.
type storedApp struct {
	ID, Key, Secret string
	Webhooks        []storedWebhook
}

type storedWebhook struct {
	URL     string
	Types   []webhook.EventType
	Prefix  string
	Suffix  string
	Headers map[string]string
}

func encodeApp(a *webhook.App) ([]byte, error) {
	s := storedApp{ID: a.ID, Key: a.Key, Secret: string(a.Secret)}
	for _, h := range a.Webhooks {
		s.Webhooks = append(s.Webhooks, storedWebhook{h.URL, h.EventTypes, h.Filter.ChannelNameStartsWith, h.Filter.ChannelNameEndsWith, h.Headers})
	}
	b, err := json.Marshal(s)
	return append([]byte{version}, b...), err
}

func decodeApp(b []byte) (a webhook.App, err error) {
	if err := checkVersion(b); err != nil {
		return a, err
	}
	var s storedApp
	if json.Unmarshal(b[1:], &s) != nil {
		return a, errPoison // json's error may quote what is secret
	}
	a = webhook.App{ID: s.ID, Key: s.Key, Secret: webhook.Secret(s.Secret)}
	for _, h := range s.Webhooks {
		a.Webhooks = append(a.Webhooks, webhook.Webhook{URL: h.URL, EventTypes: h.Types, Headers: h.Headers,
			Filter: webhook.Filter{ChannelNameStartsWith: h.Prefix, ChannelNameEndsWith: h.Suffix}})
	}
	return a, nil
}

// StoreApp stores an app, with its secret, so that a later process knows it.
func (q *Queue) StoreApp(ctx context.Context, a webhook.App) error {
	b, err := encodeApp(&a)
	if err == nil {
		_, err = q.apps.Put(ctx, token(a.ID), b)
	}
	if err != nil {
		return fmt.Errorf("queue: app %q not stored: %w", a.ID, err)
	}
	return nil
}

// ForgetApp deletes a stored app, and its secret with it.
func (q *Queue) ForgetApp(ctx context.Context, id string) error {
	if err := q.apps.Purge(ctx, token(id)); err != nil && !isNotFound(err) {
		return fmt.Errorf("queue: app %q not forgotten: %w", id, err)
	}
	return nil
}

// StoredApps returns all that StoreApp has stored.
func (q *Queue) StoredApps(ctx context.Context) (all []webhook.App, err error) {
	watcher, err := q.apps.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("queue: stored apps: %w", err)
	}
	defer func() { _ = watcher.Stop() }()
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if entry == nil || !ok {
				return all, ctx.Err()
			}
			a, err := decodeApp(entry.Value())
			if err != nil {
				return nil, fmt.Errorf("queue: stored app: %w", err)
			}
			all = append(all, a)
		case <-ctx.Done():
			return nil, fmt.Errorf("queue: stored apps: %w", ctx.Err())
		}
	}
}
