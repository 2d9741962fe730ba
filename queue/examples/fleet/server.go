package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"
)

// serve is one of three NATS servers that keep the queue.
func serve(ctx context.Context, j job) error {
	s, err := server.NewServer(&server.Options{
		ServerName: j.Name, Host: "127.0.0.1", Port: j.Ports[0], NoSigs: true,
		JetStream: true, StoreDir: filepath.Join(j.Dir, j.Name), SyncAlways: j.SyncAlways,
		Cluster: server.ClusterOpts{Name: "fleet", Host: "127.0.0.1", Port: j.Ports[1]},
		Routes:  server.RoutesFromStr(j.Routes),
		LogFile: filepath.Join(j.Dir, j.Name+".log"), Logtime: true,
	})
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(patience) {
		return errors.New("the server does not start")
	}
	ready(s.ClientURL())
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// freePorts returns ports of loopback that nobody listens on.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after all were found, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func natsURL(port int) string { return fmt.Sprintf("nats://127.0.0.1:%d", port) }
