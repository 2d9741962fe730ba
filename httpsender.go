package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// HTTPConfig configures an HTTPSender. The zero value of every field means its default.
type HTTPConfig struct {
	// Transport makes the requests. Default NewTransport, of this same config. Another one, or a wrapper around
	// that one, sees one call for each attempt.
	Transport http.RoundTripper

	// DialControl is called before every connection with the address that was resolved; its error refuses the
	// address for good. This is where a guard against requests to internal addresses plugs in. It belongs to
	// the default Transport, and is an error together with another.
	DialControl func(network, address string, c syscall.RawConn) error

	// Timeout bounds one attempt, reading the answer included. Default 10s.
	Timeout time.Duration

	// RetryWaitMin and RetryWaitMax bound the wait before the next attempt, which doubles each time and is
	// spread at random. A Retry-After is honoured up to RetryWaitMax. Defaults 1s and 60s.
	RetryWaitMin time.Duration
	RetryWaitMax time.Duration

	// RetryFor is how long attempts are repeated, from the first one on. Default 5m, as Pusher does. Negative:
	// one attempt and no more.
	RetryFor time.Duration

	// MaxConcurrent bounds the requests on the wire, all endpoints together. Endpoints whose last attempt failed
	// share half of the places, and these with endpoints that have not been tried yet three quarters, so that
	// however many endpoints time out, those that answer find a place. A delivery that waits for its next
	// attempt holds none. Default 256.
	MaxConcurrent int

	// Retry decides whether an attempt that failed is repeated. status is 0 if there was no answer; err is a
	// *StatusError if there was one. Default DefaultRetry.
	Retry func(status int, err error) bool

	// UserAgent is sent unless the app's own headers have one. Default "pusherhooks-webhook".
	UserAgent string

	// OnAttempt is called after every attempt, on the goroutine that sends d. A panic is logged and changes
	// nothing.
	OnAttempt func(d *Delivery, a Attempt)

	// Logger gets a line for each attempt: Warn if it failed, Debug if not. Default: discards.
	Logger *slog.Logger
}

// An Attempt is one request and what came of it.
type Attempt struct {
	N       int           // from 1
	Status  int           // of the answer; 0 if there was none
	Err     error         // nil if the endpoint accepted the delivery
	Took    time.Duration // on the wire, reading the answer included
	RetryIn time.Duration // the wait before the next attempt; 0 if there is none
}

// A StatusError is an answer other than 2xx. 3xx is one: redirects are never followed, since that would show
// the signed body to whomever the endpoint names.
type StatusError struct {
	Code int
	Body string // the first 512 bytes of the answer; not part of Error, as it may repeat what was sent
}

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("endpoint answered %d %s", e.Code, http.StatusText(e.Code)))
}

// DefaultRetry repeats every failure but 410 Gone and those that the next attempt would meet again: a
// certificate that is not trusted, a TLS version that is too old, an address that DialControl refused.
func DefaultRetry(status int, err error) bool {
	return status != http.StatusGone && !isFinal(err)
}

func isFinal(err error) bool {
	var certificate *tls.CertificateVerificationError
	var refused *dialRefusedError
	if errors.As(err, &certificate) || errors.As(err, &refused) {
		return true
	}
	// crypto/tls has no exported error for these two: the server's alert, and our own check of its choice.
	text := err.Error()
	return strings.Contains(text, "tls: protocol version not supported") ||
		strings.Contains(text, "tls: server selected unsupported protocol version")
}

// dialRefusedError marks an error of the user's DialControl.
type dialRefusedError struct{ err error }

func (e *dialRefusedError) Error() string { return "address refused: " + e.err.Error() }
func (e *dialRefusedError) Unwrap() error { return e.err }

// An HTTPSender delivers by HTTP POST, repeating what fails. A 2xx status is success, all others are not. It
// may be shared by several Dispatchers.
type HTTPSender struct {
	cfg     HTTPConfig
	client  *http.Client
	timeout error // of an attempt

	// places on the wire, each with room for fewer than the next: for endpoints whose last attempt failed, for
	// those and the untried, for all. An attempt takes one of each that it falls under, in this order.
	places []chan struct{}
}

// NewHTTPSender returns a Sender for cfg. Its error reports every fault of cfg at once.
func NewHTTPSender(cfg HTTPConfig) (*HTTPSender, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("webhook: invalid HTTP config:\n%w", err)
	}
	if cfg.Transport == nil {
		cfg.Transport = NewTransport(cfg)
	}
	s := &HTTPSender{
		cfg:     cfg,
		timeout: fmt.Errorf("no complete answer within %v: %w", cfg.Timeout, context.DeadlineExceeded),
	}
	for _, n := range []int{cfg.MaxConcurrent / 2, cfg.MaxConcurrent * 3 / 4, cfg.MaxConcurrent} {
		s.places = append(s.places, make(chan struct{}, max(1, n)))
	}
	s.client = &http.Client{Transport: wire{s}}
	return s, nil
}

func (c HTTPConfig) withDefaults() HTTPConfig {
	c.Timeout = or(c.Timeout, 10*time.Second)
	c.RetryWaitMin = or(c.RetryWaitMin, min(time.Second, or(c.RetryWaitMax, time.Second)))
	c.RetryWaitMax = or(c.RetryWaitMax, max(time.Minute, c.RetryWaitMin))
	c.RetryFor = or(c.RetryFor, 5*time.Minute)
	c.MaxConcurrent = or(c.MaxConcurrent, 256)
	c.UserAgent = or(c.UserAgent, "pusherhooks-webhook")
	if c.Retry == nil {
		c.Retry = DefaultRetry
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *HTTPConfig) validate() error {
	var errs []error
	for _, field := range []struct {
		name  string
		value int64
	}{
		{"Timeout", int64(c.Timeout)}, {"RetryWaitMin", int64(c.RetryWaitMin)},
		{"RetryWaitMax", int64(c.RetryWaitMax)}, {"MaxConcurrent", int64(c.MaxConcurrent)},
	} {
		if field.value < 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive, or 0 for the default", field.name))
		}
	}
	if c.RetryWaitMin > c.RetryWaitMax {
		errs = append(errs, fmt.Errorf("RetryWaitMin: %v is more than RetryWaitMax, %v", c.RetryWaitMin, c.RetryWaitMax))
	}
	if !validHeaderValue(c.UserAgent) {
		errs = append(errs, errors.New("UserAgent: has a character that an HTTP header cannot carry"))
	}
	if c.Transport != nil && c.DialControl != nil {
		errs = append(errs, errors.New("DialControl: has no effect on a Transport of your own, give it to NewTransport and wrap that"))
	}
	return errors.Join(errs...)
}

// The default transport's bounds.
const (
	maxHeaderBytes  = 64 << 10 // of an answer; net/http's default is 10 MB
	maxIdleConns    = 1024     // of all hosts: sockets that nobody uses
	idleConnTimeout = 90 * time.Second
	maxDrainBytes   = 64 << 10 // read of an answer so that its connection can be used again
	maxErrorBytes   = 512      // kept of it in StatusError
)

// NewTransport returns the transport that an HTTPSender with this Timeout, MaxConcurrent and DialControl has by
// default, to be changed or wrapped. It is made for many hosts that are not to be trusted: HTTP/2 where
// offered, TLS 1.2 or newer, no proxy, answers not decompressed and their headers bounded.
func NewTransport(cfg HTTPConfig) *http.Transport {
	cfg = cfg.withDefaults()
	dialer := &net.Dialer{Timeout: cfg.Timeout}
	if control := cfg.DialControl; control != nil {
		dialer.Control = func(network, address string, c syscall.RawConn) error {
			if err := control(network, address, c); err != nil {
				return &dialRefusedError{err}
			}
			return nil
		}
	}
	return &http.Transport{
		Proxy:                  nil, // a proxy would hide the address from DialControl
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    cfg.Timeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           max(maxIdleConns, cfg.MaxConcurrent),
		MaxIdleConnsPerHost:    cfg.MaxConcurrent, // many endpoints may live on one host
		IdleConnTimeout:        idleConnTimeout,
		DisableCompression:     true, // or net/http would inflate what the endpoint sends
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
}

// CloseIdleConnections closes the connections that are kept alive and not in use. A Dispatcher does this at
// Close for the HTTPSender that it made itself.
func (s *HTTPSender) CloseIdleConnections() {
	if t, ok := s.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Send implements Sender.
func (s *HTTPSender) Send(ctx context.Context, d *Delivery) error {
	_, err := s.send(ctx, d)
	return err
}

// send is Send, and reports whether d was accepted and nothing reads its body any more.
func (s *HTTPSender) send(ctx context.Context, d *Delivery) (reusable bool, err error) {
	u, err := parseURL(d.URL)
	if err != nil {
		return false, fmt.Errorf("webhook: url: %w", err)
	}
	x := &exchange{Context: ctx, s: s, delivery: d, started: time.Now(), closing: closingContext(ctx)}
	if x.closing != nil && x.closing.Err() != nil {
		x.closing = nil
	}
	header := make(http.Header, len(d.Header)+1)
	maps.Copy(header, d.Header)
	if header["User-Agent"] == nil {
		header["User-Agent"] = []string{s.cfg.UserAgent}
	}
	req := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	retryable := &retryablehttp.Request{Request: req.WithContext(x)}
	if err := retryable.SetBody(d.Body); err != nil {
		return false, fmt.Errorf("webhook: %w", err)
	}
	err = x.run(retryable)
	return err == nil && x.written() && s.cfg.OnAttempt == nil, err
}

// An exchange is one Send: attempts and the waits between them.
//
// It is the context that retryablehttp sees, and waits in between attempts. That one ends with Send's own
// context, which is embedded, and when Close begins. A request that is under way does not see the latter,
// because wire gives it Send's own context.
type exchange struct {
	context.Context
	s        *HTTPSender
	delivery *Delivery
	started  time.Time

	client   retryablehttp.Client
	writes   atomic.Int32  // connections that were given the request, and have not written it; see trace
	traced   atomic.Bool   // there was one
	attempts int           // on the wire
	reported int           // of them, to OnAttempt and the log
	took     time.Duration // by the last attempt
	err      error         // of the last attempt; nil if it was accepted
	wait     time.Duration // before the next
	waiting  bool          // the last thing that happened was the decision to wait

	closing       context.Context // ends when Close begins; nil when that shortens nothing (any more)
	interruptible context.Context // ends with Context and closing; made at the first wait, see Done
	release       func()
}

// Done makes exchange the context described above. retryablehttp calls it when it waits, so an exchange whose
// first attempt is accepted never pays for a context.
func (x *exchange) Done() <-chan struct{} {
	if x.closing == nil {
		return x.Context.Done()
	}
	if x.interruptible == nil {
		ctx, cancel := context.WithCancel(x.Context)
		stop := context.AfterFunc(x.closing, cancel)
		x.interruptible, x.release = ctx, func() { stop(); cancel() }
	}
	return x.interruptible.Done()
}

// Err implements context.Context.
func (x *exchange) Err() error {
	if x.interruptible == nil {
		return x.Context.Err()
	}
	return x.interruptible.Err()
}

// run has retryablehttp make the attempts. It does so a second time if Close cuts a wait short: there the
// schedule starts anew, with an attempt at once.
func (x *exchange) run(req *retryablehttp.Request) error {
	x.client = retryablehttp.Client{
		HTTPClient:   x.s.client,
		Logger:       nil, // it would print URLs with their query
		RetryMax:     math.MaxInt,
		CheckRetry:   x.checkRetry,
		Backoff:      x.backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	for {
		_, err := x.client.Do(req) // the answer has been read, see wire
		if x.release != nil {
			x.release()
			x.interruptible, x.release = nil, nil
		}
		switch {
		case x.Context.Err() != nil && (err != nil || x.err != nil):
			return x.cut()
		case x.waiting: // Close has ended the wait, the only one that it ends
			x.waiting, x.closing = false, nil
		case x.err != nil:
			return fmt.Errorf("webhook: gave up after %d attempts in %v: %w",
				x.attempts, time.Since(x.started).Round(time.Millisecond), x.err)
		default:
			return nil
		}
	}
}

// cut is the error of a Send whose context has ended.
func (x *exchange) cut() error {
	cause := context.Cause(x.Context)
	if x.err == nil || errors.Is(x.err, cause) {
		return fmt.Errorf("webhook: cut off after %d attempts: %w", x.attempts, cause)
	}
	return fmt.Errorf("webhook: cut off after %d attempts: %w; last: %w", x.attempts, cause, x.err)
}

// checkRetry is called by retryablehttp after every attempt, with the answer or an error.
func (x *exchange) checkRetry(_ context.Context, resp *http.Response, err error) (bool, error) {
	a := Attempt{N: x.attempts, Took: x.took}
	switch {
	case err != nil:
		a.Err = clean(err)
	default:
		a.Status = resp.StatusCode
		if resp.StatusCode < 200 || resp.StatusCode > 299 {
			body, _ := io.ReadAll(resp.Body) // in memory and short, see wire
			a.Err = &StatusError{Code: resp.StatusCode, Body: string(body)}
		}
	}
	x.err = a.Err
	if x.attempts > x.reported {
		x.delivery.health.learn(a.Err)
	}
	if a.Err != nil && x.Context.Err() == nil && x.s.cfg.Retry(a.Status, a.Err) {
		x.wait = x.s.nextWait(x.attempts, resp)
		x.waiting = time.Since(x.started)+x.wait <= x.s.cfg.RetryFor
	}
	if x.waiting {
		a.RetryIn = x.wait
	}
	if x.attempts > x.reported { // or Send's context ended before there was a place on the wire
		x.reported = x.attempts
		x.report(a)
	}
	return x.waiting, nil
}

func (x *exchange) backoff(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return x.wait }

// report logs an attempt and tells OnAttempt.
func (x *exchange) report(a Attempt) {
	cfg := &x.s.cfg
	level, message := slog.LevelDebug, "webhook delivered"
	if a.Err != nil {
		level, message = slog.LevelWarn, "webhook attempt failed"
	}
	if cfg.Logger.Enabled(x.Context, level) {
		args := []any{"delivery", x.delivery, "attempt", a.N, "status", a.Status, "took", a.Took}
		if a.Err != nil {
			args = append(args, "error", a.Err, "retry_in", a.RetryIn)
		}
		cfg.Logger.Log(x.Context, level, message, args...)
	}
	if cfg.OnAttempt != nil {
		defer recoverHook(cfg.Logger, "HTTPConfig.OnAttempt")
		cfg.OnAttempt(x.delivery, a)
	}
}

// nextWait returns the time to wait after the given number of attempts: RetryWaitMin doubled each time up to
// RetryWaitMax, of which the upper half is at random, so that endpoints that failed together do not come back
// together. A Retry-After takes its place, spread as well.
func (s *HTTPSender) nextWait(attempts int, resp *http.Response) time.Duration {
	shortest, longest := s.cfg.RetryWaitMin, s.cfg.RetryWaitMax
	if asked, ok := retryAfter(resp); ok {
		asked = max(asked, shortest)
		if spread := asked / 4; asked <= longest-spread {
			return asked + upTo(spread)
		}
		return longest - upTo(longest/4)
	}
	wait := longest
	if doublings := min(attempts, 62); shortest <= longest>>doublings {
		wait = shortest << doublings
	}
	half := max(wait/2, shortest)
	return half + upTo(wait-half)
}

// upTo returns a random duration in [0, d].
func upTo(d time.Duration) time.Duration { return rand.N(d + 1) }

// retryAfter reads the header of an answer: seconds, or a date. Too large a number is a long time, not none.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp == nil {
		return 0, false
	}
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, math.MaxInt64/uint64(time.Second))) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		return time.Until(date), true
	}
	return 0, false
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

// minReuse is the size from which on a body's memory is worth watching: a smaller one is cheaper to make anew.
const minReuse = 4 << 10

// trace watches a request being written. A transport may go on reading the body after it has returned, when
// the endpoint answers early.
func (x *exchange) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { x.writes.Add(1); x.traced.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { x.writes.Add(-1) },
	})
}

// written reports whether the request was watched and nobody writes it any more.
func (x *exchange) written() bool { return x.traced.Load() && x.writes.Load() == 0 }

// wire is the RoundTripper below retryablehttp. One call is one attempt, from waiting for a place on the wire
// to the end of the answer, which it reads itself.
//
// It has no CloseIdleConnections, and must not: retryablehttp calls that after any failed request, and would
// close the connections of all other hosts.
type wire struct{ s *HTTPSender }

func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	x := req.Context().(*exchange)
	places, taken := x.places(), 0
	defer func() {
		for _, place := range places[:taken] {
			<-place
		}
	}()
	for _, place := range places {
		if err := acquire(x.Context, place); err != nil {
			return nil, err
		}
		taken++
	}
	x.attempts++
	x.waiting = false
	ctx, cancel := context.WithTimeoutCause(x.Context, w.s.cfg.Timeout, w.s.timeout)
	defer cancel()
	if len(x.delivery.Body) >= minReuse {
		ctx = x.trace(ctx)
	}
	started := time.Now()
	defer func() { x.took = time.Since(started) }()
	resp, err := w.s.cfg.Transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	drain(resp)
	resp.Header.Del("Location") // http.Client has nothing to follow, and nothing to fail at
	return resp, nil
}

// acquire waits for a place, for as long as Send may take.
func acquire(ctx context.Context, place chan<- struct{}) error {
	select {
	case place <- struct{}{}:
		return nil
	default: // only now is it worth to wait for two things at once
	}
	select {
	case place <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// places returns where the next attempt has to find a place, in this order.
func (x *exchange) places() []chan struct{} {
	h := x.delivery.health
	switch {
	case x.attempts > 0 || h != nil && h.last.Load() == failed:
		return x.s.places // failing, unproven, all
	case h != nil && h.last.Load() == untried:
		return x.s.places[1:]
	}
	return x.s.places[2:]
}

// health is how the last attempt at an endpoint went.
type health struct{ last atomic.Int32 }

const (
	untried int32 = iota
	succeeded
	failed
)

// learn takes the result of an attempt. Deliveries from elsewhere have no health to keep.
func (h *health) learn(err error) {
	switch {
	case h == nil:
	case err == nil:
		h.last.Store(succeeded)
	default:
		h.last.Store(failed)
	}
}

// drain reads and closes an answer, within bounds, so that the connection can be used again, and leaves its
// beginning in memory. Errors do not count: the status has arrived, and it alone decides.
func drain(resp *http.Response) {
	var first io.ReadCloser = http.NoBody
	if resp.ContentLength != 0 {
		var body bytes.Buffer
		if _, err := io.CopyN(&body, resp.Body, maxErrorBytes); err == nil {
			_, _ = io.CopyN(io.Discard, resp.Body, maxDrainBytes-maxErrorBytes)
		}
		first = io.NopCloser(&body)
	}
	_ = resp.Body.Close()
	resp.Body = first
}
