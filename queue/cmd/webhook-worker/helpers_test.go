package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
	"github.com/pusherhooks/webhook/webhooktest"
)

// soon is how long a test waits for what must happen.
const soon = 20 * time.Second

const (
	childEnv  = "WEBHOOK_WORKER=1"
	quickExit = "GORACE=atexit_sleep_ms=0" // the race detector waits a second otherwise
)

// TestMain runs the tests, or is the program that they run.
func TestMain(m *testing.M) {
	if os.Getenv("WEBHOOK_WORKER") != "" {
		main()
	}
	os.Exit(m.Run())
}

// eventually waits for what nothing announces.
func eventually(t *testing.T, condition func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(soon); !condition(); time.Sleep(2 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), fmt.Sprintf(format, args...))
	}
}

// startNATS starts a server on loopback, at any port unless opts has one.
func startNATS(t *testing.T, opts server.Options) *server.Server {
	t.Helper()
	opts.Host, opts.NoLog, opts.NoSigs, opts.JetStream = "127.0.0.1", true, true, true
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if opts.StoreDir == "" {
		opts.StoreDir = t.TempDir()
	}
	s, err := server.NewServer(&opts)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(soon))
	return s
}

// openQueue is a server's side of the queue.
func openQueue(t *testing.T, url string) *queue.Queue {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	q, err := queue.Open(t.Context(), nc, queue.Config{})
	require.NoError(t, err)
	return q
}

func newEmitter(t *testing.T, q *queue.Queue) *queue.Emitter {
	t.Helper()
	e, err := q.NewEmitter(queue.EmitterConfig{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e
}

func emit(t *testing.T, e *queue.Emitter, app string, counts ...int) {
	t.Helper()
	for _, n := range counts {
		require.NoError(t, e.EmitDurable(t.Context(), app, webhook.SubscriptionCount("room", n)))
	}
}

func newReceiver(t *testing.T) *webhooktest.Receiver {
	r := webhooktest.NewReceiver()
	t.Cleanup(r.Close)
	return r
}

// writeApps writes an -apps file with apps of these ids, whose webhooks go to the receiver.
func writeApps(t *testing.T, path string, r *webhooktest.Receiver, ids ...string) {
	t.Helper()
	type object = map[string]any
	var apps []object
	for _, id := range ids {
		apps = append(apps, object{"id": id, "key": keyOf(id), "secret": "a secret",
			"webhooks": []object{{"url": r.URL, "event_types": []string{"subscription_count"}}}})
		r.Accept(webhook.App{ID: id, Key: keyOf(id), Secret: "a secret"})
	}
	data, err := json.Marshal(apps)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

func appsFileFor(t *testing.T, r *webhooktest.Receiver, ids ...string) string {
	path := filepath.Join(t.TempDir(), "apps.json")
	writeApps(t, path, r, ids...)
	return path
}

// counts are those of the receiver's events.
func counts(r *webhooktest.Receiver) (all []int) {
	for _, e := range r.Events() {
		all = append(all, e.SubscriptionCount)
	}
	return all
}

// A process is a worker in a process of its own.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	metrics string // http://address

	mu     sync.Mutex
	stderr bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

var address = regexp.MustCompile(`/healthz" address=(\S+)`)

// startWorker starts a worker, and returns when it delivers.
func startWorker(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0], append([]string{"-metrics", "127.0.0.1:0", "-pusher-timing=false"}, args...)...)}
	p.cmd.Env = append(os.Environ(), childEnv, quickExit)
	p.cmd.Stderr = p
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	p.says("msg=delivering")
	p.metrics = "http://" + address.FindStringSubmatch(p.log())[1]
	return p
}

// says waits for a line of the log.
func (p *process) says(text string) {
	p.t.Helper()
	eventually(p.t, func() bool { return strings.Contains(p.log(), text) }, "it does not say %q", text)
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// ends waits for the end, and returns the exit code; -1 if a signal ended it.
func (p *process) ends() int {
	p.t.Helper()
	done := make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(soon + handover):
		require.Fail(p.t, "it does not end", p.log())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) get(path string) (int, string) {
	p.t.Helper()
	answer, err := http.Get(p.metrics + path)
	require.NoError(p.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(p.t, err)
	return answer.StatusCode, string(body)
}

// ctl runs a subcommand to its end.
func ctl(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv, "NATS_URL=", "NATS_CREDS=", quickExit)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// succeeds is ctl for what must.
func succeeds(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := ctl(t, args...)
	require.Zero(t, code, errs)
	require.Empty(t, errs)
	return out
}

// keyOf makes a key of any id.
func keyOf(id string) string { return fmt.Sprintf("key-%x", id) }
