package fleet

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

func stderrLogger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// shares waits until the workers have all partitions, each about as many.
func shares(t *testing.T, workers ...*queue.Worker) {
	t.Helper()
	const partitions = 16
	most := (partitions + len(workers) - 1) / len(workers)
	even := func() bool {
		var all []int
		for _, w := range workers {
			if n := len(w.Partitions()); n > most {
				return false
			}
			all = append(all, w.Partitions()...)
		}
		slices.Sort(all)
		return len(all) == partitions && len(slices.Compact(all)) == partitions
	}
	if !settles(even) {
		for _, w := range workers {
			t.Logf("%v %+v", w.Partitions(), w.Stats())
		}
		require.Fail(t, "the partitions are not shared")
	}
}

func TestWorkersShareThePartitions(t *testing.T) {
	q := openQueue(t, startServer(t))
	a := newWorker(t, q, workerConfig())
	shares(t, a)
	b := newWorker(t, q, workerConfig())
	shares(t, a, b)
	c := newWorker(t, q, workerConfig())
	shares(t, a, b, c)
	require.NoError(t, within(10*time.Second, a.Close))
	shares(t, b, c)
	require.NoError(t, within(10*time.Second, c.Close))
	shares(t, b)
	status, err := q.Partitions(t.Context())
	require.NoError(t, err)
	require.Len(t, status, 16)
	for i, s := range status {
		require.Equal(t, i, s.Partition)
		require.Equal(t, status[0].Owner, s.Owner)
		require.NotEmpty(t, s.Owner)
		require.Positive(t, s.Epoch)
	}
}

func TestWorkersThatStartTogetherShareThePartitions(t *testing.T) {
	q := openQueue(t, startServer(t))
	var workers []*queue.Worker
	for range 5 {
		workers = append(workers, newWorker(t, q, workerConfig()))
	}
	shares(t, workers...)
}

// A load emits numbered events for each endpoint of many apps until it is stopped.
type load struct {
	t        *testing.T
	r        *receiver
	emitter  *queue.Emitter
	apps     int
	each     int // endpoints of an app
	dead     int // of all
	stop     chan struct{}
	emitting sync.WaitGroup
	emitted  int // events for each app, known once it has stopped
}

// paths returns the endpoints of an app.
func (l *load) path(app, endpoint int) string { return fmt.Sprintf("/%d/%d", app, endpoint) }

func newLoad(t *testing.T, q *queue.Queue, apps, each, dead int) *load {
	l := &load{t: t, r: newReceiver(t), emitter: newEmitter(t, q), apps: apps, each: each, dead: dead, stop: make(chan struct{})}
	for a := range apps {
		urls := make([]string, each)
		for e := range each {
			urls[e] = l.r.URL + l.path(a, e)
			if a*each+e < dead {
				l.r.dead[l.path(a, e)] = true
			}
		}
		require.NoError(t, q.SetApp(t.Context(), app(fmt.Sprint("app-", a), urls...)))
	}
	return l
}

// run emits a round of one event an app at each tick.
func (l *load) run(every time.Duration) {
	l.emitting.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for ; ; l.emitted++ {
			select {
			case <-l.stop:
				return
			case <-ticker.C:
			}
			for a := range l.apps {
				if err := l.emitter.Emit(fmt.Sprint("app-", a), webhook.SubscriptionCount(fmt.Sprint("c", l.emitted%3), l.emitted)); err != nil {
					l.t.Error(err)
					return
				}
			}
		}
	})
}

// end stops emitting, has the dead endpoints live, and waits until each endpoint has got each event.
func (l *load) end() (duplicates, late int) {
	l.t.Helper()
	close(l.stop)
	l.emitting.Wait()
	require.NoError(l.t, within(20*time.Second, l.emitter.Flush))
	l.r.mu.Lock()
	clear(l.r.dead)
	l.r.mu.Unlock()
	missing := ""
	complete := func() bool {
		missing, duplicates, late = "", 0, 0
		for a := range l.apps {
			for e := range l.each {
				different, twice, after := counts(l.r.events(l.path(a, e)))
				n := 0
				for _, numbers := range different {
					n += len(numbers)
				}
				if n < l.emitted {
					missing = fmt.Sprintf("%s has got %d of %d", l.path(a, e), n, l.emitted)
					return false
				}
				duplicates += twice
				late += after
			}
		}
		return true
	}
	require.True(l.t, settlesWithin(30*time.Second, complete), "%s", missing)
	return duplicates, late
}

func startWorker(t *testing.T, url string, env ...string) *process {
	t.Helper()
	p := start(t, "worker", append(env, "FLEET_URL="+url)...)
	p.says(t, "works")
	return p
}

// owners returns how many partitions each owner has.
func owners(t *testing.T, q *queue.Queue) map[string]int {
	t.Helper()
	status, err := q.Partitions(t.Context())
	require.NoError(t, err)
	all := make(map[string]int)
	for _, s := range status {
		all[s.Owner]++
	}
	return all
}

func sharedBy(t *testing.T, q *queue.Queue, n int) {
	t.Helper()
	require.True(t, settles(func() bool {
		all := owners(t, q)
		return all[""] == 0 && len(all) == n
	}), "%v", owners(t, q))
}

// 1 000 endpoints, of which 100 are dead, on two workers of which one is killed with -9. What was accepted is received
// by each endpoint, in order.
func TestAKilledWorkerIsReplaced(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	l := newLoad(t, q, 100, 10, 100)
	killed := startWorker(t, url)
	startWorker(t, url)
	sharedBy(t, q, 2)
	l.run(200 * time.Millisecond)
	require.True(t, settles(func() bool { return len(l.r.events("/99/9")) > 5 }))
	killed.kill()
	at := time.Now()
	sharedBy(t, q, 1)
	took := time.Since(at)
	duplicates, late := l.end()
	require.Zero(t, late)
	t.Logf("%d events to each of 1000 endpoints; taken over after %v; %d duplicates", l.emitted, took.Round(time.Millisecond), duplicates)
}

// A worker that is stopped for longer than its lease finds out before it sends anything more, but for a request a lane.
func TestAStoppedWorkerIsReplaced(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	l := newLoad(t, q, 20, 2, 4)
	stopped := startWorker(t, url)
	startWorker(t, url)
	sharedBy(t, q, 2)
	l.run(10 * time.Millisecond)
	require.True(t, settles(func() bool { return len(l.r.events("/19/1")) > 20 }))
	stopped.signal(t, syscall.SIGSTOP)
	sharedBy(t, q, 1)
	before := l.r.numbers()
	require.True(t, settles(func() bool { return l.r.numbers() > before+400 }), "the other delivers")
	stopped.signal(t, syscall.SIGCONT)
	sharedBy(t, q, 2) // it has its share again
	duplicates, late := l.end()
	require.LessOrEqual(t, late, 40, "one request a lane")
	t.Logf("%d events to each of 40 endpoints, %d duplicates, %d late", l.emitted, duplicates, late)
}

// numbers returns how many events have come.
func (r *receiver) numbers() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, all := range r.got {
		n += len(all)
	}
	return n
}

// Workers that are told to end, one after the other, hand over: nothing is lost, late or twice.
func TestARollingRestartDuplicatesNothing(t *testing.T) {
	url := startServer(t)
	q := openQueue(t, url)
	l := newLoad(t, q, 50, 4, 20)
	workers := []*process{startWorker(t, url), startWorker(t, url)}
	sharedBy(t, q, 2)
	l.run(20 * time.Millisecond)
	for i := range workers {
		before := l.r.numbers()
		require.True(t, settles(func() bool { return l.r.numbers() > before+1000 }))
		workers[i].signal(t, syscall.SIGTERM)
		require.NoError(t, workers[i].cmd.Wait())
		workers[i] = startWorker(t, url)
		sharedBy(t, q, 2)
	}
	duplicates, late := l.end()
	require.Zero(t, late)
	require.Zero(t, duplicates)
}

// drainedQueue waits until nothing is stored that has not ended.
func drainedQueue(t *testing.T, q *queue.Queue) {
	t.Helper()
	require.True(t, settles(func() bool {
		status, err := q.Partitions(t.Context())
		require.NoError(t, err)
		for _, s := range status {
			if s.Messages > 0 {
				return false
			}
		}
		return true
	}))
}

// Close keeps its time, also while partitions are on their way to another worker and wait for requests on the wire.
func TestCloseWhileHandingOver(t *testing.T) {
	q := openQueue(t, startServer(t))
	l := newLoad(t, q, 20, 1, 0)
	l.r.slow = time.Minute
	a := newWorker(t, q, workerConfig())
	shares(t, a)
	for i := range 20 {
		require.NoError(t, l.emitter.Emit(fmt.Sprint("app-", i), webhook.SubscriptionCount("c", 1)))
	}
	require.True(t, settles(func() bool { return a.Stats().Read == 20 }))
	newWorker(t, q, workerConfig())
	require.True(t, settles(func() bool { return len(a.Partitions()) == 8 }))
	at := time.Now()
	require.NoError(t, within(2*time.Second, a.Close))
	require.Less(t, time.Since(at), 5*time.Second)
}
