package main

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook/webhooktest"
)

// giveUp has a worker give up an event of each app, whose letters are numbered from 1 in this order.
func giveUp(t *testing.T, url string, r *webhooktest.Receiver, ids ...string) {
	t.Helper()
	r.Answer(http.StatusGone)
	w := startWorker(t, "-nats", url, "-apps", appsFileFor(t, r, ids...))
	e := newEmitter(t, openQueue(t, url))
	for i, id := range ids {
		emit(t, e, id, i+1)
		eventually(t, func() bool { return strings.Count(succeeds(t, "dead", "ls", "-json", "-nats", url), "\n") == i+1 }, "no letter for %q", id)
	}
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ends(), w.log())
}

func TestDeadLettersAreListed(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	giveUp(t, url, r, "app", "of \x1b[31m others")

	lines := strings.Split(succeeds(t, "dead", "ls", "-nats", url), "\n")
	require.Regexp(t, `^ID +STORED +EVENTS +ENDPOINT +APP +URL +REASON$`, lines[0])
	require.Regexp(t, `^1 +20\S+Z +1  [0-9a-f]{8} +app +`+regexp.QuoteMeta(r.URL)+` +.*410`, lines[1])
	require.Contains(t, lines[2], `"of \x1b[31m others"`, "what others chose does nothing to a terminal")
	require.Equal(t, "2 dead letters, 2 events", lines[3])

	one := succeeds(t, "dead", "ls", "-json", "-nats", url, "-app", "app")
	var letter letterJSON
	require.NoError(t, json.Unmarshal([]byte(one), &letter))
	require.Equal(t, uint64(1), letter.ID)
	require.Equal(t, "app", letter.App)
	require.Equal(t, "room", letter.Events[0].Channel)
	require.Equal(t, 1, *letter.Events[0].Count)
	require.WithinDuration(t, time.Now(), letter.Stored, time.Minute)

	for filters, count := range map[string]int{
		"-app app":                      1,
		"-app nobody":                   0,
		"-endpoint " + letter.Endpoint:  1,
		"-endpoint _unknown":            0,
		"-id 2":                         1,
		"-id 2 -app app":                0,
		"-before 24h":                   0,
		"-before 0s":                    2,
		"-before 2020-01-02":            0,
		"-before 2100-01-02T15:04:05Z":  2,
		"-before 2100-01-02 -app app":   1,
		"-before 24h -json=false -id=1": 0,
	} {
		out := succeeds(t, append([]string{"dead", "ls", "-nats", url}, strings.Fields(filters)...)...)
		require.Equal(t, count, strings.Count(out, "\n")-2, "%s\n%s", filters, out)
	}
}

func TestDeadLettersAreReplayed(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	giveUp(t, url, r, "a", "b")
	require.Equal(t, "1 events replayed\n", succeeds(t, "dead", "replay", "-nats", url, "-app", "b"))
	r.Answer(http.StatusOK)
	startWorker(t, "-nats", url)
	_, err := r.Wait(1, soon)
	require.NoError(t, err)
	require.Equal(t, "1 events replayed\n", succeeds(t, "dead", "replay", "-nats", url, "-all"))
	_, err = r.Wait(2, soon)
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, counts(r))
	require.Equal(t, "0 events replayed\n", succeeds(t, "dead", "replay", "-nats", url, "-all"))
}

func TestDeadLettersArePurged(t *testing.T) {
	url, r := startNATS(t, server.Options{}).ClientURL(), newReceiver(t)
	giveUp(t, url, r, "a", "b", "c")
	require.Equal(t, "1 dead letters deleted\n", succeeds(t, "dead", "purge", "-nats", url, "-id", "2"))
	require.Equal(t, "0 dead letters deleted\n", succeeds(t, "dead", "purge", "-nats", url, "-app", "b"))
	require.Equal(t, "2 dead letters deleted\n", succeeds(t, "dead", "purge", "-nats", url, "-all"))
	require.Empty(t, succeeds(t, "dead", "ls", "-json", "-nats", url))
}
