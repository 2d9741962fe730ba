package webhook_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// withApps is a dispatcher with so many apps and nothing to do.
func withApps(t *testing.T, apps int) *webhook.Dispatcher {
	d := newDispatcher(t, webhook.Config{Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })})
	for i := range apps {
		require.NoError(t, d.SetApp(testApp(fmt.Sprint("app-", i), "http://localhost/")))
	}
	return d
}

// fastest is how long a call takes when nothing else gets in its way.
func fastest(call func()) time.Duration {
	took := time.Hour
	for range 20 {
		start := time.Now()
		call()
		took = min(took, time.Since(start))
	}
	return took
}

// What an operator asks for one app costs nothing for all the others.
func TestCallsForOneAppDoNotLookAtOthers(t *testing.T) {
	few, many := withApps(t, 10), withApps(t, 100_000)
	for name, call := range map[string]func(d *webhook.Dispatcher){
		"Endpoints": func(d *webhook.Dispatcher) { d.Endpoints("app-7") },
		"RetryNow":  func(d *webhook.Dispatcher) { d.RetryNow("app-7") },
		"Purge":     func(d *webhook.Dispatcher) { d.Purge("app-7") },
	} {
		t.Run(name, func(t *testing.T) {
			alone, beside := fastest(func() { call(few) }), fastest(func() { call(many) })
			require.Less(t, beside, 20*alone+100*time.Microsecond, "beside 10 apps it takes %v", alone)
		})
	}
}

// Emit may have to wait for the dispatcher's lock, where webhooks were just replaced. So no call holds it that looks at all
// apps: here somebody else does, and none waits.
func TestCallsForAllAppsDoNotTakeTheDispatchersLock(t *testing.T) {
	d := withApps(t, 10)
	for name, call := range map[string]func(){
		"Endpoints": func() { d.Endpoints("") },
		"RetryNow":  func() { d.RetryNow("") },
		"Purge":     func() { d.Purge("app-7") },
	} {
		t.Run(name, func(t *testing.T) {
			returned := make(chan struct{})
			d.WithLock(func() {
				go func() {
					defer close(returned)
					call()
				}()
				select {
				case <-returned:
				case <-time.After(10 * time.Second):
					t.Error("waits for the lock")
				}
			})
			<-returned
		})
	}
}
