package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// A fleet is the processes, seen from the first one.
type fleet struct {
	out   io.Writer
	began time.Time
	dir   string
	kept  bool // the directory

	servers, nodes, workers []*process
	receiver                *process
	urls                    string // of the servers
	rate                    float64

	nc *nats.Conn
	js jetstream.JetStream
	q  *queue.Queue

	mu     sync.Mutex
	stored [][]int // by node and run: events of each of its apps that are stored
	accounts
}

func startFleet(ctx context.Context, o options, out io.Writer) (*fleet, error) {
	f := &fleet{out: out, began: time.Now(), dir: o.dir, kept: o.dir != "", stored: make([][]int, 2)}
	if f.dir == "" {
		dir, err := os.MkdirTemp("", "fleet")
		if err != nil {
			return f, err
		}
		f.dir = dir
	} else if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return f, err
	}
	f.rate = float64(o.rate) / (tenants * eventsPerRound)
	fmt.Fprintf(out, `Three NATS servers keep what two nodes emit. Two workers deliver it to a receiver, which verifies and counts.
Each is a process. %d tenants have a channel each, and %d events happen a second in all.

`, tenants, o.rate)
	if err := f.startServers(ctx, o.syncAlways); err != nil {
		return f, err
	}
	var err error
	if f.receiver, err = start(ctx, job{Role: "receiver", Name: "receiver", Dir: f.dir}, nil); err != nil {
		return f, err
	}
	if f.nc, f.q, err = join(ctx, f.urls, slog.New(slog.DiscardHandler)); err != nil {
		return f, err
	}
	if f.js, err = jetstream.New(f.nc); err != nil {
		return f, err
	}
	var apps []webhook.App
	for i := range tenants {
		apps = append(apps, appOf(i, f.receiver.where+"/webhooks"))
	}
	if err := f.q.ReplaceApps(ctx, apps); err != nil {
		return f, err
	}
	f.workers, f.nodes = make([]*process, 2), make([]*process, 2)
	for i := range 2 {
		if err := errors.Join(f.startWorker(ctx, i), f.startNode(ctx, i)); err != nil {
			return f, err
		}
	}
	return f, f.shared(ctx)
}

// startServers starts the cluster. Its routes are told to each beforehand.
func (f *fleet) startServers(ctx context.Context, syncAlways bool) error {
	ports, err := freePorts(6)
	if err != nil {
		return err
	}
	var clients, routes []string
	for i := range 3 {
		clients, routes = append(clients, natsURL(ports[i])), append(routes, natsURL(ports[3+i]))
	}
	f.urls = strings.Join(clients, ",")
	for i := range 3 {
		s, err := start(ctx, job{Role: "server", Name: fmt.Sprint("server-", i+1), Dir: f.dir, Ports: [2]int{ports[i], ports[3+i]},
			Routes: strings.Join(routes, ","), SyncAlways: syncAlways}, nil)
		if err != nil {
			return err
		}
		f.servers = append(f.servers, s)
	}
	return nil
}

func (f *fleet) startWorker(ctx context.Context, i int) (err error) {
	f.workers[i], err = start(ctx, job{Role: "worker", Name: fmt.Sprint("worker-", i+1), Dir: f.dir, NATS: f.urls}, nil)
	return err
}

// startNode starts a node, whose apps are every other one, and follows how much of what it emits is stored.
func (f *fleet) startNode(ctx context.Context, i int) (err error) {
	run := len(f.stored[i])
	f.mu.Lock()
	f.stored[i] = append(f.stored[i], 0)
	f.mu.Unlock()
	j := job{Role: "node", Name: fmt.Sprint("node-", i+1), Dir: f.dir, NATS: f.urls, Run: run, Rate: f.rate}
	for app := i; app < tenants; app += 2 {
		j.Apps = append(j.Apps, app)
	}
	f.nodes[i], err = start(ctx, j, func(line string) {
		rounds := 0
		if _, err := fmt.Sscanf(line, "stored %d", &rounds); err == nil {
			f.mu.Lock()
			f.stored[i][run] = rounds * eventsPerRound
			f.mu.Unlock()
		}
	})
	return err
}

// restart starts a server again, on the ports and the store that it had.
func (f *fleet) restart(ctx context.Context, i int) (err error) {
	f.servers[i], err = start(ctx, f.servers[i].job, nil)
	return err
}

func (f *fleet) say(format string, args ...any) {
	fmt.Fprintf(f.out, "%6.1fs  %s\n", time.Since(f.began).Seconds(), fmt.Sprintf(format, args...))
}

// tally asks the receiver.
func (f *fleet) tally(ctx context.Context) (s sum, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.receiver.where+"/tally", nil)
	if err != nil {
		return s, err
	}
	answer, err := direct.Do(request)
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// direct knows no proxy: the receiver is on loopback.
var direct = &http.Client{Transport: &http.Transport{}}

// until asks again and again until something is so.
func (f *fleet) until(ctx context.Context, what string, so func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		yes, err := so(ctx)
		if err == nil && yes {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("after %v not yet: %s", patience, what), err)
		}
	}
}

// shared waits until both workers have their share of the partitions.
func (f *fleet) shared(ctx context.Context) error {
	var owners map[string]int
	err := f.until(ctx, "two workers share the partitions", func(ctx context.Context) (bool, error) {
		all, err := f.q.Partitions(ctx)
		owners = make(map[string]int)
		for _, p := range all {
			owners[p.Owner]++
		}
		least := len(all)
		for _, n := range owners {
			least = min(least, n)
		}
		return owners[""] == 0 && len(owners) == 2 && least >= len(all)/2, err
	})
	if err == nil {
		for _, n := range owners {
			f.say("each worker has %d of %d partitions", n, n*len(owners))
			break
		}
	}
	return err
}

// epochs is how often partitions have changed hands.
func (f *fleet) epochs(ctx context.Context) (n uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := f.q.Partitions(ctx)
	for _, p := range all {
		n += p.Epoch
	}
	return n, err
}

// leader is the index of the server that leads the stream of events.
func (f *fleet) leader(ctx context.Context) (index int, err error) {
	err = f.until(ctx, "the stream has a leader", func(ctx context.Context) (bool, error) {
		s, err := f.js.Stream(ctx, "WH_EV")
		if err != nil {
			return false, err
		}
		for i := range f.servers {
			if c := s.CachedInfo().Cluster; c != nil && c.Leader == f.servers[i].job.Name {
				index = i
				return true, nil
			}
		}
		return false, nil
	})
	return index, err
}

// inSync waits until all servers have all that is stored.
func (f *fleet) inSync(ctx context.Context) error {
	return f.until(ctx, "all servers have all that is stored", func(ctx context.Context) (bool, error) {
		all := f.js.ListStreams(ctx)
		for s := range all.Info() {
			if s.Cluster == nil || s.Cluster.Leader == "" || len(s.Cluster.Replicas) != 2 {
				return false, nil
			}
			for _, r := range s.Cluster.Replicas {
				if !r.Current || r.Offline {
					return false, nil
				}
			}
		}
		return true, all.Err()
	})
}

// end ends what still runs, and forgets the stores and logs unless they are kept.
func (f *fleet) end() {
	if f.nc != nil {
		f.nc.Close()
	}
	for _, p := range append(append(append(f.nodes, f.workers...), f.servers...), f.receiver) {
		if p != nil {
			p.kill()
		}
	}
	if !f.kept {
		_ = os.RemoveAll(f.dir)
	}
}

// keep has the directory stay, and returns its name.
func (f *fleet) keep() string {
	f.kept = true
	return f.dir
}
