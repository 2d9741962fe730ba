package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
)

// A storedApp is an app with its secrets, as workers need it: an App's own JSON leaves them out. One that was removed
// has its id only.
type storedApp struct {
	ID       string
	Removed  bool   `json:",omitempty"`
	Key      string `json:",omitempty"`
	Secret   string `json:",omitempty"`
	Webhooks []storedWebhook
}

type storedWebhook struct {
	URL     string
	Types   []webhook.EventType
	Prefix  string            `json:",omitempty"`
	Suffix  string            `json:",omitempty"`
	Headers map[string]string `json:",omitempty"`
}

func encodeApp(a *webhook.App) ([]byte, error) {
	s := storedApp{ID: a.ID, Key: a.Key, Secret: string(a.Secret)}
	for _, h := range a.Webhooks {
		s.Webhooks = append(s.Webhooks, storedWebhook{h.URL, h.EventTypes, h.Filter.ChannelNameStartsWith, h.Filter.ChannelNameEndsWith, h.Headers})
	}
	return versioned(s)
}

// versioned is something as it is stored in a bucket.
func versioned(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append([]byte{version}, b...), err
}

func decodeApp(b []byte) (a webhook.App, removed bool, err error) {
	if err := checkVersion(b); err != nil {
		return a, false, err
	}
	var s storedApp
	if json.Unmarshal(b[1:], &s) != nil {
		return a, false, errPoison // json's error may quote what is secret
	}
	a = webhook.App{ID: s.ID, Key: s.Key, Secret: webhook.Secret(s.Secret)}
	for _, h := range s.Webhooks {
		a.Webhooks = append(a.Webhooks, webhook.Webhook{URL: h.URL, EventTypes: h.Types, Headers: h.Headers,
			Filter: webhook.Filter{ChannelNameStartsWith: h.Prefix, ChannelNameEndsWith: h.Suffix}})
	}
	return a, s.Removed, nil
}

// A storedRoute is what those who emit need to know of an app: what it wants, and neither whereto nor secrets.
type storedRoute struct {
	ID       string
	Revision uint64 // of the app in WH_SECRETS
	Removed  bool   `json:",omitempty"`
	Wants    []storedWants
}

type storedWants struct {
	Types  []webhook.EventType
	Prefix string `json:",omitempty"`
	Suffix string `json:",omitempty"`
}

func routeOf(a *webhook.App) storedRoute {
	r := storedRoute{ID: a.ID}
	for _, h := range a.Webhooks {
		r.Wants = append(r.Wants, storedWants{h.EventTypes, h.Filter.ChannelNameStartsWith, h.Filter.ChannelNameEndsWith})
	}
	return r
}

func decodeRoute(b []byte) (r storedRoute, err error) {
	if err := checkVersion(b); err != nil {
		return r, err
	}
	if json.Unmarshal(b[1:], &r) != nil {
		return r, errPoison
	}
	return r, nil
}

// SetApp adds an app for all nodes and workers, or replaces the one with the same id, and stores it with its secret.
// Workers know it within milliseconds: what was emitted after SetApp is delivered by the new configuration.
func (q *Queue) SetApp(ctx context.Context, a webhook.App) error {
	if err := a.Validate(); err != nil {
		return err
	}
	b, err := encodeApp(&a)
	if err == nil {
		err = q.setApp(ctx, routeOf(&a), b)
	}
	if err != nil {
		return fmt.Errorf("queue: app %q not stored: %w", a.ID, err)
	}
	return nil
}

// RemoveApp removes an app for all nodes and workers, and its secret with it; its id stays in the buckets. What a
// worker has read for it is still delivered, what is queued behind that becomes dead letters of the endpoint
// "_removed".
func (q *Queue) RemoveApp(ctx context.Context, id string) error {
	b, err := versioned(storedApp{ID: id, Removed: true})
	if err == nil {
		err = q.setApp(ctx, storedRoute{ID: id, Removed: true}, b)
	}
	if err != nil {
		return fmt.Errorf("queue: app %q not removed: %w", id, err)
	}
	return nil
}

// setApp has workers know an app before nodes do. Of two calls at once the later secret wins, and so must its route.
func (q *Queue) setApp(ctx context.Context, r storedRoute, app []byte) (err error) {
	key := token(r.ID)
	if r.Revision, err = q.secrets.Put(ctx, key, app); err != nil {
		return err
	}
	b, err := versioned(r)
	if err != nil {
		return err
	}
	for {
		revision := uint64(0)
		switch entry, err := q.routes.Get(ctx, key); {
		case err == nil:
			revision = entry.Revision()
			if later, err := q.isLater(ctx, entry, r.Revision); later || err != nil {
				return err
			}
		case !isNotFound(err):
			return err
		}
		if _, err = q.routes.Update(ctx, key, b, revision); !isConflict(err) {
			return err
		}
	}
}

// isLater reports whether a route is of a later secret than one that was just stored: of that which is there, and not
// of one of before the secrets were replaced by an older copy.
func (q *Queue) isLater(ctx context.Context, route jetstream.KeyValueEntry, than uint64) (bool, error) {
	r, err := decodeRoute(route.Value())
	if errors.Is(err, errNewer) {
		return false, err
	}
	if err != nil || r.Revision <= than {
		return false, nil
	}
	secret, err := q.secrets.Get(ctx, route.Key())
	return err == nil && secret.Revision() != than, err
}

// ReplaceApps makes these all of the queue's apps: it sets those that are new or have changed, and removes those that
// are not among them. It also completes what a SetApp or RemoveApp that has failed left half done.
func (q *Queue) ReplaceApps(ctx context.Context, apps []webhook.App) error {
	wanted := make(map[string]bool, len(apps))
	var errs []error
	for _, a := range apps {
		if errs = append(errs, a.Validate()); wanted[a.ID] {
			errs = append(errs, fmt.Errorf("queue: app %q: is there twice", a.ID))
		}
		wanted[a.ID] = true
	}
	stored, err := q.complete(ctx)
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	for id := range stored {
		if !wanted[id] {
			errs = append(errs, q.RemoveApp(ctx, id))
		}
	}
	for _, a := range apps {
		if b, _ := encodeApp(&a); stored[a.ID] != string(b) {
			errs = append(errs, q.SetApp(ctx, a))
		}
	}
	return errors.Join(errs...)
}

// complete returns the apps that are stored, by id, as they are: empty where the route is not that of the secret.
func (q *Queue) complete(ctx context.Context) (map[string]string, error) {
	routes, all := make(map[string]uint64), make(map[string]string)
	err := each(ctx, q.routes, func(entry jetstream.KeyValueEntry) error {
		if r, err := decodeRoute(entry.Value()); err == nil {
			routes[entry.Key()] = r.Revision
			if !r.Removed {
				all[r.ID] = ""
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = each(ctx, q.secrets, func(entry jetstream.KeyValueEntry) error {
		a, removed, err := decodeApp(entry.Value())
		switch {
		case err != nil || removed:
		case routes[entry.Key()] == entry.Revision():
			all[a.ID] = string(entry.Value())
		default:
			all[a.ID] = ""
		}
		return err
	})
	return all, err
}

// Apps returns the queue's apps, with their secrets, sorted by id.
func (q *Queue) Apps(ctx context.Context) (all []webhook.App, err error) {
	err = each(ctx, q.secrets, func(entry jetstream.KeyValueEntry) error {
		a, removed, err := decodeApp(entry.Value())
		if err == nil && !removed {
			all = append(all, a)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b webhook.App) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// each calls f with all that is stored of apps in a bucket, until it returns an error.
func each(ctx context.Context, bucket jetstream.KeyValue, f func(jetstream.KeyValueEntry) error) error {
	watcher, err := bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("queue: apps: %w", err)
	}
	defer func() { _ = watcher.Stop() }()
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if entry == nil || !ok {
				return ctx.Err()
			}
			if err := f(entry); err != nil {
				return fmt.Errorf("queue: an app: %w", err)
			}
		case <-ctx.Done():
			return fmt.Errorf("queue: apps: %w", ctx.Err())
		}
	}
}

// appNow reads from the engine's leader what is stored of an app: nil if nothing is.
func (q *Queue) appNow(ctx context.Context, id string) (entry jetstream.KeyValueEntry, removed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	entry, err = q.secrets.Get(ctx, token(id))
	if isNotFound(err) {
		return nil, false, nil
	}
	if err == nil {
		_, removed, err = decodeApp(entry.Value())
	}
	return entry, removed, err
}
