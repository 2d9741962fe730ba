package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

func TestLoadApps(t *testing.T) {
	load := func(content string) ([]app, error) {
		path := filepath.Join(t.TempDir(), "apps.json")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return loadApps(path)
	}
	for _, form := range []string{`{"appManager.array.apps": [%]}`, `{"appManager": {"array": {"apps": [%]}}}`} {
		before, after, _ := strings.Cut(form, "%")
		apps, err := load(before + `{"id": "1", "key": "k", "secret": "s", "enableClientMessages": true, "maxConnections": 9, "maxClientEventsPerSecond": 3}` + after)
		require.NoError(t, err, form)
		require.Len(t, apps, 1)
		require.Equal(t, "k", apps[0].Key)
		require.True(t, apps[0].EnableClientMessages)
		require.Equal(t, 9, apps[0].MaxConnections)
		require.Equal(t, 3, apps[0].MaxClientEventsPerSecond)
		require.False(t, apps[0].disabled())
	}
	for content, fault := range map[string]string{
		`{"appManager.array.apps": [{"id": "1", "enabled": "no"}]}`:               "enabled",
		`{"appManager.array.apps": [{"id": "1", "webhooks": [{"filters": {}}]}]}`: "filters",
		`{`: "unexpected end", `{}`: "has no apps",
		`{"appManager.array.apps": [{"id": "1", "key": "k"}, {"id": "2", "key": "k"}]}`: `apps "1" and "2" have the same key`,
	} {
		_, err := load(content)
		require.ErrorContains(t, err, fault)
	}
}

func testConfig(t *testing.T, apps []app, o options) webhook.Config {
	t.Helper()
	cfg, err := webhookConfig(apps, o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return cfg
}

func TestExampleFile(t *testing.T) {
	apps, err := loadApps("apps.json")
	require.NoError(t, err)
	cfg := testConfig(t, apps, options{})
	_, err = webhook.New(cfg)
	require.NoError(t, err)
	require.Len(t, cfg.Apps[0].Webhooks, 2)
	require.Equal(t, "-orders", cfg.Apps[0].Webhooks[1].Filter.ChannelNameEndsWith)
}

func TestBatchingFollowsTheEnvironment(t *testing.T) {
	events := func(o options) int { return testConfig(t, nil, o).MaxBatchEvents }
	require.Equal(t, 1, events(options{}), "off, as in soketi")
	require.Zero(t, events(options{demo: true}), "on, unless something else was asked for")
	t.Setenv("WEBHOOKS_BATCHING", "false")
	require.Equal(t, 1, events(options{demo: true}))
	t.Setenv("WEBHOOKS_BATCHING", "true")
	require.Zero(t, events(options{}))
}

func TestTimingIsPushersUnlessSwitchedOff(t *testing.T) {
	for flag, grace := range map[string]time.Duration{"": 3 * time.Second, "-pusher-timing=false": 0} {
		o, err := parse(strings.Fields(flag), io.Discard)
		require.NoError(t, err)
		require.Equal(t, grace, testConfig(t, nil, o).ReconnectGrace, flag)
	}
}

func TestOptions(t *testing.T) {
	o, err := parse(nil, io.Discard)
	require.NoError(t, err)
	require.True(t, o.demo)
	o, err = parse([]string{"-config", "apps.json"}, io.Discard)
	require.NoError(t, err)
	require.False(t, o.demo)
	_, err = parse([]string{"apps.json"}, io.Discard)
	require.ErrorContains(t, err, "unexpected argument")
}
