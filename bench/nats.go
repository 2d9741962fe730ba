package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const natsKind = "nats"

// A natsSpec is one nats-server of a cluster, as it comes but for its addresses.
type natsSpec struct {
	Name      string
	Dir       string
	Address   string   // of the cluster's connections, which only servers make
	Addresses []string // of all of them
}

// runNATS is the server's process. It prints where clients connect once the cluster has a leader.
func runNATS(in io.Reader, out io.Writer) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return err
	}
	var spec natsSpec
	if err := json.Unmarshal(line, &spec); err != nil {
		return err
	}
	o, err := spec.options()
	if err != nil {
		return err
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	for deadline := time.Now().Add(time.Minute); !s.ReadyForConnections(time.Second) || !s.JetStreamIsCurrent(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("nats-server: the cluster has no leader")
		}
	}
	if _, err := fmt.Fprintln(out, s.ClientURL()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, input)
	return err
}

// startLocal starts a server in this process, as queue/embedded does, and connects to it.
func startLocal(dir string, sync bool) (nc *nats.Conn, stop func(), err error) {
	s, err := server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, SyncAlways: sync, JetStreamMaxStore: 8 << 30,
	})
	if err != nil {
		return nil, nil, err
	}
	s.Start()
	if s.ReadyForConnections(time.Minute) {
		nc, err = nats.Connect("", nats.InProcessServer(s))
	} else {
		err = errors.New("nats-server: not ready")
	}
	stop = func() {
		if nc != nil {
			nc.Close()
		}
		s.Shutdown()
		s.WaitForShutdown()
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return nc, stop, nil
}

func (s *natsSpec) options() (*server.Options, error) {
	cluster, err := net.ResolveTCPAddr("tcp", s.Address)
	if err != nil {
		return nil, err
	}
	o := &server.Options{
		ServerName: s.Name, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: s.Dir, JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 64 << 20,
	}
	if len(s.Addresses) == 1 {
		return o, nil
	}
	o.Cluster = server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: cluster.Port}
	for _, address := range s.Addresses {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: address})
	}
	return o, nil
}

// A natsCluster is servers on loopback, each in a process of its own.
type natsCluster struct {
	servers []*companion
	urls    []string
	pids    []int
}

func startNATS(ctx context.Context, dir string, n int) (c *natsCluster, err error) {
	addresses, err := freeAddresses(n)
	if err != nil {
		return nil, err
	}
	c = &natsCluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	for i, address := range addresses {
		name := fmt.Sprintf("server-%d", i+1)
		spec := natsSpec{Name: name, Dir: filepath.Join(dir, name), Address: address, Addresses: addresses}
		server, err := startCompanion(ctx, natsKind, spec)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, server)
		c.pids = append(c.pids, server.cmd.Process.Pid)
	}
	for _, server := range c.servers {
		url, err := server.line()
		if err != nil {
			return nil, err
		}
		c.urls = append(c.urls, url)
	}
	return c, nil
}

// freeAddresses are free when it looks: servers of a cluster have to know each other's beforehand.
func freeAddresses(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // at the end, so that they differ
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

func (c *natsCluster) stop() (err error) {
	for _, server := range c.servers {
		err = errors.Join(err, server.stop(nil))
	}
	return err
}
