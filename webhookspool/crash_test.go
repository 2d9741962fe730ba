//go:build linux

package webhookspool

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

// TestMain lets the test binary be a server that is killed, and one whose disk is full. It fails the package if tests
// leave a goroutine behind.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	switch os.Getenv("SPOOL_CHILD") {
	case "server":
		if err := serve(os.Getenv("SPOOL_DIR"), os.Getenv("SPOOL_URL"), os.Getenv("SPOOL_FIRST")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "disk":
		if err := syscall.Mount("none", os.Getenv("SPOOL_DIR"), "tmpfs", 0, "size=256k"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	case "limit":
		limit := syscall.Rlimit{Cur: 32 << 10, Max: 32 << 10}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	code := m.Run()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // which leaves a goroutine of its own
	for deadline := time.Now().Add(patience); code == 0 && !fuzzing && runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
	}
	os.Exit(code)
}

// serve emits numbers from first on, and prints each when it is stored, for ever.
func serve(dir, url, first string) error {
	number, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	s, err := Open(dir, Config{})
	if err != nil {
		return err
	}
	cfg := testConfig(crashApps(url)...)
	cfg.MaxEndpointQueuedBytes = 8 << 10 // so that many find no room, and segments are rewritten
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return errors.New("no answer") })
	cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
		s.Undelivered(d, err)
		fmt.Printf("%s\n", d.Body)
	}
	d, err := webhook.New(cfg)
	if err != nil {
		return err
	}
	if err := s.Redeliver(d); err != nil {
		return err
	}
	for ; ; number++ {
		if err := d.Emit(cfg.Apps[number%len(cfg.Apps)].ID, webhook.SubscriptionCount("room", number)); err != nil && !errors.Is(err, webhook.ErrQueueFull) {
			return err
		}
		time.Sleep(200 * time.Microsecond)
		if number%20 == 19 {
			if err := s.Redeliver(d); err != nil {
				return err
			}
		}
	}
}

// crashApps spread the work: an endpoint that fails gets one request a millisecond.
func crashApps(url string) (apps []webhook.App) {
	for i := range 8 {
		apps = append(apps, testApp(fmt.Sprint("app", i), url))
	}
	return apps
}

// A server is killed at any moment, again and again, while its endpoint is down: all that it ever stored arrives when
// that is up.
func TestKilledAtAnyMoment(t *testing.T) {
	receiver := webhooktest.NewReceiver(crashApps("")...)
	defer receiver.Close()
	dir := t.TempDir()
	stored := make(map[string]bool)
	kills := 20
	if testing.Short() {
		kills = 5
	}
	for i := range kills {
		for body := range runUntilKilled(t, dir, receiver.URL, i*1_000_000) {
			stored[body] = true
		}
	}
	require.NotEmpty(t, stored)
	s := open(t, dir, Config{})
	d := start(t, s, testConfig(crashApps(receiver.URL)...))
	require.NoError(t, shutdown(t, s, d))
	require.Empty(t, segments(t, dir))
	got := make(map[int]bool)
	for _, r := range receiver.Deliveries() {
		if r.Status == http.StatusOK {
			for _, e := range r.Events {
				got[e.SubscriptionCount] = true
			}
		}
	}
	distinct := make(map[int]bool)
	for body := range stored {
		n, ok := numberOf(body)
		require.True(t, ok, body)
		require.True(t, got[n], "%d was stored and did not arrive", n)
		distinct[n] = true
	}
	t.Logf("%d kills, %d events stored %d times, %d arrived", kills, len(distinct), len(stored), len(got))
}

// numberOf takes the number out of a body.
func numberOf(body string) (n int, ok bool) {
	_, number, found := strings.Cut(body, `"subscription_count":`)
	_, err := fmt.Sscanf(number, "%d}]}", &n)
	return n, found && err == nil
}

// runUntilKilled runs a server and kills it at a random moment. It returns what it has printed.
func runUntilKilled(t *testing.T, dir, url string, first int) map[string]bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "SPOOL_CHILD=server", "SPOOL_DIR="+dir, "SPOOL_URL="+url, "SPOOL_FIRST="+strconv.Itoa(first))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	time.AfterFunc(time.Duration(rand.Int64N(int64(250*time.Millisecond))), func() { _ = cmd.Process.Kill() })
	printed := make(map[string]bool)
	for in := bufio.NewReader(out); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			break // a line that is cut off does not count
		}
		printed[line[:len(line)-1]] = true
	}
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "it was killed, and did not fail")
	return printed
}

// child runs one test in a process of its own, where SPOOL_CHILD says what is different there.
func child(t *testing.T, name, kind, dir string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), "SPOOL_CHILD="+kind, "SPOOL_DIR="+dir)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if attr != nil && (errors.As(err, &exit) && exit.ExitCode() == 2 || errors.Is(err, syscall.EPERM)) {
		t.Skipf("no disk of its own can be made here: %v %s", err, out)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+name, "%s", out)
}

// A real disk that is full: a tmpfs of 256 KiB that only the child sees.
func TestFullDisk(t *testing.T) {
	if os.Getenv("SPOOL_CHILD") != "disk" {
		child(t, "TestFullDisk", "disk", t.TempDir(), &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		})
		return
	}
	dir := os.Getenv("SPOOL_DIR")
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 100<<10), 0o600))
	fillsUp(t, dir, syscall.ENOSPC, func() { require.NoError(t, os.Remove(ballast)) })
}

// The same by a limit on a file's size, which needs no disk: it makes each segment a small one.
func TestFileThatCannotGrow(t *testing.T) {
	if os.Getenv("SPOOL_CHILD") != "limit" {
		child(t, "TestFileThatCannotGrow", "limit", t.TempDir(), nil)
		return
	}
	fillsUp(t, os.Getenv("SPOOL_DIR"), syscall.EFBIG, nil)
}

// fillsUp stores until nothing fits, and sees that all that was stored survives redelivery on the full disk, and the
// next start. Free makes room.
func fillsUp(t *testing.T, dir string, full error, free func()) {
	s := open(t, dir, Config{})
	for n := 0; s.Stats().Lost < 10; n++ {
		require.Less(t, n, 10_000)
		s.Undelivered(delivery("app", "http://127.0.0.1", n, n%300), errors.New("no answer"))
	}
	stored := s.Stats().Stored
	require.Greater(t, stored, uint64(10))
	s.mu.Lock()
	err := s.write(delivery("app", "http://127.0.0.1", 1, 5000))
	s.mu.Unlock()
	require.ErrorIs(t, err, full)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "free space")

	cfg := testConfig(testApp("app", "http://127.0.0.1"))
	cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return errors.New("no answer") })
	d := start(t, s, cfg) // all are given up again, and few find room
	require.NoError(t, d.Flush(t.Context()))
	s.waiting.Wait()
	_ = s.Close(t.Context(), d)

	if free != nil {
		free()
	}
	s = open(t, dir, Config{})
	d, taken := taker(t)
	require.NoError(t, s.Redeliver(d))
	distinct := make(map[string]bool)
	for _, id := range taken() {
		distinct[id] = true
	}
	require.Len(t, distinct, int(stored))
	require.NoError(t, s.Close(t.Context(), d))
	require.Empty(t, segments(t, dir))
	require.Empty(t, asides(t, dir), "what did not fit was cut off")
}
