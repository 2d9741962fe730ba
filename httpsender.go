package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// HTTPConfig configures an HTTPSender. The zero value of every field means its default.
type HTTPConfig struct {
	// Transport makes the requests. Default NewTransport, of this same config.
	Transport http.RoundTripper

	// WrapTransport puts something around the transport, to trace or to record. It sees each request with its whole
	// URL and all headers.
	WrapTransport func(http.RoundTripper) http.RoundTripper

	// DialControl is called before every connection with the address that was resolved; its error refuses the
	// address, and gives up the delivery. This is where a guard against requests to internal addresses plugs in. It
	// belongs to the default Transport, as TLS and HTTP2 do, and is an error together with another.
	DialControl func(network, address string, c syscall.RawConn) error

	// TLS has the roots to trust, client certificates and the like. Versions below 1.2 are never spoken.
	TLS *tls.Config

	// HTTP2 allows HTTP/2 where an endpoint offers it. There all endpoints of one host share connections: while an
	// attempt of one that does not read lasts, up to Timeout, the others of that host may wait for it. Pings and write
	// timeouts end a connection that is dead or not read within half of Timeout. Nothing bounds the CPU that an endpoint
	// takes with a flood of frames to acknowledge, so leave it off where tenants choose the URLs. Default off.
	HTTP2 bool

	// Timeout bounds one attempt, up to the status of the answer. Default 10s.
	Timeout time.Duration

	// UserAgent is sent unless the app's own headers have one. Default "pusher-webhooks", which some receivers look for.
	UserAgent string
}

// A StatusError is an answer other than 2xx.
//
// 410 Gone is ErrFinal. 408, 425, 429, 502, 503 and 504 say that the endpoint cannot answer now, and 3xx that it is
// elsewhere: failures. Redirects are never followed: a redirect would send the signed body to a URL the endpoint chose.
// Every other 4xx and 5xx is ErrRefused.
type StatusError struct {
	Code  int
	Body  string        // the first 512 bytes of the answer; not part of Error, as it may repeat what was sent
	After time.Duration // what a Retry-After asks for; zero if nothing
}

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("endpoint answered %d %s", e.Code, http.StatusText(e.Code)))
}

// RetryAfter is how long the endpoint asks to wait.
func (e *StatusError) RetryAfter() time.Duration { return e.After }

// Is reports what the status means to the dispatcher.
func (e *StatusError) Is(target error) bool {
	switch e.Code {
	case http.StatusGone:
		return target == ErrFinal
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return target == ErrRefused && e.Code >= 400 && e.Code < 600
}

// dialRefusedError marks an error of the user's DialControl.
type dialRefusedError struct{ err error }

func (e *dialRefusedError) Error() string        { return "address refused: " + e.err.Error() }
func (e *dialRefusedError) Unwrap() error        { return e.err }
func (e *dialRefusedError) Is(target error) bool { return target == ErrFinal }

// An HTTPSender makes an attempt by HTTP POST. A 2xx status is success; every other is a *StatusError. It may be
// shared by several Dispatchers.
type HTTPSender struct {
	client    *retryablehttp.Client
	transport http.RoundTripper
	timeout   time.Duration
	userAgent []string
	late      error // of an attempt that took too long
}

// NewHTTPSender returns a Sender for cfg. Its error reports every fault of cfg at once.
func NewHTTPSender(cfg HTTPConfig) (*HTTPSender, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("webhook: invalid HTTP config:\n%w", err)
	}
	s := &HTTPSender{
		transport: cfg.Transport,
		timeout:   cfg.Timeout,
		userAgent: []string{cfg.UserAgent},
		late:      fmt.Errorf("no answer within %v: %w", cfg.Timeout, context.DeadlineExceeded),
	}
	if s.transport == nil {
		s.transport = NewTransport(cfg)
	}
	wrapped := s.transport
	if cfg.WrapTransport != nil {
		wrapped = cfg.WrapTransport(wrapped)
	}
	s.client = &retryablehttp.Client{
		HTTPClient:   &http.Client{Transport: wire{wrapped}, CheckRedirect: noRedirect},
		Logger:       nil, // it would print URLs with their query
		RetryMax:     1,
		CheckRetry:   onReusedConnection,
		Backoff:      func(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return 0 },
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return s, nil
}

func (c HTTPConfig) withDefaults() HTTPConfig {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.UserAgent == "" {
		c.UserAgent = "pusher-webhooks"
	}
	return c
}

func (c *HTTPConfig) validate() error {
	var errs []error
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("%s: must be positive, or 0 for the default", "Timeout"))
	}
	if !validHeaderValue(c.UserAgent) {
		errs = append(errs, errors.New("UserAgent: has a character that an HTTP header cannot carry"))
	}
	if c.Transport != nil {
		for _, option := range []struct {
			name string
			set  bool
		}{{"DialControl", c.DialControl != nil}, {"TLS", c.TLS != nil}, {"HTTP2", c.HTTP2}} {
			if option.set {
				errs = append(errs, fmt.Errorf("%s: has no effect on a Transport of your own, use WrapTransport instead", option.name))
			}
		}
	}
	return errors.Join(errs...)
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// The default transport's bounds.
const (
	maxHeaderBytes  = 64 << 10 // of an answer; net/http's default is 10 MB
	maxIdleConns    = 2048     // of all hosts, or of one: many endpoints may live on it
	idleConnTimeout = 90 * time.Second
	maxDrainBytes   = 64 << 10 // read of an answer so that its connection can be used again
	maxDrainTime    = 250 * time.Millisecond
	maxErrorBytes   = 512 // kept of it in StatusError

	// maxCopied is how large a body is copied for the transport at the most: net/http writes the header of a request by
	// itself, with a system call more, unless its body is a reader of bytes in memory.
	maxCopied = 3 << 10
)

// NewTransport returns the transport that an HTTPSender with this config has by default. It is made for many hosts
// that are not to be trusted: TLS 1.2 or newer, no proxy, answers not decompressed and their headers bounded.
func NewTransport(cfg HTTPConfig) *http.Transport {
	cfg = cfg.withDefaults()
	dialer := &net.Dialer{Timeout: cfg.Timeout}
	if control := cfg.DialControl; control != nil {
		dialer.Control = func(network, address string, c syscall.RawConn) (err error) {
			defer func() { // on a goroutine of net's, where a panic would end the process
				if v := recover(); v != nil {
					err = &panicError{"DialControl", v}
				}
			}()
			if err := control(network, address, c); err != nil {
				return &dialRefusedError{err}
			}
			return nil
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		config = cfg.TLS.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	}
	t := &http.Transport{
		Proxy:                  nil, // a proxy would hide the address from DialControl
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    cfg.Timeout,
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    maxIdleConns,
		IdleConnTimeout:        idleConnTimeout,
		DisableCompression:     true, // or net/http would inflate what the endpoint sends
		MaxResponseHeaderBytes: maxHeaderBytes,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if cfg.HTTP2 {
		t.Protocols.SetHTTP2(true)
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: cfg.Timeout / 4, PingTimeout: cfg.Timeout / 4, WriteByteTimeout: cfg.Timeout / 2}
	}
	return t
}

// CloseIdleConnections closes the connections that are kept alive and not in use. A Dispatcher does this at
// Close for the HTTPSender that it made itself.
func (s *HTTPSender) CloseIdleConnections() {
	if t, ok := s.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Send implements Sender. Nothing reads d's body once it has returned.
func (s *HTTPSender) Send(ctx context.Context, d *Delivery) error {
	u, err := parseURL(d.URL)
	if err != nil {
		return fmt.Errorf("webhook: url: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, s.late)
	defer cancel()
	x := &exchange{data: d.Body}
	ctx = httptrace.WithClientTrace(context.WithValue(ctx, exchangeKey{}, x), &httptrace.ClientTrace{
		GotConn:              func(c httptrace.GotConnInfo) { x.reused.Store(c.Reused) },
		GotFirstResponseByte: func() { x.answered.Store(true) },
	})
	header := d.Header.Clone() // a transport may read it after it has returned
	if header == nil {
		header = make(http.Header, 1)
	}
	if header["User-Agent"] == nil {
		header["User-Agent"] = s.userAgent
	}
	req := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	retryable := &retryablehttp.Request{Request: req.WithContext(ctx)}
	var body any = retryablehttp.ReaderFunc(x.newBody)
	if len(d.Body) <= maxCopied {
		body = slices.Clone(d.Body)
	}
	if err := retryable.SetBody(body); err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	resp, err := s.client.Do(retryable)
	if err != nil {
		x.withdraw(0)
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return clean(err)
	}
	note, _ := ctx.Value(notedKey{}).(*noted)
	if note != nil {
		note.note(resp.StatusCode, time.Now())
	}
	first := drain(resp, cancel)
	x.withdraw(maxDrainTime)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	return &StatusError{Code: resp.StatusCode, Body: first, After: retryAfterHeader(resp.Header.Get("Retry-After"))}
}

// onReusedConnection is retryablehttp's policy within one attempt: once more, and at once, if a kept connection
// turned out to be closed before there was any answer. Everything else is for the dispatcher to decide.
func onReusedConnection(ctx context.Context, _ *http.Response, err error) (bool, error) {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	again := err != nil && ctx.Err() == nil && x != nil && x.reused.Load() && !x.answered.Load()
	return again, nil
}

// retryAfterHeader reads the header: seconds, or a date. Too large a number is a long time, not none.
func retryAfterHeader(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, math.MaxInt64/uint64(time.Second))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(date))
	}
	return 0
}

type exchangeKey struct{}

// An exchange is one Send: what is known of its connection, and who reads its body.
type exchange struct {
	reused, answered atomic.Bool

	data   []byte
	bodies []*requestBody // each reads data
}

// newBody gives each try of the request the body from its beginning.
func (x *exchange) newBody() (io.Reader, error) {
	b := &requestBody{rest: x.data}
	x.bodies = append(x.bodies, b)
	return b, nil
}

// withdraw takes the body away from the transport, which may read it even after it has returned. One that is in the
// middle of it, because the endpoint has answered early, may go on for a while.
func (x *exchange) withdraw(patience time.Duration) {
	for _, b := range x.bodies {
		b.withdraw(patience)
	}
}

// A requestBody is a body that can be taken away from whoever reads it.
type requestBody struct {
	mu     sync.Mutex
	rest   []byte
	read   bool          // at least some of it
	gone   bool          // withdrawn
	closed chan struct{} // for who waits for Close
}

var errWithdrawn = errors.New("webhook: the attempt is over")

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read = true
	switch {
	case b.gone:
		return 0, errWithdrawn
	case len(b.rest) == 0:
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Len is what retryablehttp makes the Content-Length of.
func (b *requestBody) Len() int { return len(b.rest) }

func (b *requestBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = true
	if b.closed != nil {
		close(b.closed)
		b.closed = nil
	}
	return nil
}

func (b *requestBody) withdraw(patience time.Duration) {
	b.mu.Lock()
	if b.read && !b.gone && len(b.rest) > 0 && patience > 0 {
		closed := make(chan struct{})
		b.closed = closed
		b.mu.Unlock()
		timer := time.NewTimer(patience)
		select {
		case <-closed:
		case <-timer.C:
		}
		timer.Stop()
		b.mu.Lock()
	}
	b.rest, b.gone = nil, true
	b.mu.Unlock()
}

// clean removes from an error of net/http what it may repeat of the request: the URL with its query, and what it
// quotes of an answer that is no HTTP, which may be an echo.
func clean(err error) error {
	for {
		wrapped, ok := errors.AsType[*url.Error](err)
		if !ok {
			break
		}
		err = wrapped.Err
	}
	if text := err.Error(); strings.Contains(text, `"`) {
		return &cleanError{quoted.ReplaceAllString(text, redacted), err}
	}
	return err
}

var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`)

// A cleanError is err with another text.
type cleanError struct {
	text string
	err  error
}

func (e *cleanError) Error() string { return e.text }
func (e *cleanError) Unwrap() error { return e.err }

// wire is the RoundTripper below retryablehttp. It has no CloseIdleConnections, and must not: retryablehttp calls
// that after any failed request, and would close the connections of all other hosts.
type wire struct{ transport http.RoundTripper }

func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.transport.RoundTrip(req)
	if err == nil {
		resp.Header.Del("Location") // http.Client has nothing to fail at
	}
	return resp, err
}

// drain reads and closes an answer, within bounds, so that the connection can be used again, and returns its
// beginning. Errors do not count: the status has arrived, and it alone decides. cancel ends the request.
func drain(resp *http.Response, cancel func()) string {
	var first bytes.Buffer
	if resp.ContentLength != 0 {
		alarm := time.AfterFunc(maxDrainTime, cancel)
		defer alarm.Stop()
		if _, err := io.CopyN(&first, resp.Body, maxErrorBytes); err == nil {
			_, _ = io.CopyN(io.Discard, resp.Body, maxDrainBytes-maxErrorBytes)
		}
	}
	_ = resp.Body.Close()
	return first.String()
}
