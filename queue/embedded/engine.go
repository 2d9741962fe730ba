package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// An engine is a NATS server in this process. It listens on no socket: clients come by pipes. If it stops, as it does when
// the disk is full, it is started again.
type engine struct {
	dir    string
	limit  int64
	logger *slog.Logger

	mu      sync.Mutex
	current *server.Server
	starts  int

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startTimeout is how long an engine may take to read its store; a million messages take half a second.
const startTimeout = time.Minute

func startEngine(dir string, limit int64, logger *slog.Logger) (*engine, error) {
	e := &engine{dir: filepath.Join(dir, "store"), limit: limit, logger: logger}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := e.start(); err != nil {
		e.cancel()
		return nil, err
	}
	e.done.Go(e.watch)
	return e, nil
}

func (e *engine) start() error {
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
	if !s.ReadyForConnections(startTimeout) || !s.JetStreamEnabled() {
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

// watchEvery is how often it is looked whether the engine still runs.
const watchEvery = 250 * time.Millisecond

// watch starts the engine again when it has stopped, with longer and longer waits.
func (e *engine) watch() {
	for wait := time.Duration(0); sleep(e.ctx, watchEvery+wait); {
		e.mu.Lock()
		s := e.current
		e.mu.Unlock()
		if s != nil && s.Running() && s.JetStreamEnabled() {
			wait = 0
			continue
		}
		if s != nil {
			e.logger.Error("webhook queue: the engine has stopped, and is started again")
			e.stop()
		}
		if err := e.start(); err != nil {
			e.logger.Error("webhook queue: the engine does not start, tried again", "error", err)
			wait = min(max(2*wait, time.Second), time.Minute)
		}
	}
}

// stop ends the server that runs.
func (e *engine) stop() {
	e.mu.Lock()
	s := e.current
	e.current = nil
	e.mu.Unlock()
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
