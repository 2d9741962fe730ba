package main

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// owners runs the subcommand and counts the partitions of each owner.
func owners(t *testing.T, url string) map[string]int {
	t.Helper()
	all := make(map[string]int)
	lines := strings.Split(strings.TrimSpace(succeeds(t, "partitions", "-nats", url)), "\n")
	require.Equal(t, []string{"PARTITION", "OWNER", "EPOCH", "MESSAGES", "RECORDED", "PENDING", "HELD"}, strings.Fields(lines[0]))
	for i, line := range lines[1:] {
		columns := strings.Fields(line)
		require.Len(t, columns, 7)
		require.Equal(t, strconv.Itoa(i), columns[0])
		all[columns[1]]++
	}
	return all
}

// Workers share the partitions, and the one that stays has all of them.
func TestPartitions(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	first := startWorker(t, "-nats", url, "-apps", appsFileFor(t, r, "app"), "-partitions", "4", "-lease", "1s")
	eventually(t, func() bool { all := owners(t, url); return len(all) == 1 && all["-"] == 0 }, "the worker does not take all")
	startWorker(t, "-nats", url, "-lease", "1s")
	eventually(t, func() bool { all := owners(t, url); return len(all) == 2 && all["-"] == 0 }, "the workers do not share")
	for _, n := range owners(t, url) {
		require.Equal(t, 2, n)
	}
	first.signal(syscall.SIGTERM)
	require.Zero(t, first.ends(), first.log())
	eventually(t, func() bool { all := owners(t, url); return len(all) == 1 && all["-"] == 0 }, "the other does not take over")
}

// The number of partitions is fixed.
func TestPartitionsCannotBeChanged(t *testing.T) {
	url := startNATS(t, server.Options{}).ClientURL()
	w := startWorker(t, "-nats", url, "-partitions", "4")
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ends(), w.log())
	_, errs, code := ctl(t, "-nats", url, "-partitions", "8")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, `it has "4" partitions, which cannot be changed to 8`)
}
