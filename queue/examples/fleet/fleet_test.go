package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain runs the tests, or is a process of the fleet that one of them starts.
func TestMain(m *testing.M) {
	if os.Getenv(jobVariable) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// One of each is killed, and the accounts are right.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	t.Setenv("GORACE", "atexit_sleep_ms=0") // for the processes; else each waits a second at its end
	var out bytes.Buffer
	err := run(ctx, options{leaders: 1, nodes: 1, workers: 1, rate: 500, dir: t.TempDir()}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
}

// body is a webhook with an event of each of these users.
func body(name string, users ...string) []byte {
	events := ""
	for i, user := range users {
		if i > 0 {
			events += ","
		}
		events += fmt.Sprintf(`{"name": %q, "user_id": %q, "data": "1"}`, name, user)
	}
	return []byte(`{"events": [` + events + `]}`)
}

// The tally finds what is lost, what came twice and what came too late.
func TestTally(t *testing.T) {
	tl := newTally()
	for _, one := range []struct{ name, user string }{
		{"member_added", "host"},
		{"member_added", "0.0"}, {"client_event", "0.0"}, {"member_removed", "0.0"}, // 0, 1, 2
		{"member_added", "0.2"}, // 6
		{"client_event", "0.1"}, // 4, too late
		{"member_added", "0.2"}, // again
		{"member_added", "1.0"},
		{"member_removed", "0.2"}, // 8, after a later run
	} {
		require.NoError(t, tl.take("app", body(one.name, one.user)))
	}
	s := tl.sum()
	require.Equal(t, totals{Received: 7, Duplicates: 1, OutOfOrder: 2}, s.totals)
	require.Equal(t, []runSum{{Next: 9, Missing: []int{3, 5, 7}}, {Next: 1}}, s.Apps["app"].Runs)
	for stored, lost := range map[int]int{0: 0, 3: 0, 4: 1, 6: 2, 9: 3, 12: 6} {
		require.Equal(t, lost, s.Apps["app"].lost(0, stored), "of %d", stored)
	}
	require.Equal(t, 3, s.Apps["app"].lost(2, 3), "of a run that nobody has heard of")
	require.Equal(t, 3, s.Apps["nobody"].lost(0, 3))
	require.Error(t, tl.take("app", body("client_event", "somebody")))
}

func TestWhatIsLostOrOutOfOrderIsAFault(t *testing.T) {
	good := accounts{accepted: 3, totals: totals{Received: 3, Duplicates: 1}}
	require.NoError(t, good.fault())
	for want, a := range map[string]accounts{
		"2 events are lost":          {accepted: 3, lost: 2},
		"1 events came out of order": {accepted: 3, totals: totals{OutOfOrder: 1}},
		"nothing was stored":         {},
	} {
		require.ErrorContains(t, a.fault(), want)
	}
}
