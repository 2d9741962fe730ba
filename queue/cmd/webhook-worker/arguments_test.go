package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// What is wrong is named with its flag and the fix, and neither a URL's userinfo nor anything else secret is told.
func TestWrongArguments(t *testing.T) {
	const nats = "-nats nats://127.0.0.1:1 "
	for args, want := range map[string]string{
		"":                                    "webhook-worker: -nats: is missing; give the URL",
		"nats://me:s3cret@127.0.0.1":          "webhook-worker: argument 1 belongs to no flag",
		"-nats nats://me:s3/cret@127.0.0.1":   "webhook-worker: -nats: URL 1 is not like nats://user:password@host:4222",
		"-nats nats://a,nats://me:s3cret@h:p": "webhook-worker: -nats: URL 2 is not like",
		"-nats nats://127.0.0.1?s3cret":       "webhook-worker: -nats: URL 1 is not like",
		"-nats http://me:s3cret@127.0.0.1":    "webhook-worker: -nats: URL 1: begin it with nats://, tls://",
		nats + "-creds no-such-file":          "webhook-worker: -creds: open no-such-file: no such file",
		nats + "-lease soon":                  `webhook-worker: invalid value "soon" for flag -lease`,
		nats + "-log-level loud":              `webhook-worker: invalid value "loud" for flag -log-level`,
		nats + "-port 1":                      "webhook-worker: flag provided but not defined: -port",
		nats + "partitions":                   "webhook-worker: argument 3 belongs to no flag; subcommands come first",
		"dead":                                "webhook-worker: dead: say what to do: dead ls",
		"dead bury":                           "webhook-worker: dead: say what to do: dead ls",
		"dead ls":                             "webhook-worker dead ls: -nats: is missing",
		"dead ls -before yesterday " + nats:   `webhook-worker dead ls: invalid value "yesterday" for flag -before: must be like 2006-01-02`,
		"dead ls -before -1h " + nats:         `for flag -before: must be like`,
		"dead ls -all " + nats:                "webhook-worker dead ls: flag provided but not defined: -all",
		"dead purge " + nats:                  "webhook-worker dead purge: -app, -endpoint, -id or -before: say which dead letters, or -all",
		"dead replay " + nats:                 "webhook-worker dead replay: -app, -endpoint, -id or -before: say which",
		"dead purge -all -app a " + nats:      "webhook-worker dead purge: -all: leave it out, or the filters",
		"partitions":                          "webhook-worker partitions: -nats: is missing",
		"partitions -app a " + nats:           "webhook-worker partitions: flag provided but not defined: -app",
		"dead ls -id -1 " + nats:              `webhook-worker dead ls: invalid value "-1" for flag -id`,
	} {
		out, errs, code := ctl(t, strings.Fields(args)...)
		require.Equal(t, exitUsage, code, args)
		require.Empty(t, out, args)
		require.Contains(t, errs, want, args)
		require.Contains(t, errs, " -h\n", args)
		require.NotContains(t, errs, "s3", args)
		require.NotContains(t, errs, "cret", args)
	}
}

// What only the attempt shows ends with another code.
func TestFailures(t *testing.T) {
	url := startNATS(t, server.Options{}).ClientURL()
	broken := filepath.Join(t.TempDir(), "apps.json")
	require.NoError(t, os.WriteFile(broken, []byte(`[{"id": "a", "key": "k", "secret": "s3cret", "webhooks": [{"url": "ftp://me:s3cret@h?s3cret"}]}]`), 0o600))
	for args, want := range map[string]string{
		"-nats nats://me:s3cret@127.0.0.1:1":        "webhook-worker: -nats: no connection to nats://127.0.0.1:1: ",
		"dead ls -nats " + url:                      "webhook-worker: -nats: there is no queue on this server yet",
		"partitions -nats " + url:                   "webhook-worker: -nats: there is no queue on this server yet",
		"-nats " + url + " -metrics 127.0.0.1:port": "webhook-worker: -metrics: listen tcp",
		"-nats " + url + " -apps no-such-file":      "webhook-worker: -apps: open no-such-file: no such file",
		"-nats " + url + " -apps " + broken:         "webhook-worker: -apps: " + broken + ": ",
		"-nats " + url + " -partitions 9999":        "webhook-worker: queue: Partitions: must be from 1 to",
	} {
		out, errs, code := ctl(t, strings.Fields(args)...)
		require.Equal(t, exitFailed, code, "%s\n%s", args, errs)
		require.Empty(t, out, args)
		require.Contains(t, errs, want, args)
		require.NotContains(t, errs, "s3cret", args)
	}
}

// A server without JetStream is not waited for.
func TestWithoutJetStream(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(soon))
	for _, command := range []string{"", "dead ls", "partitions"} {
		began := time.Now()
		_, errs, code := ctl(t, append(strings.Fields(command), "-nats", s.ClientURL())...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "JetStream is not enabled there (nats-server -js)")
		require.Less(t, time.Since(began), patience/2)
	}
}

func TestHelp(t *testing.T) {
	for command, text := range map[string]string{
		"":            "webhook-worker dead purge -nats URL [filters]",
		"dead ls":     "Lists dead letters",
		"dead replay": "Puts dead letters back",
		"dead purge":  "Deletes dead letters",
		"partitions":  "EPOCH",
	} {
		t.Setenv("NATS_URL", "nats://me:s3cret@127.0.0.1")
		out := succeeds(t, append(strings.Fields(command), "-h")...)
		require.Contains(t, out, text)
		require.Contains(t, out, "-creds file")
		require.NotContains(t, out, "s3cret")
	}
}

// The environment says where NATS is, so that a password is not among the arguments.
func TestURLFromTheEnvironment(t *testing.T) {
	t.Setenv("NATS_URL", "nats://me:s3cret@127.0.0.1:1")
	var s natsServer
	a := newArguments("test", "")
	s.flags(a)
	require.NoError(t, a.parse(nil, nil))
	require.Equal(t, "nats://me:s3cret@127.0.0.1:1", s.url)
	require.NoError(t, a.parse([]string{"-nats", "nats://127.0.0.1:2"}, nil))
	require.Equal(t, "nats://127.0.0.1:2", s.url)
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"1h30m":                now.Add(-90 * time.Minute),
		"2026-05-01":           time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		"2026-05-01T10:00:00Z": time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC),
	} {
		got, err := parseTime(text, now)
		require.NoError(t, err, text)
		require.True(t, want.Equal(got), "%s: %v", text, got)
	}
}
