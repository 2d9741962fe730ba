package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookspool"
)

// start runs the whole program and returns its URL, and what stops it and returns its result.
func start(t *testing.T, o options) (string, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	lines, log := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- run(ctx, o, slog.New(slog.NewTextHandler(log, nil)))
		_ = log.Close()
	}()
	listening := make(chan string, 1)
	go func() {
		defer close(listening)
		for scanner := bufio.NewScanner(lines); scanner.Scan(); {
			if _, address, found := strings.Cut(scanner.Text(), "msg=listening url="); found {
				listening <- address
			}
		}
	}()
	stop := func() error {
		cancel()
		select {
		case err := <-result:
			return err
		case <-time.After(patience):
			return context.DeadlineExceeded
		}
	}
	t.Cleanup(cancel)
	address, ok := <-listening
	if !ok {
		require.NoError(t, <-result)
	}
	return address, stop
}

func testOptions(t *testing.T) options {
	folder := t.TempDir()
	js := filepath.Join(folder, "pusher.js")
	require.NoError(t, os.WriteFile(js, []byte("// pusher-js"), 0o600))
	return options{
		listen: "127.0.0.1:0", state: filepath.Join(folder, "undelivered"), shutdown: patience, demo: true, pusherJS: js,
	}
}

func get(t *testing.T, address string) string {
	t.Helper()
	answer, err := http.Get(address)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode, address)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return string(body)
}

// The demo, from the page to the webhook that the page is shown.
func TestDemo(t *testing.T) {
	address, stop := start(t, testOptions(t))
	require.Contains(t, get(t, address), "<h1>")
	require.Contains(t, get(t, address+"/pusher.js"), "pusher-js")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/demo/webhooks", nil)
	require.NoError(t, err)
	stream, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer stream.Body.Close()

	c := (&testServer{url: address}).dial(t, demoKey+"?protocol=7")
	var established struct {
		SocketID string `json:"socket_id"`
	}
	decodeText(t, c.until("pusher:connection_established"), &established)
	answer, err := http.PostForm(address+"/demo/auth", url.Values{
		"socket_id": {established.SocketID}, "channel_name": {"presence-a"}, "name": {"Ada"},
	})
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	auth := strings.TrimSpace(string(body))
	c.send("pusher:subscribe", "", json.RawMessage(strings.TrimSuffix(auth, "}")+`,"channel":"presence-a"}`))
	c.until("pusher_internal:subscription_succeeded")

	for scanner := bufio.NewScanner(stream.Body); ; {
		require.True(t, scanner.Scan(), "the stream ended: %v", scanner.Err())
		if strings.Contains(scanner.Text(), `"member_added"`) {
			require.Contains(t, scanner.Text(), `"user_id":"Ada"`)
			break
		}
	}
	require.NoError(t, stop(), "everything has arrived")
}

// What is delivered can be seen at /metrics.
func TestMetrics(t *testing.T) {
	t.Setenv("WEBHOOKS_BATCHING", "false")
	receiver := newReceiver(t)
	a := testApp(receiver)
	o := testOptions(t)
	o.demo, o.config = false, filepath.Join(t.TempDir(), "apps.json")
	require.NoError(t, os.WriteFile(o.config, []byte(fmt.Sprintf(`{"appManager.array.apps": [{
		"id": "app", "key": "key", "secret": "secret",
		"webhooks": [{"url": %q, "event_types": ["channel_occupied", "subscription_count"]}]
	}]}`, receiver.URL)), 0o600))
	address, stop := start(t, o)
	(&testServer{url: address}).connect(t).join(a, "news", "")
	_, err := receiver.Wait(2, patience) // the second is sent when the first, of the same channel, has been counted
	require.NoError(t, err)
	metrics := get(t, address+"/metrics")
	require.Regexp(t, `(?m)^webhook_events_delivered_total [12]$`, metrics)
	require.Regexp(t, `(?m)^webhook_requests_total\{status="2xx"\} [12]$`, metrics)
	require.Regexp(t, `(?m)^webhook_endpoints\{state="failing"\} 0$`, metrics)
	require.Regexp(t, `(?m)^webhook_spool_bytes 0$`, metrics)
	require.Regexp(t, `(?m)^webhook_spool_lost_total 0$`, metrics)
	require.NoError(t, stop())
}

// What a shutdown could not deliver goes out after the next start.
func TestUndeliveredSurvivesARestart(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	rotated := a.App
	rotated.Secret = "new secret"
	for name, cfg := range map[string]webhook.Config{
		"the app is gone":          {},
		"the app has a new secret": {Apps: []webhook.App{rotated}},
	} {
		t.Run(name, func(t *testing.T) {
			receiver.Accept(a.App)
			receiver.Answer(http.StatusServiceUnavailable)
			seen := len(receiver.Requests())
			dir := t.TempDir()
			err := runSpooled(t, dir, webhook.Config{Apps: []webhook.App{a.App}}, 50*time.Millisecond, webhook.ChannelOccupied("news"))
			require.ErrorContains(t, err, "kept in "+dir)

			receiver.Answer(http.StatusOK)
			for _, app := range cfg.Apps {
				receiver.Accept(app)
			}
			require.NoError(t, runSpooled(t, dir, cfg, patience))
			require.Empty(t, spools(t, dir))
			requests := receiver.Requests()[seen:]
			first, last := requests[0], requests[len(requests)-1]
			require.Equal(t, http.StatusOK, last.Status) // so it was well signed
			require.Equal(t, first.ID, last.ID)
			require.Equal(t, first.Events, last.Events)
			if len(cfg.Apps) == 0 {
				require.Equal(t, first.Body, last.Body, "nobody could sign it anew")
			}
		})
	}
}

// runSpooled runs a dispatcher from its start to its end, as the program does.
func runSpooled(t *testing.T, dir string, cfg webhook.Config, time time.Duration, emit ...webhook.Event) error {
	t.Helper()
	spool, err := webhookspool.Open(dir, webhookspool.Config{})
	require.NoError(t, err)
	cfg.Hooks.Undelivered = spool.Undelivered
	d, err := webhook.New(cfg)
	require.NoError(t, err)
	require.NoError(t, spool.Redeliver(d))
	for _, e := range emit {
		require.NoError(t, d.Emit("app", e))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time)
	defer cancel()
	return spool.Close(ctx, d)
}

// spools lists the files with deliveries.
func spools(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	require.NoError(t, err)
	return files
}

// What cannot be read is moved aside, and the server starts.
func TestBrokenStateIsMovedAside(t *testing.T) {
	o := testOptions(t)
	require.NoError(t, os.Mkdir(o.state, 0o700))
	file := filepath.Join(o.state, "00000001.spool")
	require.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	address, stop := start(t, o)
	require.Contains(t, get(t, address), "<h1>")
	require.NoError(t, stop())
	require.NoFileExists(t, file)
	content, err := os.ReadFile(file + ".broken")
	require.NoError(t, err)
	require.Equal(t, "{", string(content))
}

func TestTwoServersDoNotShareTheirState(t *testing.T) {
	o := testOptions(t)
	_, stop := start(t, o)
	require.ErrorIs(t, run(t.Context(), o, slog.New(slog.DiscardHandler)), webhookspool.ErrInUse)
	require.NoError(t, stop())
}
