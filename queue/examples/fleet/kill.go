package main

import (
	"context"
	"time"
)

// quiet is how long nothing is killed between two kills.
const quiet = 2 * time.Second

// killInTurn kills a server, a worker and a node, and restarts a worker, as often as the options say.
func (f *fleet) killInTurn(ctx context.Context, o options) error {
	for i := range max(o.leaders, o.workers, o.nodes) {
		for _, step := range []struct {
			times int
			kill  func(context.Context, int) error
		}{{o.leaders, f.killLeader}, {o.workers, f.killWorker}, {o.workers, f.restartWorker}, {o.nodes, f.killNode}} {
			if i >= step.times {
				continue
			}
			if err := f.pause(ctx); err != nil {
				return err
			}
			if err := step.kill(ctx, i%2); err != nil {
				return err
			}
		}
	}
	return f.pause(ctx)
}

func (f *fleet) pause(ctx context.Context) error {
	select {
	case <-time.After(quiet):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flowing waits until every tenant has received something that was emitted after now, and returns how long that took.
func (f *fleet) flowing(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	err := f.until(ctx, "all tenants receive again", func(ctx context.Context) (bool, error) {
		s, err := f.tally(ctx)
		for i := range tenants {
			if !s.Apps[appID(i)].At.After(now) {
				return false, err
			}
		}
		return true, err
	})
	return time.Since(now), err
}

// killLeader kills the server that leads the stream. No partition changes hands for that.
func (f *fleet) killLeader(ctx context.Context, _ int) error {
	leader, err := f.leader(ctx)
	if err != nil {
		return err
	}
	before, err := f.epochs(ctx)
	if err != nil {
		return err
	}
	f.say("kill -9 %s, which leads the stream", f.servers[leader].job.Name)
	f.servers[leader].kill()
	took, err := f.flowing(ctx)
	if err != nil {
		return err
	}
	f.say("another leads: all tenants receive again, after %.1fs", took.Seconds())
	f.leaderKills = append(f.leaderKills, took)
	if err := f.restart(ctx, leader); err != nil {
		return err
	}
	if err := f.inSync(ctx); err != nil {
		return err
	}
	f.say("%s is back and has all that is stored", f.servers[leader].job.Name)
	after, err := f.epochs(ctx)
	f.handedOver += int(after - before)
	return err
}

func (f *fleet) killWorker(ctx context.Context, i int) error {
	name := f.workers[i].job.Name
	f.say("kill -9 %s", name)
	f.workers[i].kill()
	took, err := f.flowing(ctx)
	if err != nil {
		return err
	}
	f.say("the other has taken over: all tenants receive again, after %.1fs", took.Seconds())
	f.workerKills = append(f.workerKills, took)
	if err := f.startWorker(ctx, i); err != nil {
		return err
	}
	f.say("%s is back", name)
	return f.shared(ctx)
}

// restartWorker is what a deployment does.
func (f *fleet) restartWorker(ctx context.Context, i int) error {
	i = 1 - i // the one that was not killed
	name := f.workers[i].job.Name
	f.say("SIGTERM for %s, as in a deployment", name)
	began := time.Now()
	if err := f.workers[i].end(); err != nil {
		return err
	}
	ended := time.Since(began)
	rest, err := f.flowing(ctx)
	if err != nil {
		return err
	}
	f.say("it has handed over and ended after %.1fs; all tenants receive after %.1fs", ended.Seconds(), (ended + rest).Seconds())
	f.restarts = append(f.restarts, ended+rest)
	if err := f.startWorker(ctx, i); err != nil {
		return err
	}
	f.say("%s is back", name)
	return f.shared(ctx)
}

func (f *fleet) killNode(ctx context.Context, i int) error {
	name := f.nodes[i].job.Name
	f.say("kill -9 %s, and start it again", name)
	began := time.Now()
	f.nodes[i].kill()
	if err := f.startNode(ctx, i); err != nil {
		return err
	}
	started := time.Since(began)
	rest, err := f.flowing(ctx)
	if err != nil {
		return err
	}
	took := started + rest
	f.say("it emits again: all tenants receive, after %.1fs", took.Seconds())
	f.nodeKills = append(f.nodeKills, took)
	return nil
}
