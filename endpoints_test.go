package webhook_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An endpoint speaks HTTP by hand, so that it can do what no HTTP server does.
type endpoint struct {
	url         string
	connections atomic.Int64
	requests    atomic.Int64
	open        atomic.Int64 // connections that are not closed yet
}

// newEndpoint listens on loopback and calls serve for the n-th request, from 1, once all of it has been read.
// The connection is closed when serve returns false.
func newEndpoint(t testing.TB, serve func(c net.Conn, n int64) bool) *endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e := &endpoint{url: "http://" + l.Addr().String() + "/"}
	var conns sync.Map
	t.Cleanup(func() {
		_ = l.Close()
		conns.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		require.True(t, settles(func() bool { return e.open.Load() == 0 }), "connections left open")
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.connections.Add(1)
			e.open.Add(1)
			conns.Store(c, true)
			go func() {
				defer e.open.Add(-1)
				defer conns.Delete(c)
				defer c.Close()
				e.serve(c, serve)
			}()
		}
	}()
	return e
}

func (e *endpoint) serve(c net.Conn, serve func(c net.Conn, n int64) bool) {
	for r := bufio.NewReader(c); ; {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if !serve(c, e.requests.Add(1)) {
			return
		}
	}
}

// say writes s and keeps the connection.
func say(c net.Conn, s string) bool {
	_, err := io.WriteString(c, s)
	return err == nil
}

// reset closes a connection so that the other side sees a reset, not an end.
func reset(c net.Conn) bool {
	_ = c.(*net.TCPConn).SetLinger(0)
	return false
}

// hang waits until the other side goes away.
func hang(c net.Conn) bool {
	_, _ = c.Read(make([]byte, 1))
	return false
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// certificate makes a server certificate of an authority that nobody trusts, or that pool is told to.
func certificate(t testing.TB, name string, notAfter time.Time, pool *x509.CertPool, more ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = append([]string{name}, more...)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	if pool != nil {
		pool.AddCert(leaf)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// newPlainServer is one server that accepts everything, for benchmarks.
func newPlainServer(t testing.TB) string {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
