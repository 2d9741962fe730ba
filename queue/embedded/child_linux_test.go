package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// again runs a test again in a child process with privileges of its own, where a variable has a directory for it. If
// the system does not allow that the test is skipped.
func again(t *testing.T, variable string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), notAllowed) || errors.Is(err, syscall.EPERM) {
		t.Skipf("%v %s", err, out)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "%s", out)
	t.Logf("%s", out)
}

const notAllowed = "no disk of its own can be made here"

// cannot ends the child where the system does not let it have what it needs.
func cannot(err error, out []byte) {
	fmt.Printf("%s: %v %s\n", notAllowed, err, out)
	os.Exit(2)
}
