package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

const receiverKind = "receive"

// receiverSpec says what a receiver has to expect.
type receiverSpec struct {
	Marker string // occurs once for each event in a body
	Signed bool   // every request must carry a right X-Pusher-Signature
}

// received is what a receiver has counted.
type received struct {
	Events, Requests, Connections int64
	Wrong                         int64 // requests whose signature was missing or wrong
}

// receiver is the other end of every end-to-end measurement. It does as little as it can, since it shares
// the cores with the sender: it reads a body, checks its HMAC and counts the marker.
type receiver struct {
	spec    receiverSpec
	marker  []byte
	scratch sync.Pool // of *receiverScratch

	events, requests, connections, wrong atomic.Int64
}

type receiverScratch struct {
	body bytes.Buffer
	mac  hash.Hash
	sum  [sha256.Size]byte
	hex  [2 * sha256.Size]byte
}

func newReceiver(spec receiverSpec) *receiver {
	r := &receiver{spec: spec, marker: []byte(spec.Marker)}
	r.scratch.New = func() any { return &receiverScratch{mac: hmac.New(sha256.New, []byte(appSecret))} }
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s := r.scratch.Get().(*receiverScratch)
	defer r.scratch.Put(s)
	s.body.Reset()
	if _, err := s.body.ReadFrom(req.Body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.requests.Add(1)
	if r.spec.Signed && !s.signed(req.Header) {
		r.wrong.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.events.Add(int64(bytes.Count(s.body.Bytes(), r.marker)))
}

func (s *receiverScratch) signed(header http.Header) bool {
	s.mac.Reset()
	s.mac.Write(s.body.Bytes())
	hex.Encode(s.hex[:], s.mac.Sum(s.sum[:0]))
	return header.Get("X-Pusher-Key") == appKey && header.Get("X-Pusher-Signature") == string(s.hex[:])
}

// runReceiver is the receiver's process. It prints its address, serves until its input ends, and prints what
// it has counted.
func runReceiver(in io.Reader, out io.Writer) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return err
	}
	var spec receiverSpec
	if err := json.Unmarshal(line, &spec); err != nil {
		return err
	}
	r := newReceiver(spec)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.connections.Add(1)
		}
	}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if _, err := fmt.Fprintf(out, "http://%s\n", listener.Addr()); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, input); err != nil {
		return err
	}
	if err := server.Close(); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return json.NewEncoder(out).Encode(received{
		Events: r.events.Load(), Requests: r.requests.Load(),
		Connections: r.connections.Load(), Wrong: r.wrong.Load(),
	})
}

// receiverProcess is a receiver as its parent sees it.
type receiverProcess struct {
	*companion
	url string
}

func startReceiver(ctx context.Context, spec receiverSpec) (*receiverProcess, error) {
	c, err := startCompanion(ctx, receiverKind, spec)
	if err != nil {
		return nil, err
	}
	url, err := c.line()
	if err != nil {
		return nil, errors.Join(err, c.stop(nil))
	}
	return &receiverProcess{c, url}, nil
}

// stop ends the process and returns what it has counted.
func (p *receiverProcess) stop() (r received, err error) {
	err = p.companion.stop(&r)
	return r, err
}
