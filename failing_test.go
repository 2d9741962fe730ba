package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// Endpoints that wait for their next attempt cost a timer: no goroutine, and little memory beside their queue.
func TestFailingEndpointsCostLittle(t *testing.T) {
	const endpoints = 10_000
	var sends atomic.Int64
	cfg := webhook.Config{RetryWaitMin: 1 << 40, RetryWaitMax: 1 << 40, MaxQueuedBytes: 1 << 30,
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
			sends.Add(1)
			return errors.New("down")
		})}
	for i := range endpoints {
		cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint("app-", i), "http://localhost/"))
	}
	d := newDispatcher(t, cfg)
	warmUp(endpoints)
	goroutines, before := runtime.NumGoroutine(), heap()
	for i := range endpoints {
		emit(t, d, fmt.Sprint("app-", i), webhook.ChannelOccupied("room"))
	}
	require.True(t, settles(func() bool { return sends.Load() == endpoints && runtime.NumGoroutine() <= goroutines }))
	each := (heap() - before - d.Stats().PendingBytes) / endpoints
	t.Logf("%d bytes each beside %d pending", each, d.Stats().PendingBytes/endpoints)
	require.LessOrEqual(t, each, int64(1<<10))
	d.RetryNow("app-1")
	for i := range endpoints {
		d.Purge(fmt.Sprint("app-", i))
	}
}

// warmUp has the runtime make as many goroutines as there will be at a time: it keeps what they were for the next.
func warmUp(goroutines int) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for range goroutines {
		all.Go(func() { <-start })
	}
	close(start)
	all.Wait()
}
