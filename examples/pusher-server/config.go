package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/pusherhooks/webhook"
)

// An app is one entry of soketi's app list: what the library needs and, beside it, what this server adds.
type app struct {
	webhook.App
	Enabled                  *bool `json:"enabled"` // default true
	EnableClientMessages     bool  `json:"enableClientMessages"`
	MaxClientEventsPerSecond int   `json:"maxClientEventsPerSecond"` // of one socket; 0 is Pusher's 10, less is no limit
	MaxConnections           int   `json:"maxConnections"`           // sockets at a time; 0 is 10 000, less is no limit
}

func (a *app) disabled() bool { return a.Enabled != nil && !*a.Enabled }

// loadApps reads the apps of soketi's configuration file. Their contents are checked by webhook.New.
func loadApps(path string) ([]app, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Flat   []app `json:"appManager.array.apps"` // as soketi's documentation has it
		Nested struct {
			Array struct {
				Apps []app `json:"apps"`
			} `json:"array"`
		} `json:"appManager"` // as soketi reads it, too
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	apps := append(file.Flat, file.Nested.Array.Apps...)
	if len(apps) == 0 {
		return nil, fmt.Errorf("%s: has no apps in \"appManager.array.apps\"", path)
	}
	return apps, uniqueKeys(apps)
}

// uniqueKeys checks what the library has no need to: it goes by id, a socket comes with a key.
func uniqueKeys(apps []app) error {
	seen := make(map[string]string)
	var errs []error
	for _, a := range apps {
		if id, taken := seen[a.Key]; taken {
			errs = append(errs, fmt.Errorf("apps %q and %q have the same key", id, a.ID))
		}
		seen[a.Key] = a.ID
	}
	return errors.Join(errs...)
}
