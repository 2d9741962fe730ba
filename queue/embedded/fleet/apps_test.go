package fleet

import (
	"fmt"
	"testing"

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

// What a node emits that knows an app is delivered by that configuration or a later one: a worker that has an older one waits until it has
// heard of it.
func TestAWorkerKnowsTheAppsThatTheNodeKnew(t *testing.T) {
	q := openQueue(t, startServer(t))
	r := newReceiver(t)
	newWorker(t, q, workerConfig())
	for i := range 20 {
		path := fmt.Sprint("/", i)
		require.NoError(t, q.SetApp(t.Context(), app("app", r.URL+path)))
		e := knowing(t, q)
		require.NoError(t, e.EmitDurable(t.Context(), "app", webhook.SubscriptionCount("c", i)))
		require.True(t, settles(func() bool { return len(r.events(path)) == 1 }), "%d", i)
	}
	require.Equal(t, 20, r.numbers())
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

// What is queued for an app that is removed, and what is emitted for one that nobody knows, become dead letters. Set again, the app
// has them by Replay.
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
