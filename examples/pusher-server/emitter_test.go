package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/queue/embedded"
	"github.com/pusherhooks/webhook/webhooktest"
)

// TestMain runs the tests, or is the server that one of them kills.
func TestMain(m *testing.M) {
	if os.Getenv("PUSHER_SERVER") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A process is a server in a process of its own.
type process struct {
	url string
	cmd *exec.Cmd
	out io.Reader
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "PUSHER_SERVER=1", "GORACE=atexit_sleep_ms=0") // the race detector waits a second otherwise
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	p := &process{cmd: cmd, out: stderr}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, address, found := strings.Cut(lines.Text(), "msg=listening url="); found {
			p.url = address
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // until the process ends
			return p
		}
	}
	require.Fail(t, "the server does not listen")
	return nil
}

// kill is kill -9.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	require.Error(t, p.cmd.Wait())
}

// terminate is SIGTERM, after which the server ends by itself.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, p.cmd.Wait())
}

// writeApps writes soketi's file for the app that testApp makes.
func writeApps(t *testing.T, receiver *webhooktest.Receiver) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "apps.json")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"appManager.array.apps": [{
		"id": "app", "key": "key", "secret": "secret", "enableClientMessages": true,
		"webhooks": [{"url": %q, "event_types": ["channel_occupied", "client_event"]}]
	}]}`, receiver.URL), 0o600))
	return path
}

// A server is killed with -9 while the app's backend is down. What its clients did before arrives after the next start.
func TestDurableSurvivesKillNine(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	receiver.Answer(http.StatusServiceUnavailable)
	args := []string{"-config", writeApps(t, receiver), "-durable", filepath.Join(t.TempDir(), "webhooks"), "-pusher-timing=false"}

	first := startProcess(t, args...)
	c := (&testServer{url: first.url}).connect(t)
	c.join(a, "private-room", "")
	c.send("client-hello", "private-room", "Ada")
	require.Eventually(t, func() bool { return len(receiver.Requests()) > 0 }, patience, time.Millisecond)
	stored(t, first.url, 2)
	first.kill(t)
	require.Empty(t, receiver.Events(), "nothing was accepted")

	receiver.Answer(http.StatusOK)
	second := startProcess(t, args...)
	events, err := receiver.Wait(2, patience)
	require.NoError(t, err)
	require.Equal(t, webhook.TypeChannelOccupied, events[0].Name)
	require.Equal(t, "client-hello", events[1].Event)
	require.Equal(t, "private-room", events[1].Channel)
	second.terminate(t)
}

// stored waits until the server says that at least so many events are stored, and none waits to be.
func stored(t *testing.T, address string, least int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		n, metrics := 0, get(t, address+"/metrics")
		_, counted, _ := strings.Cut(metrics, "\nwebhook_emitter_stored_events_total ")
		_, err := fmt.Sscan(counted, &n)
		require.NoError(t, err, metrics)
		if n >= least && strings.Contains(metrics, "\nwebhook_emitter_unsynced_events 0\n") {
			return
		}
		require.True(t, time.Now().Before(deadline), "%d of %d events are stored", n, least)
	}
}

func TestTwoServersDoNotShareADurableDirectory(t *testing.T) {
	o := testOptions(t)
	o.durable = t.TempDir()
	_, stop := start(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.ErrorIs(t, run(ctx, o, slog.New(slog.DiscardHandler)), embedded.ErrLocked)
	require.NoError(t, stop())
}

// startNATS starts what servers and workers of a fleet share.
func startNATS(t *testing.T) string {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(patience))
	return s.ClientURL()
}

// Two servers emit, and a worker in another process than theirs delivers: also what a server emitted that is gone.
func TestFleet(t *testing.T) {
	receiver := newReceiver(t)
	a := testApp(receiver)
	url, apps := startNATS(t), writeApps(t, receiver)
	for i, channel := range []string{"private-a", "private-b"} {
		node := startProcess(t, "-config", apps, "-nats", url)
		(&testServer{url: node.url}).connect(t).join(a, channel, "")
		stored(t, node.url, 1) // the others are of types that nobody asks for
		if i == 0 {
			node.kill(t)
		} else {
			node.terminate(t)
		}
	}
	require.Empty(t, receiver.Requests(), "there is no worker yet")

	startWorker(t, url)
	events, err := receiver.Wait(2, patience)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"private-a", "private-b"}, []string{events[0].Channel, events[1].Channel})
}

// startWorker starts what delivers, for the apps that servers have put into the queue.
func startWorker(t *testing.T, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	q, err := queue.Open(t.Context(), nc, queue.Config{})
	require.NoError(t, err)
	worker, err := q.NewWorker(queue.WorkerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = worker.Close(ctx)
	})
}

func TestAnErrorAboutTheFleetHoldsNoPassword(t *testing.T) {
	o := testOptions(t)
	for _, url := range []string{"nats://me:s3cret@127.0.0.1:port", "nats://me:s3/cret@127.0.0.1:1", "nats://me:s3cret@127.0.0.1:1"} {
		o.nats = url
		err := run(t.Context(), o, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, "-nats: ")
		require.NotContains(t, err.Error(), "s3")
	}
}

func TestOneKeeperOfWebhooks(t *testing.T) {
	for args, fault := range map[string]string{
		"-durable a -nats nats://127.0.0.1": "-durable and -nats",
		"-durable a -state b":               "-state",
		"-nats nats://127.0.0.1 -state b":   "-state",
	} {
		_, err := parse(strings.Fields(args), io.Discard)
		require.ErrorContains(t, err, fault)
	}
}
