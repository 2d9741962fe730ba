package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// An engine is a NATS server in this process. It listens on no socket: clients come by pipes. If it stops, or cannot
// write any more, as when the disk was full, it is started again.
type engine struct {
	dir    string
	limit  int64
	logger *slog.Logger
	places map[string]os.FileInfo // directories that have to stay what they are

	mu      sync.Mutex
	current *server.Server
	conn    *nats.Conn // see connect
	starts  int
	lost    error // one of the places has not stayed; then the engine is not started again

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startTimeout is how long an engine may take to read its store; a million messages take half a second.
const startTimeout = time.Minute

func startEngine(ctx context.Context, dir string, limit int64, logger *slog.Logger) (*engine, error) {
	e := &engine{dir: filepath.Join(dir, "store"), limit: limit, logger: logger}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := e.start(ctx); err != nil {
		e.cancel()
		return nil, err
	}
	return e, nil
}

// start starts a server. ctx's deadline bounds how long it may take to read its store.
func (e *engine) start(ctx context.Context) error {
	limit := startTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil { // secrets of apps that SetApp stores
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "webhook", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: e.dir, SyncAlways: true, JetStreamMaxStore: e.limit, JetStreamMaxMemory: 16 << 20,
		MaxPayload: 1 << 20, DisableShortFirstPing: true,
	})
	if err != nil {
		return err
	}
	s.SetLogger(serverLog{e.logger}, false, false)
	s.Start()
	if !s.ReadyForConnections(limit) || !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return errors.New("the engine does not start; what it said is in the log")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current = s
	e.starts++
	return nil
}

// InProcessConn implements nats.InProcessConnProvider, with whatever server there is.
func (e *engine) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	s := e.current
	e.mu.Unlock()
	if s == nil {
		return nil, errors.New("the engine is not running")
	}
	return s.InProcessConn()
}

// connect returns the connection that is told at once when the server stops: by itself it has what is on the way wait
// for its time to end.
func (e *engine) connect() (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(e), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.logger.Debug("webhook queue: client", "error", err) // else it prints
		}))
	if err == nil {
		e.mu.Lock()
		e.conn = nc
		e.mu.Unlock()
	}
	return nc, err
}

// watchEvery is how often it is looked whether the engine still works.
const watchEvery = 250 * time.Millisecond

// Between starts there are longer and longer waits, until the engine has worked for a while.
const (
	restartWaitMin = 500 * time.Millisecond
	restartWaitMax = 10 * time.Second
)

// watch starts the engine again when it does not work.
func (e *engine) watch() {
	next, wait, ill := time.Now(), restartWaitMin, 0
	for sleep(e.ctx, watchEvery) {
		if err := e.deleted(); err != nil {
			e.logger.Error("webhook queue: nothing is stored any more", "error", err)
			e.stop()
			e.mu.Lock()
			e.lost = err
			e.mu.Unlock()
			return
		}
		err, now := e.fault(), time.Now()
		if err == nil && now.After(next.Add(wait)) {
			wait = restartWaitMin
		}
		if ill++; err == nil {
			ill = 0
		}
		if ill < 2 || now.Before(next) {
			continue
		}
		e.logger.Error("webhook queue: the engine is started again", "reason", err)
		e.stop()
		if err := e.start(e.ctx); err != nil {
			e.logger.Error("webhook queue: the engine does not start, tried again", "error", err)
		}
		next, wait = time.Now().Add(wait), min(2*wait, restartWaitMax)
	}
}

// fault is why the engine has to be started again. One that could not write, as when the disk was full, does not
// write any more by itself. While a stream is being made it is missing, for a moment.
func (e *engine) fault() error {
	e.mu.Lock()
	s := e.current
	e.mu.Unlock()
	switch {
	case s == nil:
		return errors.New("it is not running")
	case !s.Running() || !s.JetStreamEnabled():
		return errors.New("it has stopped")
	}
	if health := s.Healthz(nil); health.Error != "" {
		return errors.New(health.Error)
	}
	return nil
}

// keep has the engine started again when it does not work, and has it notice when one of these files and directories,
// or one of its streams', is not there any more or another one. The engine itself does not: it goes on to write into
// files that nobody will find again.
func (e *engine) keep(paths ...string) error {
	streams, err := filepath.Glob(filepath.Join(e.dir, "jetstream", "*", "streams", "*"))
	if err != nil {
		return err
	}
	e.places = make(map[string]os.FileInfo)
	for _, path := range append(paths, streams...) {
		if e.places[path], err = os.Stat(path); err != nil {
			return err
		}
	}
	e.done.Go(e.watch)
	return nil
}

// deleted returns ErrDeleted if something is not there any more that keep has seen.
func (e *engine) deleted() error {
	for path, was := range e.places {
		now, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(was, now) {
			return fmt.Errorf("%w: %s", ErrDeleted, path)
		}
	}
	return nil
}

// status returns how often the engine was started, and why it is not any more.
func (e *engine) status() (starts int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.starts, e.lost
}

// stop ends the server that runs.
func (e *engine) stop() {
	e.mu.Lock()
	s, nc := e.current, e.conn
	e.current = nil
	e.mu.Unlock()
	if nc != nil {
		_ = nc.ForceReconnect() // fails if it is closed
	}
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

func (e *engine) close() {
	e.cancel()
	e.done.Wait()
	e.stop()
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serverLog has the engine log where the server does: its notices are for debugging.
type serverLog struct{ *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) {
	l.Debug("webhook queue: engine: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Warnf(format string, v ...any) {
	l.Warn("webhook queue: engine: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Errorf(format string, v ...any) {
	l.Error("webhook queue: engine: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Fatalf(format string, v ...any) {
	l.Error("webhook queue: engine: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Debugf(string, ...any) {}
func (l serverLog) Tracef(string, ...any) {}
