package h2test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A server speaks HTTP/2 frame by frame, so that it can do what no HTTP/2 server does.
type server struct {
	url         string
	connections atomic.Int64
	held        atomic.Int64 // sockets of its own
	before      int          // sockets of the process
}

// newServer listens on loopback and calls serve for every connection, once the client's preface has been read. The
// connection is closed when serve returns.
func newServer(t *testing.T, serve func(c *conn)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{url: "https://" + l.Addr().String(), before: sockets()}
	var conns sync.Map
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		conns.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		running.Wait()
	})
	running.Go(func() {
		for {
			tcp, err := l.Accept()
			if err != nil {
				return
			}
			_ = tcp.(*net.TCPConn).SetReadBuffer(4 << 10) // so that not reading shows soon
			conns.Store(tcp, true)
			s.connections.Add(1)
			s.held.Add(1)
			running.Go(func() {
				defer s.held.Add(-1)
				defer conns.Delete(tcp)
				defer tcp.Close()
				if c := handshake(tcp); c != nil {
					serve(c)
				}
			})
		}
	})
	return s
}

// clients is how many sockets the other side has open, where /proc tells.
func (s *server) clients() int { return sockets() - s.before - int(s.held.Load()) }

// handshake is TLS and HTTP/2's preface, or nil if the client does not get so far.
func handshake(tcp net.Conn) *conn {
	secure := tls.Server(tcp, &tls.Config{Certificates: identity.certificates, NextProtos: []string{http2.NextProtoTLS}})
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(secure, preface); err != nil || string(preface) != http2.ClientPreface {
		return nil
	}
	c := &conn{Framer: http2.NewFramer(secure, secure), secure: secure}
	c.encoder = hpack.NewEncoder(&c.header)
	return c
}

// A conn is one connection of a server.
type conn struct {
	*http2.Framer
	secure  net.Conn
	mu      sync.Mutex // for handlers that write while the connection is read
	header  bytes.Buffer
	encoder *hpack.Encoder
}

// open lets the client send as much as it likes.
func (c *conn) open() {
	const most = 1<<31 - 1
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: most})
	_ = c.WriteWindowUpdate(0, most-65535)
}

// next reads frames, and acknowledges those that ask for it, until one begins or ends a request.
func (c *conn) next() (f http2.Frame, err error) {
	for {
		if f, err = c.ReadFrame(); err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.HeadersFrame, *http2.DataFrame:
			return f, nil
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.locked(func() { _ = c.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.locked(func() { _ = c.WritePing(true, f.Data) })
			}
		}
	}
}

// headers waits for the next request's, and returns its stream. 0 is the end of the connection.
func (c *conn) headers() uint32 {
	for {
		f, err := c.next()
		if err != nil {
			return 0
		}
		if h, ok := f.(*http2.HeadersFrame); ok {
			return h.StreamID
		}
	}
}

// request reads all of the next request, and lets the client go on sending. 0 is the end of the connection.
func (c *conn) request() uint32 {
	for {
		f, err := c.next()
		if err != nil {
			return 0
		}
		if data, ok := f.(*http2.DataFrame); ok {
			c.grant(data)
			if data.StreamEnded() {
				return data.StreamID
			}
		}
	}
}

// grant opens the windows again by what has been received.
func (c *conn) grant(data *http2.DataFrame) {
	if n := data.Header().Length; n > 0 {
		c.locked(func() {
			_ = c.WriteWindowUpdate(0, n)
			_ = c.WriteWindowUpdate(data.StreamID, n)
		})
	}
}

// answer ends a stream with a status.
func (c *conn) answer(stream uint32, status string) {
	c.locked(func() {
		c.header.Reset()
		_ = c.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: status})
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.header.Bytes(), EndHeaders: true, EndStream: true})
	})
}

func (c *conn) locked(write func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	write()
}

// identity is the certificate of every server here, for 127.0.0.1, and who trusts it.
var identity = func() (id struct {
	certificates []tls.Certificate
	roots        *x509.CertPool
}) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	id.certificates, id.roots = s.TLS.Certificates, x509.NewCertPool()
	id.roots.AddCert(s.Certificate())
	return id
}()
