package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

func letters(t *testing.T, q *queue.Queue, f queue.DeadFilter) (all []queue.DeadLetter) {
	t.Helper()
	for letter, err := range q.Dead(t.Context(), f) {
		require.NoError(t, err)
		all = append(all, letter)
	}
	return all
}

// knowing returns an emitter that has heard of the apps: it knows that one was removed.
func knowing(t *testing.T, q *queue.Queue) *queue.Emitter {
	t.Helper()
	require.NoError(t, q.RemoveApp(t.Context(), "was removed"))
	e := newEmitter(t, q)
	require.True(t, settles(func() bool { return !e.Wants("was removed", webhook.TypeChannelOccupied, "c") }))
	return e
}

// What a node emits that knows an app is delivered by that configuration or a later one: a worker that has an older one
// waits until it has heard of it.
func TestAWorkerKnowsTheAppsThatTheNodeKnew(t *testing.T) {
	url := startServer(t)
	q, r := openQueue(t, url), newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/old")))
	newWorker(t, q, workerConfig())
	require.NoError(t, knowing(t, q).Emit("app", webhook.SubscriptionCount("c", 0)))
	require.True(t, settles(func() bool { return len(r.events("/old")) == 1 }))

	js, err := jetstream.New(connect(t, url))
	require.NoError(t, err)
	secrets, err := js.Stream(t.Context(), "KV_WH_SECRETS")
	require.NoError(t, err)
	for name := range secrets.ConsumerNames(t.Context()).Name() { // the worker's
		_, err := secrets.PauseConsumer(t.Context(), name, time.Now().Add(time.Second))
		require.NoError(t, err)
	}
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/new")))
	e := newEmitter(t, q)
	require.NoError(t, q.RemoveApp(t.Context(), "another")) // heard of later
	require.True(t, settles(func() bool { return !e.Wants("another", webhook.TypeChannelOccupied, "c") }))
	require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", 1)))
	require.True(t, settles(func() bool { return r.numbers() == 2 }))
	require.Len(t, r.events("/new"), 1)
}

func TestANodeStoresOnlyWhatIsAskedFor(t *testing.T) {
	q := openQueue(t, startServer(t))
	a := app("app", "http://127.0.0.1:1")
	a.Webhooks[0].EventTypes = []webhook.EventType{webhook.TypeMemberAdded}
	a.Webhooks[0].Filter = webhook.Filter{ChannelNameStartsWith: "presence-a", ChannelNameEndsWith: "z"}
	require.NoError(t, q.SetApp(t.Context(), a))
	e := knowing(t, q)
	before := e.Stats().Accepted
	require.NoError(t, e.Emit("app", webhook.ChannelOccupied("presence-az")))
	require.NoError(t, e.Emit("app", webhook.MemberAdded("presence-b", "u")))
	require.False(t, e.Wants("app", webhook.TypeMemberAdded, "presence-ab"))
	require.Equal(t, before, e.Stats().Accepted)
	require.NoError(t, e.Emit("app", webhook.MemberAdded("presence-az", "u")))
	require.NoError(t, e.Emit("never heard of", webhook.MemberAdded("presence-az", "u")))
	require.Equal(t, before+2, e.Stats().Accepted)
}

// What is queued for an app that is removed, and what is emitted for one that nobody knows, become dead letters. Set
// again, the app has them by Replay.
func TestRemovedAndUnknownApps(t *testing.T) {
	q := openQueue(t, startServer(t))
	r := newReceiver(t)
	for _, id := range []string{`a.*> `, "other"} {
		require.NoError(t, q.SetApp(t.Context(), app(id, r.URL+"/gone")))
	}
	e := knowing(t, q)
	require.NoError(t, e.EmitDurable(t.Context(), `a.*> `, webhook.SubscriptionCount("c", 1)))
	require.NoError(t, e.EmitDurable(t.Context(), "unknown", webhook.SubscriptionCount("c", 2)))
	require.NoError(t, q.RemoveApp(t.Context(), `a.*> `))
	require.True(t, settles(func() bool { return !e.Wants(`a.*> `, webhook.TypeSubscriptionCount, "c") }))
	require.ErrorIs(t, e.Emit(`a.*> `, webhook.SubscriptionCount("c", 3)), webhook.ErrUnknownApp)

	w := newWorker(t, q, workerConfig())
	require.True(t, settles(func() bool { return w.Stats().Dead >= 2 }))
	removed := letters(t, q, queue.DeadFilter{App: `a.*> `})
	require.Len(t, removed, 1)
	require.Equal(t, "_removed", removed[0].Endpoint)
	require.Equal(t, "_unknown", letters(t, q, queue.DeadFilter{App: "unknown"})[0].Endpoint)
	require.Empty(t, r.events("/gone"))

	require.NoError(t, q.SetApp(t.Context(), app(`a.*> `, r.URL+"/back")))
	require.NoError(t, q.SetApp(t.Context(), app("unknown", r.URL+"/back")))
	n, err := q.Replay(t.Context(), queue.DeadFilter{Endpoint: "_removed"})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = q.Replay(t.Context(), queue.DeadFilter{App: "unknown"})
	require.NoError(t, err)
	require.True(t, settles(func() bool { return len(r.events("/back")) == 2 }))
}

func TestReplaceApps(t *testing.T) {
	q := openQueue(t, startServer(t))
	set := func(apps ...webhook.App) error { return q.ReplaceApps(t.Context(), apps) }
	a, b, c := app("a", "http://127.0.0.1:1/"), app("b", "http://127.0.0.1:2/"), app("c", "http://127.0.0.1:3/")
	require.NoError(t, set(a, b))
	changed := app("b", "http://127.0.0.1:4/?secret=x")
	require.NoError(t, set(c, changed))
	all, err := q.Apps(t.Context())
	require.NoError(t, err)
	require.Equal(t, []webhook.App{changed, c}, all)
	require.ErrorContains(t, set(a, a), `app "a": is there twice`)
	require.ErrorContains(t, set(webhook.App{ID: "x"}), "key: must not be empty")
	again, err := q.Apps(t.Context())
	require.NoError(t, err)
	require.Equal(t, all, again, "a fault changes nothing")
}

// The leader is asked once for all events of a message whose app nobody knows: a flood of them costs others of its
// partition no more.
func TestAFloodForAnUnknownApp(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	asked, err := connect(t, url).SubscribeSync("$JS.API.STREAM.MSG.GET.KV_WH_SECRETS")
	require.NoError(t, err)
	require.NoError(t, asked.SetPendingLimits(-1, -1))
	e := newEmitter(t, q)
	const events = 20_000
	for i := range events {
		require.NoError(t, e.Emit("unknown", webhook.SubscriptionCount("c", i)))
	}
	require.NoError(t, within(20*time.Second, e.Flush))
	w := newWorker(t, q, workerConfig())
	require.True(t, settles(func() bool { return w.Stats().Dead == events }))
	n, _, err := asked.Pending()
	require.NoError(t, err)
	require.Positive(t, n)
	require.Less(t, n, events/100)
}

// An app of which something unreadable is stored costs its own events their way, and no others of its partition.
func TestAnAppThatCannotBeRead(t *testing.T) {
	url := startServer(t)
	q, err := queue.Open(t.Context(), connect(t, url), queue.Config{Partitions: 1})
	require.NoError(t, err)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("other", r.URL+"/")))
	require.NoError(t, q.SetApp(t.Context(), app("broken", r.URL+"/broken")))
	secrets := bucket(t, url, "WH_SECRETS")
	keys, err := secrets.Keys(t.Context())
	require.NoError(t, err)
	for _, key := range keys {
		entry, err := secrets.Get(t.Context(), key)
		require.NoError(t, err)
		if strings.Contains(string(entry.Value()), "broken") {
			_, err = secrets.Put(t.Context(), key, []byte("\x01{secret"))
			require.NoError(t, err)
		}
	}
	e := newEmitter(t, q)
	require.NoError(t, e.EmitDurable(t.Context(), "broken", webhook.SubscriptionCount("c", 1)))
	require.NoError(t, e.EmitDurable(t.Context(), "other", webhook.SubscriptionCount("c", 1)))
	newWorker(t, q, workerConfig())
	require.True(t, settles(func() bool { return len(r.events("/")) == 1 }))
	require.True(t, settles(func() bool { return len(letters(t, q, queue.DeadFilter{App: "broken"})) == 1 }))
	require.Equal(t, "_invalid", letters(t, q, queue.DeadFilter{App: "broken"})[0].Endpoint)
}

// A node knows apps of a bucket that was replaced by an older copy since: its events wait for nobody.
func TestAnOlderCopyOfTheApps(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	for range 50 {
		require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/old")))
	}
	e := knowing(t, q)
	js, err := jetstream.New(connect(t, url))
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "KV_WH_SECRETS"))
	q = openQueue(t, url)
	require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+"/new")))
	newWorker(t, q, workerConfig())
	const events = 30
	for i := range events {
		require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", i)))
	}
	require.True(t, settles(func() bool { return len(r.events("/new")) == events }), "%d", len(r.events("/new")))
}

// A SetApp has stored the app for workers and not what nodes need to know: ReplaceApps with the same app does that.
func TestReplaceAppsCompletesWhatIsHalfDone(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	a := app("app", "http://127.0.0.1:1/")
	a.Webhooks[0].EventTypes = []webhook.EventType{webhook.TypeChannelVacated}
	require.NoError(t, q.ReplaceApps(t.Context(), []webhook.App{a}))
	routes := bucket(t, url, "WH_ROUTES")
	keys, err := routes.Keys(t.Context())
	require.NoError(t, err)
	require.Len(t, keys, 1)
	before, err := routes.Get(t.Context(), keys[0])
	require.NoError(t, err)
	a.Webhooks[0].EventTypes = []webhook.EventType{webhook.TypeChannelOccupied}
	require.NoError(t, q.SetApp(t.Context(), a))
	_, err = routes.Put(t.Context(), keys[0], before.Value())
	require.NoError(t, err)

	require.NoError(t, q.ReplaceApps(t.Context(), []webhook.App{a}))
	require.True(t, knowing(t, q).Wants("app", webhook.TypeChannelOccupied, "c"))
	_, err = routes.Put(t.Context(), keys[0], before.Value()) // and now as if it was removed
	require.NoError(t, err)
	require.NoError(t, q.ReplaceApps(t.Context(), nil))
	require.False(t, knowing(t, q).Wants("app", webhook.TypeChannelVacated, "c"))
}

// SetApp tells nodes also where the secrets are an older copy, and so of lower revisions than what nodes know.
func TestSetAppOverAnOlderCopyOfTheApps(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	a := app("app", "http://127.0.0.1:1/")
	a.Webhooks[0].EventTypes = []webhook.EventType{webhook.TypeChannelVacated}
	for range 3 {
		require.NoError(t, q.SetApp(t.Context(), a))
	}
	js, err := jetstream.New(connect(t, url))
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "KV_WH_SECRETS"))
	q = openQueue(t, url)
	a.Webhooks[0].EventTypes = []webhook.EventType{webhook.TypeChannelOccupied}
	require.NoError(t, q.SetApp(t.Context(), a))
	require.True(t, knowing(t, q).Wants("app", webhook.TypeChannelOccupied, "c"))
}

// What is emitted for an app that a worker does not take becomes dead letters; others of its partition are delivered.
func TestAnAppThatTheWorkerDoesNotTake(t *testing.T) {
	q, err := queue.Open(t.Context(), connect(t, startServer(t)), queue.Config{Partitions: 1})
	require.NoError(t, err)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("large", r.URL+"/1", r.URL+"/2")))
	require.NoError(t, q.SetApp(t.Context(), app("other", r.URL+"/")))
	cfg := workerConfig()
	cfg.MaxWebhooks = 1
	newWorker(t, q, cfg)
	e := newEmitter(t, q)
	require.NoError(t, e.EmitDurable(t.Context(), "large", webhook.SubscriptionCount("c", 1)))
	require.NoError(t, e.EmitDurable(t.Context(), "other", webhook.SubscriptionCount("c", 1)))
	require.True(t, settles(func() bool { return len(r.events("/")) == 1 }))
	require.True(t, settles(func() bool { return len(letters(t, q, queue.DeadFilter{App: "large"})) == 1 }))
	require.Equal(t, "_invalid", letters(t, q, queue.DeadFilter{App: "large"})[0].Endpoint)
}
