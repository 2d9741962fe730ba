package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A way is one in which groups of events could be stored. The first is without all that; queue has the second.
type way struct {
	Name     string
	Linger   time.Duration // from one group to the next
	InFlight int           // groups that are sent before the first is acknowledged; 0: one
	Atomic   bool          // all groups that wait are one batch (ADR-50)
}

var ways = []way{
	{Name: "one group in flight"},
	{Name: "the same, 5 ms from one to the next", Linger: 5 * time.Millisecond},
	{Name: "four groups in flight", InFlight: 4},
	{Name: "atomic batches of up to eight groups", Atomic: true},
}

// waySpec asks what a way costs. Nothing is read and nothing is delivered.
type waySpec struct {
	Queue  queueSpec
	Stream string // a new one
	Way    way
	Rate   int // events a second; 0: as fast as they are stored
	Events int
}

type wayResult struct {
	EventsPerSecond, CPUNS float64
	Group                  float64 // events in one
	NS99                   float64 // that the first event of a group waits
}

// The sizes of queue's groups, and of events like those of the other rows.
const (
	groupEvents = 4096
	eventBytes  = 40
	unstored    = 64_000 // how many may wait where no rate is given
)

// A filling is a group that takes events.
type filling struct {
	buf    []byte
	events int
	began  time.Time
}

// A storer stores what producers put in.
type storer struct {
	js      jetstream.JetStream
	nc      *nats.Conn
	subject string
	way     way
	news    chan struct{} // has one if there may be something to store
	storing sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting []*filling
	missing int // events that are not stored
	took    []float64
	groups  int
	err     error
}

// measureWay is the child's part.
func measureWay(spec waySpec) (result wayResult, err error) {
	nc, stop, err := spec.Queue.dial()
	if err != nil {
		return result, err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), childTime)
	defer cancel()
	s, err := newStorer(ctx, nc, &spec)
	if err != nil {
		return result, err
	}
	if err := s.produce(spec.Rate, spec.Events/10); err != nil { // warm
		return result, err
	}
	s.took, s.groups = nil, 0
	before, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return result, err
	}
	began := time.Now()
	if err := s.produce(spec.Rate, spec.Events); err != nil {
		return result, err
	}
	elapsed := time.Since(began)
	after, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return result, err
	}
	s.close()
	if err := s.js.DeleteStream(ctx, spec.Stream); err != nil {
		return result, err
	}
	slices.Sort(s.took)
	n := float64(spec.Events)
	return wayResult{n / elapsed.Seconds(), float64(after-before) / n, n / float64(s.groups), percentile(s.took, 0.99)}, nil
}

// dial connects to the servers, or to one in this process that stores in the directory.
func (spec queueSpec) dial() (nc *nats.Conn, stop func(), err error) {
	if spec.Dir != "" {
		return startLocal(spec.Dir, true)
	}
	nc, err = nats.Connect(strings.Join(spec.Servers, ","))
	if err != nil {
		return nil, nil, err
	}
	return nc, nc.Close, nil
}

func newStorer(ctx context.Context, nc *nats.Conn, spec *waySpec) (*storer, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	cfg := jetstream.StreamConfig{
		Name: spec.Stream, Subjects: []string{spec.Stream}, Replicas: max(1, len(spec.Queue.Servers)), AllowAtomicPublish: spec.Way.Atomic,
	}
	if _, err := js.CreateStream(ctx, cfg); err != nil {
		return nil, err
	}
	s := &storer{js: js, nc: nc, subject: spec.Stream, way: spec.Way, news: make(chan struct{}, 1)}
	s.storing.Go(s.run)
	return s, nil
}

func (s *storer) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.tell()
	s.storing.Wait()
}

func (s *storer) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// produce puts n events in, and returns when they are stored.
func (s *storer) produce(perSecond, n int) error {
	event := make([]byte, eventBytes)
	for began, i := time.Now(), 0; i < n; time.Sleep(100 * time.Microsecond) {
		due := n
		if perSecond > 0 {
			due = int(time.Since(began).Seconds() * float64(perSecond))
		}
		for full := false; i < min(due, n) && !full; i++ {
			full = s.put(event) >= unstored
		}
	}
	for {
		s.mu.Lock()
		missing, err := s.missing, s.err
		s.mu.Unlock()
		if missing == 0 || err != nil {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// put returns how many events are not stored.
func (s *storer) put(event []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.waiting) - 1; last < 0 || s.waiting[last].events == groupEvents {
		s.waiting = append(s.waiting, &filling{began: time.Now()})
		s.tell()
	}
	g := s.waiting[len(s.waiting)-1]
	g.buf = append(g.buf, event...)
	g.events++
	s.missing++
	return s.missing
}

// take returns up to n groups. If wait is set it waits for the first; false: there will be none.
func (s *storer) take(n int, wait bool) ([]*filling, bool) {
	for {
		s.mu.Lock()
		all := s.waiting[:min(n, len(s.waiting))]
		s.waiting = s.waiting[len(all):]
		closed := s.closed
		s.mu.Unlock()
		if len(all) > 0 || closed || !wait {
			return all, len(all) > 0 || !closed
		}
		<-s.news
	}
}

func (s *storer) stored(all []*filling, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range all {
		s.missing -= g.events
		s.groups++
		s.took = append(s.took, float64(time.Since(g.began)))
	}
	s.err = errors.Join(s.err, err)
}

func (s *storer) run() {
	if s.way.InFlight > 0 {
		s.runPipelined()
		return
	}
	most := 1
	if s.way.Atomic {
		most = 8
	}
	for {
		all, more := s.take(most, true)
		if !more {
			return
		}
		began := time.Now()
		s.stored(all, s.store(all))
		s.linger(s.way.Linger - time.Since(began))
	}
}

// linger waits, unless a group is full.
func (s *storer) linger(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for full := false; wait > 0 && !full; {
		select {
		case <-timer.C:
			return
		case <-s.news:
		}
		s.mu.Lock()
		full = len(s.waiting) > 1 || s.closed
		s.mu.Unlock()
	}
	s.tell() // what was heard of meanwhile
}

// store stores groups and waits for that.
func (s *storer) store(all []*filling) error {
	if len(all) == 1 {
		_, err := s.js.Publish(context.Background(), s.subject, all[0].buf, jetstream.WithMsgID(nats.NewInbox()))
		return err
	}
	id := nats.NewInbox()
	for i, g := range all {
		msg := nats.NewMsg(s.subject)
		msg.Data = g.buf
		msg.Header.Set("Nats-Msg-Id", nats.NewInbox())
		msg.Header.Set("Nats-Batch-Id", id)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < len(all)-1 {
			if err := s.nc.PublishMsg(msg); err != nil {
				return err
			}
			continue
		}
		msg.Header.Set("Nats-Batch-Commit", "1")
		answer, err := s.nc.RequestMsg(msg, time.Minute)
		if err == nil && strings.Contains(string(answer.Data), `"error"`) {
			err = fmt.Errorf("atomic batch: %s", answer.Data)
		}
		return err
	}
	return nil
}

// runPipelined sends groups before those before them are stored.
func (s *storer) runPipelined() {
	var flying sync.WaitGroup
	defer flying.Wait()
	room := make(chan struct{}, s.way.InFlight)
	for {
		room <- struct{}{}
		all, more := s.take(1, true)
		if !more {
			return
		}
		ack, err := s.js.PublishAsync(s.subject, all[0].buf, jetstream.WithMsgID(nats.NewInbox()))
		if err != nil {
			s.stored(all, err)
			return
		}
		flying.Go(func() {
			select {
			case <-ack.Ok():
				s.stored(all, nil)
			case err := <-ack.Err():
				s.stored(all, err)
			}
			<-room
		})
	}
}

// The rates of the table.
var wayRates = []int{1000, 20_000, 0}

// wayKey is a row.
type wayKey struct {
	engine, way string
	rate        int
}

type wayFigures struct{ rate, cpu, group, ns99 series }

type wayTable struct {
	disk
	figures map[wayKey]*wayFigures
}

// compareWays is the parent's part.
func compareWays(ctx context.Context, o options) (_ *wayTable, err error) {
	dir, err := os.MkdirTemp(o.dir, "webhook-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := &wayTable{figures: make(map[wayKey]*wayFigures)}
	if t.disk, err = measureDisk(dir); err != nil {
		return nil, err
	}
	for round := range o.rounds {
		o.progress("ways, round %d", round+1)
		if err := t.round(ctx, o, dir); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// round measures each way on each engine at each rate.
func (t *wayTable) round(ctx context.Context, o options, dir string) (err error) {
	cluster, err := startNATS(ctx, filepath.Join(dir, "cluster"), 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.stop(), os.RemoveAll(dir)) }()
	for engine, where := range map[string]queueSpec{
		inDirectory: {Dir: filepath.Join(dir, "embedded")}, threeServers: {Servers: cluster.urls, PIDs: cluster.pids},
	} {
		for _, rate := range wayRates {
			for i, w := range ways {
				spec := waySpec{Queue: where, Stream: fmt.Sprintf("ways-%d-%d", rate, i), Way: w, Rate: rate, Events: cmp.Or(3*rate, 3_000_000)}
				if o.quick {
					spec.Events /= 30
				}
				r, err := measure[wayResult](ctx, "way", spec)
				if err != nil {
					return err
				}
				t.add(wayKey{engine, w.Name, rate}, r)
			}
		}
	}
	return nil
}

func (t *wayTable) add(key wayKey, r wayResult) {
	f := t.figures[key]
	if f == nil {
		f = &wayFigures{}
		t.figures[key] = f
	}
	f.rate = append(f.rate, r.EventsPerSecond)
	f.cpu = append(f.cpu, r.CPUNS)
	f.group = append(f.group, r.Group)
	f.ns99 = append(f.ns99, r.NS99)
}

func (t *wayTable) print(w io.Writer) error {
	out := table{
		title: "Ways to store",
		note: fmt.Sprintf("Events of %d bytes in groups of %d at most, for one subject; nothing is read. CPU is the sender's and the servers'. ", eventBytes, groupEvents) +
			"p99 is of how long a group's first event waits. The directory is on " + t.disk.String() + ".",
		header: []string{"engine", "events/s", "way", "events/s stored", "events in a group", "CPU µs/event", "p99 ms"},
		names:  3,
	}
	for _, engine := range []string{inDirectory, threeServers} {
		for _, rate := range wayRates {
			for _, w := range ways {
				given := "all it takes"
				if rate > 0 {
					given = count(float64(rate))
				}
				f := t.figures[wayKey{engine, w.Name, rate}]
				out.add(engine, given, w.Name, f.rate.cell(number), f.group.cell(number), f.cpu.cell(microseconds), f.ns99.cell(milliseconds))
			}
		}
	}
	return out.print(w)
}
