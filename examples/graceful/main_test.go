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
		if err := run(url, os.Getenv("GRACEFUL_FILE"), 100*time.Millisecond); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process runs the server until it has accepted n events, stops it with SIGTERM, and returns how many it has
// accepted in all.
func process(t *testing.T, url, file string, n int) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "GRACEFUL_URL="+url, "GRACEFUL_FILE="+file)
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

// A server that is stopped while its endpoint is down, and started again when that is up: every event that it
// accepted arrives, in order, and by Webhook-Id exactly once.
func TestNothingIsLostOverARestart(t *testing.T) {
	app := webhook.App{ID: "app", Key: "app-key", Secret: "app-secret"}
	backend := webhooktest.NewReceiver(app)
	defer backend.Close()
	file := filepath.Join(t.TempDir(), "undelivered.json")

	backend.Answer(http.StatusServiceUnavailable)
	first := process(t, backend.URL, file, 50)
	require.Empty(t, backend.Events())
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	second := process(t, backend.URL, file, 20) // still down: the file grows
	require.Empty(t, backend.Events())

	backend.Answer(http.StatusOK)
	third := process(t, backend.URL, file, 20)
	left, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "null", string(left), "nothing is left to deliver")

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
