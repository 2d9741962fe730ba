package embedded

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// A machine is a file system of its own, in a file, whose power can be cut.
type machine struct{ image, dir string }

// plugIn runs a test again in a child process that may mount, and returns the machine in there.
func plugIn(t *testing.T) *machine {
	t.Helper()
	const inChild = "EMBEDDED_MACHINE"
	if dir := os.Getenv(inChild); dir != "" {
		m := &machine{image: filepath.Join(dir, "image"), dir: filepath.Join(dir, "mnt")}
		require.NoError(t, os.Mkdir(m.dir, 0o700))
		require.NoError(t, os.WriteFile(m.image, nil, 0o600))
		require.NoError(t, os.Truncate(m.image, 256<<20))
		if out, err := exec.Command("mkfs.ext4", "-q", m.image).CombinedOutput(); err != nil {
			cannot(err, out)
		}
		if out, err := m.boot(); err != nil {
			cannot(err, out)
		}
		return m
	}
	again(t, inChild, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	return nil
}

func (m *machine) boot() ([]byte, error) {
	return exec.Command("mount", "-o", "loop", m.image, m.dir).CombinedOutput()
}

// cut ends the power: nothing gets to the image any more, neither what waits in memory to be written nor the journal of
// the file system, and what is written fails.
func (m *machine) cut() {
	const shutdown, noLogFlush = 0x8004587d, uint32(2) // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	f, err := os.Open(m.dir)
	if err == nil {
		defer f.Close()
		flags := noLogFlush
		if _, _, failed := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); failed != 0 {
			err = failed
		}
	}
	if err != nil {
		panic(err)
	}
}

// reboot is what follows: the image is mounted again, as the cut has left it.
func (m *machine) reboot(t *testing.T) {
	t.Helper()
	out, err := exec.Command("umount", m.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = m.boot()
	require.NoError(t, err, "%s", out)
}

// The power goes, again and again, also when the store is young. What EmitDurable and Flush said was stored is
// received.
func TestThePowerIsCut(t *testing.T) {
	t.Parallel()
	m := plugIn(t)
	if m == nil {
		return
	}
	r, dead := receiver(t, app("app")), receiver(t, app("app"))
	dir, acked := filepath.Join(m.dir, "queue"), map[string][]int{}
	for run := range 4 {
		r.Answer(503) // the next one has it all
		for channel, n := range killed(t, dir, r.URL, dead.URL, run*1_000_000, time.Duration(50+run*150)*time.Millisecond, m.cut) {
			acked[channel] = append(acked[channel], n)
		}
		m.reboot(t)
	}
	r.Answer(200)
	l := open(t, dir, fast(app("app", r.URL, dead.URL)))
	drained(t, l)
	got, _ := received(t, r)
	total, missing := 0, map[string][]int{}
	for channel, all := range acked {
		for _, n := range all {
			for i := n / 1_000_000 * 1_000_000; i <= n; i++ {
				if !got[channel][i] {
					missing[channel] = append(missing[channel], i)
				}
				total++
			}
		}
	}
	require.Empty(t, missing, "stored and lost: %+v", l.Stats())
	require.Greater(t, total, 50)
	closeNow(t, l)
	fmt.Println("events acknowledged and received:", total)
	out, err := exec.Command("umount", m.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
