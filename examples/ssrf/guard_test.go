package ssrf

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// A listener counts the connections that reach it.
type listener struct {
	net.Listener
	accepted atomic.Int64
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

// serve starts a server on a loopback address and returns its port.
func serve(t *testing.T, address string, handler http.HandlerFunc) (*listener, string) {
	t.Helper()
	inner, err := net.Listen("tcp", address)
	require.NoError(t, err)
	l := &listener{Listener: inner}
	server := httptest.NewUnstartedServer(handler)
	require.NoError(t, server.Listener.Close())
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(inner.Addr().String())
	require.NoError(t, err)
	return l, port
}

func accept(http.ResponseWriter, *http.Request) {}

// deliver emits an event for an endpoint and returns the number of attempts and why it was given up: nil if it was
// not. What is not final is tried again, once.
func deliver(t *testing.T, url string, options ...ssrf.Option) (attempts int, err error) {
	t.Helper()
	sender, err := NewSender(webhook.HTTPConfig{}, options...)
	require.NoError(t, err)
	defer sender.CloseIdleConnections()
	dispatcher, err := webhook.New(webhook.Config{
		Apps: []webhook.App{{ID: "app", Key: "key", Secret: "secret", Webhooks: []webhook.Webhook{
			{URL: url, EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}},
		}}},
		RetryWaitMin: time.Millisecond, RetryWaitMax: time.Millisecond, RetryFor: time.Nanosecond,
		Sender: sender,
		Hooks: webhook.Hooks{
			Attempt:     func(*webhook.Delivery, webhook.Attempt) { attempts++ },
			Undelivered: func(_ *webhook.Delivery, cause error) { err = cause },
		},
	})
	require.NoError(t, err)
	require.NoError(t, dispatcher.Emit("app", webhook.ChannelOccupied("channel")))
	require.NoError(t, dispatcher.Flush(t.Context()))
	require.NoError(t, dispatcher.Close(t.Context()))
	return attempts, err
}

func TestPublicIsAllowed(t *testing.T) {
	l, port := serve(t, "127.0.0.2:0", accept)
	attempts, err := deliver(t, "http://127.0.0.2:"+port, allowed)
	require.NoError(t, err)
	require.Equal(t, 1, attempts)
	require.EqualValues(t, 1, l.accepted.Load())
}

// allowed makes one loopback address stand for a public one.
var allowed = ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.2/32"))

// The real path: whatever spelling leads to loopback, the listener there sees nothing, and the refusal is final.
func TestLoopbackIsRefused(t *testing.T) {
	v4, port := serve(t, "127.0.0.1:0", accept)
	urls := []string{"http://127.0.0.1:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://localhost:" + port, "http://0.0.0.0:" + port}
	var v6 *listener
	if probe, err := net.Listen("tcp", "[::1]:0"); err == nil { // or this machine has no IPv6
		require.NoError(t, probe.Close())
		v6, port = serve(t, "[::1]:0", accept)
		urls = append(urls, "http://[::1]:"+port)
	}
	for _, url := range urls {
		attempts, err := deliver(t, url)
		require.ErrorContains(t, err, "address refused", url)
		require.ErrorIs(t, err, webhook.ErrFinal, url)
		require.Equal(t, 1, attempts, url)
	}
	require.Zero(t, v4.accepted.Load())
	if v6 != nil {
		require.Zero(t, v6.accepted.Load())
	}
}

// An endpoint that is allowed cannot send us on to one that is not.
func TestRedirectIsNoWayAround(t *testing.T) {
	internal, port := serve(t, "127.0.0.1:0", accept)
	_, publicPort := serve(t, "127.0.0.2:0", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:"+port, http.StatusTemporaryRedirect)
	})
	attempts, err := deliver(t, "http://127.0.0.2:"+publicPort, allowed)
	require.Equal(t, 2, attempts, "a redirect is a failure, but not final")
	require.ErrorContains(t, err, "endpoint answered 307")
	require.Zero(t, internal.accepted.Load())
}

// Every other range is asked of the guard itself: no test dials such an address.
func TestForbiddenRanges(t *testing.T) {
	guard := ssrf.New(ssrf.WithAnyPort()).Safe
	for _, address := range []string{
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
		"192.0.2.1", "198.18.0.1", "fe80::1", "fc00::1", "::", "::1", "::ffff:10.0.0.1", "2001:db8::1", "64:ff9b::a00:1",
		"100.100.100.200", "192.0.0.192", // metadata of clouds
		"64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::7f00:1", "0.0.0.1", // other ways to write, or to reach, what is above
	} {
		network := "tcp4"
		if strings.Contains(address, ":") {
			network = "tcp6"
		}
		require.Error(t, guard(network, net.JoinHostPort(address, "443"), nil), address)
	}
	require.NoError(t, guard("tcp4", "93.184.215.14:443", nil))
	require.NoError(t, guard("tcp6", "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443", nil))
}
