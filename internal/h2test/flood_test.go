//go:build unix

package h2test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/pusherhooks/webhook"
)

// floods are what an endpoint writes, again and again, once it has answered a request.
var floods = map[string]func(f *http2.Framer){
	"PING":     func(f *http2.Framer) { _ = f.WritePing(false, [8]byte{}) },
	"SETTINGS": func(f *http2.Framer) { _ = f.WriteSettings() },
}

var floodWith = flag.String("flood", "", "be an endpoint that answers and then floods with this kind of frame")

// TestMain lets a test start an endpoint as a process of its own, whose use of the CPU is not the sender's.
func TestMain(m *testing.M) {
	flag.Parse()
	if flood := floods[*floodWith]; flood != nil {
		serveFlood(flood)
		return
	}
	os.Exit(m.Run())
}

// serveFlood prints its URL, and ends when its standard input does.
func serveFlood(flood func(f *http2.Framer)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("https://" + l.Addr().String())
	go func() {
		for {
			tcp, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c := handshake(tcp)
				_ = c.WriteSettings()
				c.answer(c.request(), "200")
				go func() { _, _ = io.Copy(io.Discard, c.secure) }() // the acknowledgements
				many := bufio.NewWriterSize(c.secure, 16<<10)
				for f := http2.NewFramer(many, nil); many.Flush() == nil; {
					for range 1000 {
						flood(f)
					}
				}
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A flood of frames that have to be acknowledged costs the sender CPU, and net/http does not bound how much. It costs
// no memory, and it ends with its connection. The neighbour, on another host, is served meanwhile.
func TestFloodOnAnIdleConnection(t *testing.T) {
	for kind := range floods {
		t.Run(kind, func(t *testing.T) {
			url := startFlood(t, kind)
			good := newServer(t, obedient())
			s := newSender(t)
			delivered := make(chan time.Duration, 1)
			d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("flood", url), testApp("good", good.url)}, Sender: s,
				Hooks: webhook.Hooks{Delivered: func(d *webhook.Delivery, _ time.Duration) { delivered <- time.Since(d.CreatedAt) }}})
			before := heap()
			require.NoError(t, d.Emit("flood", small))
			<-delivered // and now it floods
			share, took := measure(t, d, delivered)
			t.Logf("flooded: %.2f of a core, p99 of others %v", share, took)
			require.Less(t, took, 500*time.Millisecond)
			require.Less(t, heap()-before, int64(2<<20))
			s.CloseIdleConnections()
			share, took = measure(t, d, delivered)
			t.Logf("after it: %.2f of a core, p99 of others %v", share, took)
			require.Less(t, share, 0.2, "the flood has ended with its connection")
		})
	}
}

// measure delivers the good app's events, a hundred in a second, and returns how much of a core this process has used
// and how long the slowest but one took.
func measure(t *testing.T, d *webhook.Dispatcher, delivered <-chan time.Duration) (share float64, p99 time.Duration) {
	t.Helper()
	used, start := cpu(), time.Now()
	var took []time.Duration
	for tick := time.NewTicker(10 * time.Millisecond); len(took) < 100; <-tick.C {
		require.NoError(t, d.Emit("good", small))
		took = append(took, <-delivered)
	}
	slices.Sort(took)
	return float64(cpu()-used) / float64(time.Since(start)), took[98]
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func startFlood(t *testing.T, kind string) (url string) {
	t.Helper()
	endpoint := exec.Command(os.Args[0], "-flood", kind)
	in, err := endpoint.StdinPipe()
	require.NoError(t, err)
	out, err := endpoint.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, endpoint.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = endpoint.Wait()
	})
	url, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(url)
}
