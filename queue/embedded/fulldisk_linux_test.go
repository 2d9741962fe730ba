package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// ownDisk runs a test again in a child process that has a small disk of its own, and returns its directory in there.
func ownDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	const inChild = "EMBEDDED_DISK"
	if dir := os.Getenv(inChild); dir != "" {
		if err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
			cannot(err, nil)
		}
		return dir
	}
	again(t, inChild, &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	return ""
}

// A disk that is really full, by somebody else's file: Emit goes on until the buffer is full, and then refuses. When
// there is room again everything accepted is stored and delivered, in order.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	dir := ownDisk(t, "40M")
	if dir == "" {
		return
	}
	r := receiver(t, app("app"))
	r.Answer(503)
	cfg := fast(app("app", r.URL))
	cfg.Engine = EngineConfig{MaxBytes: 16 << 20, MaxDeadBytes: 4 << 20, MaxBufferedBytes: 1 << 20}
	l := open(t, dir, cfg)
	require.NoError(t, l.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 0)))
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, freeBytes(dir)-1<<20), 0o600))

	data := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	accepted, refused := 1, 0
	require.True(t, settles(func() bool { // long enough to have the engine started twice while the disk is full
		for range 100 {
			err := l.Emit("app", webhook.ClientEvent("private-c", fmt.Sprint("client-", accepted), data, "1.2", ""))
			if err != nil {
				require.ErrorIs(t, err, webhook.ErrQueueFull)
				refused++
				break
			}
			accepted++
		}
		return refused > 100 && l.Stats().Starts > 2
	}), "%+v", l.Stats())
	s := l.Stats().Emitter
	require.EqualValues(t, accepted, s.Accepted)
	require.EqualValues(t, refused, s.Refused)
	require.Positive(t, s.Unsynced)
	require.Less(t, l.Stats().Starts, 6, "longer and longer waits")

	require.NoError(t, os.Remove(ballast))
	r.Answer(200)
	events, err := r.Wait(accepted, 40*time.Second)
	require.NoError(t, err)
	for i, e := range events[1:] {
		require.Equal(t, fmt.Sprint("client-", i+1), e.Event)
	}
	drained(t, l)
	require.Zero(t, l.Stats().Emitter.Unsynced)
	require.Len(t, r.Events(), accepted)
}
