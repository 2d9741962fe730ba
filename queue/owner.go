package queue

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"
)

// An owner takes a worker's share of the partitions, keeps them while it can say that it is alive, and hands them over.
// One that is alone has all.
type owner struct {
	w       *Worker
	members *members // nil if alone
	lease   *lease   // nil if alone
	readers []atomic.Pointer[reader]
	barred  []atomic.Bool // left to others for good
	news    chan struct{} // has one if the worker has other partitions than before
	again   chan struct{} // has one if that may leave some to be taken

	beginning sync.Mutex

	vacant []int           // of each partition, for how many beats nobody has had it
	stuck  []stuck         // of each partition, of others
	beats  int             // since the last look at those
	halt   chan struct{}   // closed by close: no more is taken
	ctx    context.Context // of the loop
	cancel context.CancelFunc
	loops  sync.WaitGroup
	wire   context.Context // of what is handed over
	hurry  context.CancelFunc
}

// stuck is how long a record has not changed.
type stuck struct {
	revision uint64
	leases   int
}

func newOwner(w *Worker) *owner {
	n := w.q.partitions
	o := &owner{w: w, readers: make([]atomic.Pointer[reader], n), barred: make([]atomic.Bool, n), news: make(chan struct{}, 1), again: make(chan struct{}, 1),
		vacant: make([]int, n), stuck: make([]stuck, n), halt: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.wire, o.hurry = context.WithCancel(o.ctx)
	return o
}

// start takes all partitions if the worker is alone, and begins to look for some otherwise.
func (o *owner) start() error {
	if !o.w.cfg.Alone {
		o.members = newMembers(o.w.q, o.w.id, o.w.cfg.Lease)
		o.lease = newLease(o.w.cfg.Lease, o.w.d.Hold)
		others := o.w.q.watch(leaseBucket, memberKey("*"), o.w.log, o.members.learn)
		o.loops.Go(func() { others.run(o.ctx) })
		o.loops.Go(o.live)
		o.loops.Go(func() { o.run(others) })
		return nil
	}
	ctx, cancel := context.WithTimeout(o.ctx, 30*time.Second)
	defer cancel()
	for n := range o.readers {
		if _, err := o.take(ctx, n, nil); err != nil {
			o.cancel()
			for _, r := range o.all() {
				r.stop()
			}
			return err
		}
	}
	return nil
}

// interval is from one beat to the next.
func (o *owner) interval() time.Duration { return o.w.cfg.Lease / beatsPerLease }

// live gives a sign of life at each beat, and at once when the worker has other partitions.
func (o *owner) live() {
	beats := time.NewTimer(0)
	defer beats.Stop()
	for {
		beat := true
		select {
		case <-beats.C:
		case <-o.news:
			beat = false
		case <-o.ctx.Done():
			return
		}
		if alive := o.beat(); alive && beat {
			o.count()
		}
		if beat {
			beats.Reset(o.interval())
		}
	}
}

// count notes a beat, and who has missed too many.
func (o *owner) count() {
	gone := o.members.count()
	if len(gone) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(o.ctx, o.interval())
	defer cancel()
	if err := o.members.forget(ctx, gone); err != nil && o.ctx.Err() == nil {
		o.w.log.limited("webhook queue: workers that are gone are not forgotten, tried again", err)
	}
}

func (o *owner) beat() (alive bool) {
	ctx, cancel := context.WithTimeout(o.ctx, 2*o.interval())
	defer cancel()
	sent := time.Now()
	if err := o.members.beat(ctx, o.heartbeat()); err != nil {
		if o.ctx.Err() == nil {
			o.w.log.limited("webhook queue: no sign of life stored, tried again", err)
		}
		return false
	}
	o.lease.beat(sent)
	return true
}

// run looks for partitions at each beat, and when something has changed.
func (o *owner) run(others *watch) {
	if others.begun(o.ctx) != nil {
		return
	}
	beats := time.NewTicker(o.interval())
	defer beats.Stop()
	for {
		if lapse, suspended := o.lease.lapse(); suspended {
			o.confirm(lapse)
		} else if !o.halted() {
			o.balance()
		}
		select {
		case <-beats.C:
			o.observe()
		case <-o.members.news:
		case <-o.again:
		case <-o.ctx.Done():
			return
		}
	}
}

// confirm makes sure of each partition by writing its record: others may have taken some. Then the worker may send
// again. What is not confirmed in time is the next time: as long as signs of life are acknowledged nobody takes it.
func (o *owner) confirm(lapse int) {
	clear(o.stuck) // whatever it was, others were hit too
	var all sync.WaitGroup
	var failed atomic.Bool
	for _, r := range o.all() {
		if r.confirmed == lapse {
			continue
		}
		all.Go(func() {
			switch err := r.record(o.ctx, o.w.id, true); {
			case err == nil:
				r.confirmed = lapse
			case errors.Is(err, errTaken):
				o.lose(r, err)
			default:
				failed.Store(true)
				o.w.log.limited("webhook queue: a record is not written, tried again", err)
			}
		})
	}
	if all.Wait(); !failed.Load() {
		o.lease.confirm(lapse)
	}
}

func (o *owner) heartbeat() (beat heartbeat) {
	beat.Lease = o.w.cfg.Lease
	for n := range o.readers {
		switch r := o.readers[n].Load(); {
		case r != nil && !r.lost.Load():
			beat.Parts = append(beat.Parts, n)
		case o.barred[n].Load():
			beat.Barred++
		}
	}
	return beat
}

// all returns the partitions that are read.
func (o *owner) all() (all []*reader) {
	for n := range o.readers {
		if r := o.readers[n].Load(); r != nil && !r.leaving.Load() {
			all = append(all, r)
		}
	}
	return all
}

func (o *owner) partitions() (all []int) {
	for _, r := range o.all() {
		all = append(all, r.partition)
	}
	return all
}

func (o *owner) suspended() bool { return o.lease != nil && o.lease.suspended() }

// allows waits until it is sure that an app's partition is this worker's, or returns false: it is not, or ctx has
// ended.
func (o *owner) allows(ctx context.Context, app string) bool {
	if !o.lease.allow(ctx) {
		return false
	}
	r := o.readers[partitionOf(app, len(o.readers))].Load()
	return r != nil && !r.lost.Load()
}

// balance hands over what is more than this worker's share if somebody has less than his, and takes what nobody has.
func (o *owner) balance() {
	mine, others := o.all(), o.members.there()
	share := (len(o.readers) + len(others)) / (len(others) + 1) // rounded up
	lacking, taken := 0, make([]bool, len(o.readers))
	for _, beat := range others {
		lacking += max(0, share-len(beat.Parts)-beat.Barred)
		for _, n := range beat.Parts {
			if n >= 0 && n < len(taken) {
				taken[n] = true
			}
		}
	}
	for i := range min(lacking, len(mine)-share) {
		o.handOver(mine[len(mine)-1-i])
	}
	o.takeVacant(share-len(mine), taken)
}

// takeVacant takes so many partitions that nobody says he has, and those that nobody has had for a lease: who should
// have them cannot read them.
func (o *owner) takeVacant(most int, taken []bool) {
	var takes sync.WaitGroup
	for _, n := range o.order() {
		r := o.readers[n].Load()
		if r != nil && taken[n] && !r.leaving.Load() {
			takes.Go(func() { o.recheck(r) })
		}
		switch {
		case taken[n] || r != nil || o.barred[n].Load():
			o.vacant[n] = 0
		case most > 0 || o.vacant[n] > beatsPerLease:
			most--
			takes.Go(func() { o.takeIfGone(n) })
		}
	}
	takes.Wait()
}

func (o *owner) takeIfGone(n int) {
	ctx, cancel := context.WithTimeout(o.ctx, publishTimeout)
	defer cancel()
	took, err := o.take(ctx, n, func(r *reader) (bool, error) { return o.members.isGone(ctx, r.before) })
	switch {
	case took:
		o.vacant[n] = 0
	case errors.Is(err, errNewer):
		o.bar(n, err)
	case err != nil && o.ctx.Err() == nil:
		o.w.log.limited("webhook queue: a partition is not taken, tried again", err)
	}
}

// recheck makes sure of a partition that another worker says it has. It may have been taken because this one did not
// get on; if it does now it would send what was delivered long ago, until it writes a record.
func (o *owner) recheck(r *reader) {
	ctx, cancel := context.WithTimeout(o.ctx, publishTimeout)
	defer cancel()
	if _, err := r.found(ctx); errors.Is(err, errTaken) {
		o.lose(r, err)
	}
}

// soon has run look again.
func (o *owner) soon() {
	select {
	case o.again <- struct{}{}:
	default:
	}
}

// order is that in which partitions are taken: workers that start together begin at different ones.
func (o *owner) order() []int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(o.w.id))
	first := int(h.Sum32() % uint32(len(o.readers)))
	all := make([]int, len(o.readers))
	for i := range all {
		all[i] = (first + i) % len(all)
	}
	return all
}

// observe counts beats for what nobody has, and once a lease looks for partitions whose owner is alive but does not get
// on: there have been events for three leases, and the record has not changed. These are taken too.
func (o *owner) observe() {
	for n := range o.vacant {
		o.vacant[n]++
	}
	if o.beats++; o.beats < beatsPerLease || o.halted() || o.lease.suspended() {
		return
	}
	o.beats = 0
	ctx, cancel := context.WithTimeout(o.ctx, publishTimeout)
	defer cancel()
	waiting, err := o.w.q.waiting(ctx)
	if err != nil {
		clear(o.stuck) // nobody gets on
		return
	}
	for n := range o.stuck {
		if o.standsStill(ctx, n, waiting[n] > 0) {
			o.takeAnyway(ctx, n)
		}
	}
}

// standsStill reports whether another's record has not changed for three leases.
func (o *owner) standsStill(ctx context.Context, n int, waits bool) bool {
	s := &o.stuck[n]
	if !waits || o.readers[n].Load() != nil || o.barred[n].Load() {
		*s = stuck{}
		return false
	}
	entry, err := o.w.q.leases.Get(ctx, recordKey(n))
	if err != nil || entry.Revision() != s.revision {
		*s = stuck{}
		if err == nil {
			s.revision = entry.Revision()
		}
		return false
	}
	s.leases++
	return s.leases > 3
}

func (o *owner) takeAnyway(ctx context.Context, n int) {
	seen := o.stuck[n].revision
	took, err := o.take(ctx, n, func(r *reader) (bool, error) { return r.revision == seen, nil })
	if took {
		o.w.log.Warn("webhook queue: a partition was taken from a worker that does not get on", "partition", n)
	}
	if errors.Is(err, errNewer) {
		o.bar(n, err)
	}
}

// take takes a partition if it may, and begins to read it. The record is read before its owner is judged, and is
// written if nobody has written it since: so an owner who comes back in between keeps it.
func (o *owner) take(ctx context.Context, n int, may func(*reader) (bool, error)) (bool, error) {
	r := newReader(o.w, n)
	if err := r.locate(ctx); err != nil {
		return false, err
	}
	if may != nil {
		if it, err := may(r); !it || err != nil {
			return false, err
		}
	}
	if err := r.own(ctx); err != nil {
		if errors.Is(err, errTaken) {
			err = nil
		}
		return false, err
	}
	o.begin(n, r)
	if may != nil {
		o.w.log.Info("webhook queue: a partition is taken", "partition", n, "worker", o.w.id, "from", r.before, "epoch", r.epoch)
		o.w.taken.Add(1)
		o.tell()
	}
	return true, nil
}

// begin has a partition read. close sees either nothing of it or all.
func (o *owner) begin(n int, r *reader) {
	o.beginning.Lock()
	defer o.beginning.Unlock()
	o.readers[n].Store(r)
	r.start()
}

// tell has others know that the worker has other partitions, and run look again.
func (o *owner) tell() {
	select {
	case o.news <- struct{}{}:
	default:
	}
	o.soon()
}

// bar leaves a partition to others for good.
func (o *owner) bar(n int, err error) {
	if !o.barred[n].Swap(true) {
		o.w.fail(n, err)
	}
}

// fail is for a reader that cannot go on.
func (o *owner) fail(r *reader, err error) {
	switch {
	case errors.Is(err, errTaken), errors.Is(err, errReplaced):
		if o.w.cfg.Alone {
			o.w.fail(r.partition, err)
		}
		o.lose(r, err)
	case o.w.cfg.Alone: // there is nobody to leave it to
		o.w.fail(r.partition, err)
	default:
		o.bar(r.partition, err)
		o.handOver(r)
	}
}

// lose is for a partition that another worker has, or whose stream is another one: what this worker knows of it is
// worth nothing.
func (o *owner) lose(r *reader, why error) {
	if r.lost.Swap(true) {
		return
	}
	o.w.lost.Add(1)
	o.w.log.Warn("webhook queue: a partition is lost", "partition", r.partition, "why", why)
	o.leave(r, func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = o.w.d.Drop(ended, r.has)
	})
}

// handOver has another worker take a partition: when nothing of it is on the wire, and how far it has got is noted.
func (o *owner) handOver(r *reader) {
	o.leave(r, func() {
		ctx, cancel := context.WithTimeout(o.wire, o.w.cfg.HandoverWait)
		defer cancel()
		o.release(ctx, r)
	})
}

// leave ends a reader, once.
func (o *owner) leave(r *reader, forget func()) {
	if r.leaving.Swap(true) {
		return
	}
	go func() {
		defer close(r.gone)
		r.stop()
		forget()
		o.readers[r.partition].CompareAndSwap(r, nil)
		o.tell()
	}()
}

// release forgets what the Dispatcher has of a partition, within ctx's time, and notes how far it has got and that
// nobody has it.
func (o *owner) release(ctx context.Context, r *reader) error {
	_ = o.w.d.Drop(ctx, r.has)
	o.w.letters.wait(ctx)
	last, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	return r.finish(last, "")
}

func (o *owner) halted() bool {
	select {
	case <-o.halt:
		return true
	default:
		return false
	}
}

// close hands everything over. Signs of life are given until that is done.
func (o *owner) close(ctx context.Context) error {
	close(o.halt)
	if o.w.cfg.Alone {
		return o.closeAlone(ctx)
	}
	wait := o.w.cfg.HandoverWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	wire, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(wire, o.hurry)() // also what balance has begun to hand over
	err := o.releaseAll(wire)
	o.cancel()
	o.loops.Wait()
	err = errors.Join(err, o.releaseAll(wire)) // what was taken at the last moment
	o.lease.end()
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), o.interval())
	defer cancelLast()
	_ = o.members.beat(last, heartbeat{Left: true}) // else the others find out
	return err
}

// releaseAll hands over what is read now.
func (o *owner) releaseAll(ctx context.Context) error {
	var mu sync.Mutex
	var errs []error
	var all []*reader
	o.beginning.Lock()
	for n := range o.readers {
		if r := o.readers[n].Load(); r != nil {
			all = append(all, r)
		}
	}
	o.beginning.Unlock()
	for _, r := range all {
		o.leave(r, func() {
			err := o.release(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	for _, r := range all {
		<-r.gone
	}
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(errs...)
}

func (o *owner) closeAlone(ctx context.Context) error {
	all := o.all()
	o.w.deliver(ctx, all)
	var errs []error
	for _, r := range all {
		errs = append(errs, r.finish(ctx, o.w.id))
	}
	o.cancel()
	return errors.Join(errs...)
}
