package fleet

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook/queue"
)

// serverProcess is one engine of a cluster, until SIGTERM.
func serverProcess() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	port, _ := strconv.Atoi(os.Getenv("FLEET_PORT"))
	route, _ := strconv.Atoi(os.Getenv("FLEET_ROUTE"))
	s, err := server.NewServer(&server.Options{
		ServerName: os.Getenv("FLEET_NAME"), Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, JetStream: true, StoreDir: os.Getenv("FLEET_STORE"),
		Cluster: server.ClusterOpts{Name: "fleet", Host: "127.0.0.1", Port: route}, Routes: server.RoutesFromStr(os.Getenv("FLEET_ROUTES")),
		JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 64 << 20,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.Start()
	fmt.Println("runs")
	<-term
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}

// A cluster is three engines, each a process.
type cluster struct {
	t       *testing.T
	servers [3]*process
	env     [3][]string
	urls    [3]string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t}
	ports := freePorts(t, 6)
	var routes []string
	for i := range c.servers {
		routes = append(routes, fmt.Sprint("nats://127.0.0.1:", ports[3+i]))
		c.urls[i] = fmt.Sprint("nats://127.0.0.1:", ports[i])
	}
	for i := range c.servers {
		c.env[i] = []string{fmt.Sprint("FLEET_NAME=", i), fmt.Sprint("FLEET_PORT=", ports[i]), fmt.Sprint("FLEET_ROUTE=", ports[3+i]),
			"FLEET_ROUTES=" + strings.Join(routes, ","), "FLEET_STORE=" + t.TempDir()}
		c.start(i)
	}
	nc := connect(t, c.url())
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.True(t, settlesWithin(30*time.Second, func() bool { // it has a leader
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	}))
	nc.Close()
	return c
}

func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (c *cluster) url() string { return strings.Join(c.urls[:], ",") }

func (c *cluster) start(i int) {
	c.t.Helper()
	c.servers[i] = start(c.t, "server", c.env[i]...)
	c.servers[i].says(c.t, "runs")
}

// leader returns the server that leads a stream, or -1 while none does.
func (c *cluster) leader(nc *nats.Conn, stream string) int {
	js, err := jetstream.New(nc)
	require.NoError(c.t, err)
	ctx, cancel := context.WithTimeout(c.t.Context(), 500*time.Millisecond)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().Cluster == nil {
		return -1
	}
	i, err := strconv.Atoi(s.CachedInfo().Cluster.Leader)
	if err != nil {
		return -1
	}
	return i
}

// epochs returns how often each partition was taken.
func (c *cluster) epochs(q *queue.Queue) (all []uint64) {
	status, err := q.Partitions(c.t.Context())
	require.NoError(c.t, err)
	for _, s := range status {
		all = append(all, s.Epoch)
	}
	return all
}

// The leader of the events is killed with -9, again and again. Nothing that was acknowledged is lost, late or twice,
// nobody's partitions are taken, and it goes on soon after there is a new leader.
func TestKilledLeadersOfThreeServers(t *testing.T) {
	kills := 1
	if n, err := strconv.Atoi(os.Getenv("FLEET_KILLS")); err == nil {
		kills = n
	}
	c := newCluster(t)
	q := openQueue(t, c.url())
	l := newLoad(t, q, 20, 2, 4)
	cfg := workerConfig()
	cfg.Logger = stderrLogger()
	a, b := newWorker(t, openQueue(t, c.url()), cfg), newWorker(t, openQueue(t, c.url()), cfg)
	shares(t, a, b)
	epochs := c.epochs(q)
	l.run(20 * time.Millisecond)
	nc := connect(t, c.url())
	for range kills {
		before := l.r.numbers()
		require.True(t, settlesWithin(30*time.Second, func() bool { return l.r.numbers() > before+500 }))
		leads := -1
		require.True(t, settles(func() bool { leads = c.leader(nc, "WH_EV"); return leads >= 0 }))
		c.servers[leads].kill()
		at := time.Now()
		require.True(t, settlesWithin(30*time.Second, func() bool { now := c.leader(nc, "WH_EV"); return now >= 0 && now != leads }))
		elected := time.Now()
		stored := l.emitter.Stats().Durable
		require.True(t, settlesWithin(30*time.Second, func() bool { return l.emitter.Stats().Durable > stored }))
		resumed := time.Now()
		before = l.r.numbers()
		require.True(t, settlesWithin(30*time.Second, func() bool { return l.r.numbers() > before }))
		t.Logf("a new leader after %v, stored again %v later, delivered again %v later", elected.Sub(at).Round(time.Millisecond),
			resumed.Sub(elected).Round(time.Millisecond), time.Since(elected).Round(time.Millisecond))
		c.start(leads)
	}
	duplicates, late := l.end()
	require.Zero(t, late)
	t.Logf("%d events to each of 40 endpoints, %d duplicates", l.emitted, duplicates)
	require.Equal(t, epochs, c.epochs(q), "no partition changes its owner")
	require.Zero(t, a.Stats().Lost+b.Stats().Lost)
	require.Zero(t, duplicates)
}
