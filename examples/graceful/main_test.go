package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

// TestMain lets the test binary be the server itself.
func TestMain(m *testing.M) {
	if url := os.Getenv("GRACEFUL_URL"); url != "" {
		if err := run(url, os.Getenv("GRACEFUL_DIR"), 100*time.Millisecond); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process runs the server until it has accepted n events, stops it with SIGTERM, and returns how many it has
// accepted in all.
func process(t *testing.T, url, dir string, n int) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "GRACEFUL_URL="+url, "GRACEFUL_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	accepted := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		require.Equal(t, "accepted "+strconv.Itoa(accepted), lines.Text())
		if accepted++; accepted == n {
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		}
	}
	require.NoError(t, cmd.Wait())
	return accepted
}

// stored lists the files with deliveries.
func stored(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	require.NoError(t, err)
	return files
}

// A server that is stopped while its endpoint is down, and started again when that is up: every event that it
// accepted arrives, in order, and by Webhook-Id exactly once.
func TestNothingIsLostOverARestart(t *testing.T) {
	app := webhook.App{ID: "app", Key: "app-key", Secret: "app-secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	dir := filepath.Join(t.TempDir(), "undelivered")

	backend.Answer(http.StatusServiceUnavailable)
	first := process(t, backend.URL, dir, 50)
	require.Empty(t, backend.Events())
	require.NotEmpty(t, stored(t, dir))

	second := process(t, backend.URL, dir, 20) // still down: more is stored
	require.Empty(t, backend.Events())

	backend.Answer(http.StatusOK)
	third := process(t, backend.URL, dir, 20)
	require.Empty(t, stored(t, dir), "nothing is left to deliver")

	var got, want []string
	for _, e := range backend.Events() { // each Webhook-Id once
		got = append(got, strconv.Itoa(e.SubscriptionCount))
	}
	for _, accepted := range []int{first, second, third} {
		for i := range accepted {
			want = append(want, strconv.Itoa(i))
		}
	}
	require.Equal(t, strings.Join(want, " "), strings.Join(got, " "))
	require.NotEmpty(t, backend.Requests()[0].ID)
}
