package main

import (
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// What was emitted before and after the worker's start arrives, and is counted at /metrics.
func TestDeliver(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	e := newEmitter(t, openQueue(t, url))
	emit(t, e, "app", 1, 2)
	w := startWorker(t, "-nats", url, "-apps", appsFileFor(t, r, "app"))
	emit(t, e, "app", 3)
	_, err := r.Wait(3, soon)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3}, counts(r))

	status, text := w.get("/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", text)
	for _, line := range []string{
		"webhook_events_delivered_total 3", "webhook_worker_read_events_total 3", "webhook_worker_dead_events_total 0", "webhook_worker_up 1",
		"webhook_worker_rewound_total 0", "webhook_worker_poison_messages_total 0", `webhook_endpoints{state="failing"} 0`, "webhook_worker_partitions ",
	} {
		eventually(t, func() bool { _, text = w.get("/metrics"); return strings.Contains(text, "\n"+line) }, "no %s", line)
	}
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ends(), w.log())
}

// With SIGTERM a worker hands over: what it could not deliver the next one delivers, and nothing twice.
func TestHandOver(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	apps := appsFileFor(t, r, "app")
	first := startWorker(t, "-nats", url, "-apps", apps)
	e := newEmitter(t, openQueue(t, url))
	emit(t, e, "app", 1)
	_, err := r.Wait(1, soon)
	require.NoError(t, err)
	r.Answer(http.StatusServiceUnavailable)
	emit(t, e, "app", 2, 3)
	eventually(t, func() bool { return len(r.Requests()) > 1 }, "it is not tried")
	first.signal(syscall.SIGTERM)
	require.Zero(t, first.ends(), first.log())
	require.Equal(t, map[string]int{"-": 16}, owners(t, url), "the partitions are nobody's")

	emit(t, e, "app", 4)
	r.Answer(http.StatusOK)
	second := startWorker(t, "-nats", url)
	_, err = r.Wait(4, soon)
	require.NoError(t, err)
	second.signal(syscall.SIGINT)
	require.Zero(t, second.ends(), second.log())
	require.Equal(t, []int{1, 2, 3, 4}, counts(r))
}

// An endpoint that holds a request keeps the worker from handing over at once. A second signal ends it.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	w := startWorker(t, "-nats", url, "-apps", appsFileFor(t, r, "app"))
	r.Hang()
	t.Cleanup(r.Release)
	emit(t, newEmitter(t, openQueue(t, url)), "app", 1)
	eventually(t, func() bool { return len(r.Requests()) > 0 }, "it is not tried")
	w.signal(syscall.SIGTERM)
	w.says("handing over")
	began := time.Now()
	w.signal(syscall.SIGTERM)
	require.NotZero(t, w.ends())
	require.Less(t, time.Since(began), 2*time.Second)
}

// SIGHUP makes the apps of the changed file those of the queue; a file with a fault changes nothing.
func TestAppsAreReadAgainAtSIGHUP(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	path := appsFileFor(t, r, "app")
	w := startWorker(t, "-nats", url, "-apps", path)
	e := newEmitter(t, openQueue(t, url))

	require.NoError(t, os.WriteFile(path, []byte(`[{"id": "app", "key": "k", "secret": "s3cret", "webhooks": [{"url": "http://me:s3cret@127.0.0.1/?s3cret", "event_typs": []}]}]`), 0o600))
	w.signal(syscall.SIGHUP)
	w.says("the apps are not replaced")
	require.Contains(t, w.log(), `unknown key \"event_typs\"`)
	require.NotContains(t, w.log(), "s3cret")
	emit(t, e, "app", 1)
	_, err := r.Wait(1, soon)
	require.NoError(t, err)

	writeApps(t, path, r, "app", "new")
	w.signal(syscall.SIGHUP)
	w.says("apps=2")
	emit(t, e, "new", 2)
	_, err = r.Wait(2, soon)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, counts(r))
}

// Without NATS nobody knows what there is to do, and /healthz says so. When it is back everything goes on.
func TestHealthWithoutNATS(t *testing.T) {
	dir, r := t.TempDir(), newReceiver(t)
	nats := startNATS(t, server.Options{StoreDir: dir})
	port := nats.Addr().(*net.TCPAddr).Port
	w := startWorker(t, "-nats", nats.ClientURL(), "-apps", appsFileFor(t, r, "app"))
	e := newEmitter(t, openQueue(t, nats.ClientURL()))

	nats.Shutdown()
	nats.WaitForShutdown()
	eventually(t, func() bool { status, _ := w.get("/healthz"); return status == http.StatusServiceUnavailable }, "it is well without NATS")
	status, text := w.get("/healthz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "no connection to NATS\n", text)
	_, text = w.get("/metrics")
	require.Contains(t, text, "\nwebhook_worker_up 0\n")

	startNATS(t, server.Options{StoreDir: dir, Port: port})
	eventually(t, func() bool { status, _ := w.get("/healthz"); return status == http.StatusOK }, "it is not well with NATS")
	emit(t, e, "app", 1)
	_, err := r.Wait(1, soon)
	require.NoError(t, err)
}

// With -public-only nothing is sent to the operator's own network, and the dead letter says why.
func TestPublicOnly(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	startWorker(t, "-nats", url, "-apps", appsFileFor(t, r, "app"), "-public-only")
	emit(t, newEmitter(t, openQueue(t, url)), "app", 1)
	eventually(t, func() bool {
		return strings.Contains(succeeds(t, "dead", "ls", "-nats", url), "1 dead letters, 1 events")
	}, "no dead letter")
	require.Contains(t, succeeds(t, "dead", "ls", "-nats", url), "prohibited IP address")
	require.Empty(t, r.Requests())
}

// A user and a password go with the URL, and are told nowhere.
func TestPassword(t *testing.T) {
	s := startNATS(t, server.Options{Username: "me", Password: "s3cret"})
	where := strings.TrimPrefix(s.ClientURL(), "nats://")
	w := startWorker(t, "-nats", "nats://me:s3cret@"+where, "-log-level", "debug")
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ends(), w.log())
	require.NotContains(t, w.log(), "s3cret")

	_, errs, code := ctl(t, "dead", "ls", "-nats", "nats://me:s3cre@"+where)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "-nats: no connection to nats://"+where+": nats: Authorization Violation")
	require.NotContains(t, errs, "s3cre")
}
