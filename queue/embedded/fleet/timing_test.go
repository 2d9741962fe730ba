package fleet

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A member leaves node A and is back on node B within the grace, after all gaps from none to nearly all of it, in
// either order of what is stored first, while a worker is killed: at the end each is there for whoever counts the
// webhooks.
func TestTheGraceHoldsOverTwoNodesAndAKilledWorker(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	r := newReceiver(t)
	require.NoError(t, q.SetApp(t.Context(), app("app-0", r.URL+"/")))
	require.NoError(t, q.SetApp(t.Context(), app("app-1", r.URL+"/")))
	nodes := [2]interface {
		Emit(string, webhook.Event) error
	}{newEmitter(t, q), newEmitter(t, openQueue(t, url))}
	killed := startWorker(t, url, "FLEET_GRACE=1s")
	startWorker(t, url, "FLEET_GRACE=1s")
	sharedBy(t, q, 2)

	const members = 600
	channel := func(i int) (string, string, string) {
		return fmt.Sprint("app-", i%2), fmt.Sprint("presence-", i%7), fmt.Sprint("u", i)
	}
	for i := range members {
		appID, c, user := channel(i)
		require.NoError(t, nodes[0].Emit(appID, webhook.MemberAdded(c, user)))
	}
	require.True(t, settles(func() bool { return len(r.events("/")) >= members }))
	for round := range 6 {
		gap := time.Duration(round) * 150 * time.Millisecond
		for i := round; i < members; i += 6 {
			appID, c, user := channel(i)
			require.NoError(t, nodes[0].Emit(appID, webhook.MemberRemoved(c, user)))
			if gap == 0 {
				require.NoError(t, nodes[1].Emit(appID, webhook.MemberAdded(c, user)))
			}
		}
		if round == 3 {
			killed.kill()
		}
		if gap == 0 {
			continue
		}
		time.Sleep(gap) // it is what is tested
		for i := round; i < members; i += 6 {
			appID, c, user := channel(i)
			require.NoError(t, nodes[1].Emit(appID, webhook.MemberAdded(c, user)))
		}
	}
	sharedBy(t, q, 1)
	drainedQueue(t, q)
	there := make(map[string]bool)
	told := 0
	for _, e := range r.events("/") {
		there[e.Channel+" "+e.User] = e.Name == webhook.TypeMemberAdded
		if e.Name == webhook.TypeMemberRemoved {
			told++
		}
	}
	wrong := 0
	for i := range members {
		if _, c, user := channel(i); !there[c+" "+user] {
			wrong++
		}
	}
	require.Zero(t, wrong, "of %d members, after %d were told to have left", members, told)
	t.Logf("%d members moved, %d were told to have left", members, told)
}
