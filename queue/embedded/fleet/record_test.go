package fleet

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// bucket returns one of the queue's.
func bucket(t *testing.T, url, name string) jetstream.KeyValue {
	t.Helper()
	js, err := jetstream.New(connect(t, url))
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), name)
	require.NoError(t, err)
	return kv
}

// A record that cannot be read costs duplicates at most: its partition is read from the beginning.
func TestARecordThatCannotBeRead(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/")))
	require.NoError(t, newEmitter(t, q).EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 1)))
	leases := bucket(t, url, "WH_LEASE")
	for n, garbage := range []string{"", "\x00", "\x01", "\x01{", "\x01[]", "\x01{\"next\":-1}"} {
		_, err := leases.Put(t.Context(), fmt.Sprint("p.", n), []byte(garbage))
		require.NoError(t, err)
	}
	status, err := q.Partitions(t.Context())
	require.Error(t, err, "%v", status)
	w := newWorker(t, q, workerConfig())
	require.True(t, settles(func() bool { return len(r.events("/")) == 1 }))
	shares(t, w)
	require.EqualValues(t, 6, w.Stats().Rewound)
}

// A worker is killed, or the engine fails, between a record and the purge that follows it. What nobody needs is purged
// all the same, though nothing new comes: else the partition looks as if its owner did not get on, and goes from one
// worker to the next.
func TestWhatTheRecordIsBeyondIsPurged(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/")))
	require.NoError(t, newEmitter(t, q).EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 1)))
	nc := connect(t, url)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "WH_EV")
	require.NoError(t, err)
	leases, nonce := bucket(t, url, "WH_LEASE"), stream.CachedInfo().Config.Metadata["webhook.nonce"]
	for n := range 16 {
		_, err := leases.Put(t.Context(), fmt.Sprint("p.", n), fmt.Appendf([]byte{1}, `{"stream":%q,"owner":"killed","epoch":1,"next":%d}`, nonce, 2<<12))
		require.NoError(t, err)
	}
	newWorker(t, q, workerConfig())
	drainedQueue(t, q)
	require.Empty(t, r.events("/"), "it had it")
}

// The stream is made anew, or an older copy of it restored, while a worker reads it: what is in there is delivered, and
// nothing is purged that was not.
func TestAnotherStreamUnderARunningWorker(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/")))
	w := newWorker(t, q, workerConfig())
	shares(t, w)
	e := newEmitter(t, q)
	const events = 40
	for i := range events {
		require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("old", i)))
	}
	drainedQueue(t, q)
	js, err := jetstream.New(connect(t, url))
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "WH_EV"))
	openQueue(t, url)
	for i := range events + 1 {
		require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("new", i)))
	}
	require.True(t, settles(func() bool {
		different, _, _ := counts(r.events("/"))
		return len(different["new"]) == events+1
	}), "%d, %+v", len(r.events("/"))-events, w.Stats())
	require.Positive(t, w.Stats().Rewound)
	drainedQueue(t, q)
}

// The bucket of the records is made anew while a worker has all partitions: it writes its records there.
func TestAnotherBucketUnderARunningWorker(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/")))
	w := newWorker(t, q, workerConfig())
	shares(t, w)
	js, err := jetstream.New(connect(t, url))
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "KV_WH_LEASE"))
	q = openQueue(t, url)
	require.NoError(t, newEmitter(t, q).EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 1)))
	drainedQueue(t, q)
	require.Len(t, r.events("/"), 1)
}

// A record that is of another stream counts when its partition is taken, and not each time that somebody looks whether
// he may.
func TestARewoundPartitionCountsOnce(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	leases := bucket(t, url, "WH_LEASE")
	_, err := leases.Put(t.Context(), "p.3", []byte("\x01{\"stream\":\"another\",\"owner\":\"other\",\"epoch\":7}"))
	require.NoError(t, err)
	_, err = leases.Put(t.Context(), "m.other", []byte("\x01{}"))
	require.NoError(t, err)
	w := newWorker(t, q, workerConfig())
	shares(t, w)
	require.EqualValues(t, 1, w.Stats().Rewound)
}
