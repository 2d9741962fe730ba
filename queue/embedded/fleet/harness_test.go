// Package fleet tests several nodes and workers on one engine: processes are killed, stopped and cut off, and what
// endpoints have got is compared with what was stored.
package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// TestMain runs the tests, or is a process that one of them starts.
func TestMain(m *testing.M) {
	switch os.Getenv("FLEET_ROLE") {
	case "worker":
		os.Exit(workerProcess())
	case "server":
		os.Exit(serverProcess())
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if code == 0 && !settles(func() bool { return runtime.NumGoroutine() <= before+leftByServer }) {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// leftByServer is how many goroutines nats-server's packages keep for the process.
const leftByServer = 3

func settles(condition func() bool) bool { return settlesWithin(20*time.Second, condition) }

func settlesWithin(limit time.Duration, condition func() bool) bool {
	for deadline := time.Now().Add(limit); !condition(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(2 * time.Millisecond) // nothing announces it
	}
	return true
}

// startServer starts one engine on loopback.
func startServer(t *testing.T) (url string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{ServerName: "one", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s.ClientURL()
}

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := dial(url)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func dial(url string) (*nats.Conn, error) {
	return nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1), nats.Timeout(10*time.Second))
}

func openQueue(t *testing.T, url string) *queue.Queue {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	q, err := queue.Open(ctx, connect(t, url), queue.Config{MaxBytes: 256 << 20, MaxDeadBytes: 64 << 20})
	require.NoError(t, err)
	return q
}

func newEmitter(t *testing.T, q *queue.Queue) *queue.Emitter {
	t.Helper()
	e, err := q.NewEmitter(queue.EmitterConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { within(5*time.Second, e.Close) })
	return e
}

func within(limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return f(ctx)
}

// lease is that of the tests' workers.
const lease = 1500 * time.Millisecond

func workerConfig() queue.WorkerConfig {
	return queue.WorkerConfig{
		Config: webhook.Config{RetryWaitMin: 20 * time.Millisecond, RetryWaitMax: 100 * time.Millisecond, BatchWindow: 5 * time.Millisecond},
		Lease:  lease,
	}
}

func newWorker(t *testing.T, q *queue.Queue, cfg queue.WorkerConfig) *queue.Worker {
	t.Helper()
	w, err := q.NewWorker(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { within(5*time.Second, w.Close) })
	return w
}

func app(id string, urls ...string) webhook.App {
	a := webhook.App{ID: id, Key: id + "-key", Secret: webhook.Secret(id + "-secret")}
	for _, url := range urls {
		a.Webhooks = append(a.Webhooks, webhook.Webhook{URL: url, EventTypes: webhook.EventTypes()})
	}
	return a
}

// A receiver takes webhooks of many endpoints, one for each path, and notes what each has got.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	got      map[string][]got // by path
	dead     map[string]bool  // paths that answer 503
	slow     time.Duration    // before each answer
	requests int
}

// A got is one event.
type got struct {
	Name    webhook.EventType `json:"name"`
	Channel string            `json:"channel"`
	User    string            `json:"user_id"`
	Count   int               `json:"subscription_count"`
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{got: make(map[string][]got), dead: make(map[string]bool)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	slow := r.slow
	r.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-req.Context().Done():
			return // the worker does not know whether it was taken, and sends it again
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	var batch struct {
		Events []got `json:"events"`
	}
	if err != nil || json.Unmarshal(body, &batch) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.dead[req.URL.Path] {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.got[req.URL.Path] = append(r.got[req.URL.Path], batch.Events...)
}

// events returns what an endpoint has got.
func (r *receiver) events(path string) []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]got(nil), r.got[path]...)
}

// counts returns how many different numbers an endpoint has got on each channel, and how many of them twice or late:
// after a larger one of their channel although they were not there before.
func counts(all []got) (different map[string]map[int]bool, duplicates, late int) {
	different, last := make(map[string]map[int]bool), make(map[string]int)
	for _, e := range all {
		if different[e.Channel] == nil {
			different[e.Channel], last[e.Channel] = make(map[int]bool), -1
		}
		switch {
		case different[e.Channel][e.Count]:
			duplicates++
		case e.Count < last[e.Channel]:
			late++
		}
		different[e.Channel][e.Count] = true
		last[e.Channel] = max(last[e.Channel], e.Count)
	}
	return different, duplicates, late
}

// A process is a child of the test.
type process struct {
	cmd *exec.Cmd
	log *tail
	out *bufio.Scanner
}

// start starts this test's binary in a role. It is killed when the test ends.
func start(t *testing.T, role string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), log: &tail{}}
	p.cmd.Env = append(append(os.Environ(), "FLEET_ROLE="+role), env...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	p.out = bufio.NewScanner(out)
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %d said:\n%s", role, p.cmd.Process.Pid, p.log)
		}
	})
	return p
}

// says waits for a line.
func (p *process) says(t *testing.T, want string) {
	t.Helper()
	for p.out.Scan() {
		if p.out.Text() == want {
			return
		}
	}
	require.Fail(t, "it ended", "before it said %q: %s", want, p.log)
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

// kill kills it with -9, if it has not ended.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// A tail keeps the end of what a process says.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 1<<20 {
		l.b.Reset()
	}
	return l.b.Write(b)
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// workerProcess works until SIGTERM.
func workerProcess() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	err := func() error {
		nc, err := dial(os.Getenv("FLEET_URL"))
		if err != nil {
			return err
		}
		defer nc.Close()
		var q *queue.Queue
		err = within(30*time.Second, func(ctx context.Context) (err error) {
			q, err = queue.Open(ctx, nc, queue.Config{})
			return err
		})
		if err != nil {
			return err
		}
		cfg := workerConfig()
		cfg.Logger = stderrLogger()
		if grace := os.Getenv("FLEET_GRACE"); grace != "" {
			if cfg.ReconnectGrace, err = time.ParseDuration(grace); err != nil {
				return err
			}
		}
		w, err := q.NewWorker(cfg)
		if err != nil {
			return err
		}
		fmt.Println("works")
		<-term
		return within(20*time.Second, w.Close)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
