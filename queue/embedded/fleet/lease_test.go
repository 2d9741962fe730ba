package fleet

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// A worker takes nothing before a sign of life of its own is stored: others would take it for gone, and have its
// partitions at once.
func TestAWorkerThatCannotSayThatItIsAliveTakesNothing(t *testing.T) {
	mute := &server.User{Username: "mute", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.WH_LEASE.m.*"}}}}
	s, err := server.NewServer(&server.Options{ServerName: "one", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{mute, {Username: "any", Password: "x"}}})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	as := func(user string) string { return strings.Replace(s.ClientURL(), "nats://", "nats://"+user+":x@", 1) }

	said := &tail{}
	cfg := workerConfig()
	cfg.Logger = slog.New(slog.NewTextHandler(said, nil))
	a := newWorker(t, openQueue(t, as("mute")), cfg)
	require.True(t, settles(func() bool { return strings.Contains(said.String(), "no sign of life stored") }))
	b := newWorker(t, openQueue(t, as("any")), workerConfig())
	shares(t, b)
	require.Zero(t, a.Stats().Taken)
}

// A worker whose partition was taken because it did not get on learns that from the other's signs of life, and not only
// when it does.
func TestAnIdleWorkerNoticesThatAPartitionWasTaken(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	w := newWorker(t, q, workerConfig())
	shares(t, w)
	leases := bucket(t, url, "WH_LEASE")
	_, err := leases.Put(t.Context(), "p.3", []byte("\x01{\"owner\":\"other\",\"epoch\":7}"))
	require.NoError(t, err)
	_, err = leases.Put(t.Context(), "m.other", []byte("\x01{\"parts\":[3,4]}"))
	require.NoError(t, err)
	require.True(t, settles(func() bool { return w.Stats().Lost == 1 }))
	shares(t, w) // as nothing more is heard of the other
	require.EqualValues(t, 1, w.Stats().Lost, "the other one is its own")
}

// Workers may have different leases, as while a new one is rolled out: nobody is gone before his own is over.
func TestWorkersOfDifferentLeases(t *testing.T) {
	q := openQueue(t, startServer(t))
	l := newLoad(t, q, 20, 2, 4)
	long, short := workerConfig(), workerConfig()
	long.Lease, short.Lease = 10*time.Second, time.Second
	a := newWorker(t, q, long)
	shares(t, a)
	b := newWorker(t, q, short)
	shares(t, a, b)
	taken := a.Stats().Taken + b.Stats().Taken
	l.run(20 * time.Millisecond)
	require.True(t, settles(func() bool { return l.r.numbers() > 36*250 }), "for five seconds")
	duplicates, late := l.end()
	require.Zero(t, duplicates+late)
	require.Equal(t, taken, a.Stats().Taken+b.Stats().Taken)
	require.NoError(t, within(10*time.Second, a.Close))
	shares(t, b)
}
