package webhook

import (
	"hash/maphash"
	"sync/atomic"
)

// An appTable finds an app's routes by the app's id. Readers take no lock and never wait for a writer; writers
// hold Dispatcher.mu. It stands in for a sync.Map, whose lookup through interfaces makes an Emit that nobody
// wants some 30 % slower (BenchmarkEmit/unwanted), and whose entries are larger. The store that doubles the table takes
// as long as a hundred nanoseconds for each app in it.
type appTable struct {
	seed    maphash.Seed
	size    int // apps, guarded by Dispatcher.mu
	buckets atomic.Pointer[[]appBucket]
}

// An appBucket lists the apps whose ids have one remainder: about one app. Entries never change, so a reader
// may walk along a list while a writer puts another in its place.
type appBucket = atomic.Pointer[appEntry]

type appEntry struct {
	id     string
	routes *appRoutes
	next   *appEntry
}

// minBuckets is how many buckets there are at least. Their number is a power of two.
const minBuckets = 8

func newAppTable() *appTable {
	t := &appTable{seed: maphash.MakeSeed()}
	t.rehash(minBuckets)
	return t
}

// load returns the app's routes, nil if there is no such app.
func (t *appTable) load(id string) *appRoutes {
	for entry := t.bucket(id).Load(); entry != nil; entry = entry.next {
		if entry.id == id {
			return entry.routes
		}
	}
	return nil
}

func (t *appTable) bucket(id string) *appBucket {
	buckets := *t.buckets.Load()
	return &buckets[maphash.String(t.seed, id)&uint64(len(buckets)-1)]
}

// store sets the app's routes, in place of those it had.
func (t *appTable) store(id string, routes *appRoutes) {
	bucket := t.bucket(id)
	others, replaced := bucket.Load().without(id)
	bucket.Store(&appEntry{id, routes, others})
	if !replaced {
		t.resize(t.size + 1)
	}
}

// delete removes an app.
func (t *appTable) delete(id string) {
	bucket := t.bucket(id)
	others, found := bucket.Load().without(id)
	if found {
		bucket.Store(others)
		t.resize(t.size - 1)
	}
}

// without returns a list of all entries of e but the app's, and whether that was among them.
func (e *appEntry) without(id string) (others *appEntry, found bool) {
	for ; e != nil; e = e.next {
		if e.id == id {
			found = true
		} else {
			others = &appEntry{e.id, e.routes, others}
		}
	}
	return others, found
}

// resize sets the number of apps and keeps that of the buckets between it and four times as many.
func (t *appTable) resize(size int) {
	t.size = size
	switch n := len(*t.buckets.Load()); {
	case size > n:
		t.rehash(2 * n)
	case size < n/4 && n > minBuckets:
		t.rehash(n / 2)
	}
}

// rehash puts all apps into n new buckets.
func (t *appTable) rehash(n int) {
	buckets := make([]appBucket, n)
	if old := t.buckets.Load(); old != nil {
		for i := range *old {
			for entry := (*old)[i].Load(); entry != nil; entry = entry.next {
				bucket := &buckets[maphash.String(t.seed, entry.id)&uint64(n-1)]
				bucket.Store(&appEntry{entry.id, entry.routes, bucket.Load()})
			}
		}
	}
	t.buckets.Store(&buckets)
}
