package webhook

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table does what a map does, while it grows and while it shrinks.
func TestAppTableIsAMap(t *testing.T) {
	table, want := newAppTable(), make(map[string]*appRoutes)
	for step := range 20_000 {
		id := fmt.Sprint("app-", rand.IntN(2000))
		if share := rand.IntN(20_000); share > step { // more stores at first, more deletes in the end
			want[id] = &appRoutes{}
			table.store(id, want[id])
		} else {
			delete(want, id)
			table.delete(id)
		}
		require.Same(t, want[id], table.load(id))
		require.Equal(t, len(want), table.size)
		buckets := len(*table.buckets.Load())
		require.True(t, buckets >= table.size && buckets <= max(minBuckets, 4*table.size), "%d buckets for %d apps", buckets, table.size)
	}
	for id := range want {
		require.Same(t, want[id], table.load(id))
	}
}

// An app that is there is found at any moment, whatever is stored and deleted beside it, and while it is replaced.
func TestAppTableIsReadWhileItChanges(t *testing.T) {
	table := newAppTable()
	table.store("kept", &appRoutes{})
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if table.load("kept") == nil {
						t.Error("not found")
						return
					}
				}
			}
		})
	}
	for round := range 20 {
		for i := range 100 {
			table.store(fmt.Sprint(round, i), &appRoutes{})
			table.store("kept", &appRoutes{})
		}
		for i := range 100 {
			table.delete(fmt.Sprint(round, i))
		}
	}
	close(done)
	readers.Wait()
}
