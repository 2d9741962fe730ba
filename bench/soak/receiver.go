package main

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// The receiver is a process of its own, this program started anew, with every endpoint in it. So what is sampled is the
// dispatcher's alone.

// receiverArgument is the first argument of that process.
const receiverArgument = "receive"

// receiverSpec says what it has to be ready for.
type receiverSpec struct {
	Bound     int           // of event ids
	Addresses int           // for each behaviour
	Flakiness time.Duration // how long a flaky endpoint is down at a time, and up
}

// seen is what the receiver knows at the end.
type seen struct {
	Accepted *idSet   // events in bodies that were taken
	Refused  *idSet   // by themselves, at least once
	Late     *idSet   // came first behind a younger one of their channel
	Faults   []string // some: what must never be
	Requests int
	CPU      time.Duration
}

type receiver struct {
	began     time.Time
	flakiness time.Duration

	mu sync.Mutex
	seen
	visits map[string]int // by path
	newest map[string]int // id, by path and stream
}

// A visit is one request.
type visit struct {
	ctx    context.Context
	path   string
	n      int // of its path, from 0
	size   int
	events []received
	ids    []int
}

func newReceiver(spec receiverSpec) *receiver {
	return &receiver{
		began: time.Now(), flakiness: spec.Flakiness,
		seen:   seen{Accepted: newIDSet(spec.Bound), Refused: newIDSet(spec.Bound), Late: newIDSet(spec.Bound)},
		visits: make(map[string]int), newest: make(map[string]int),
	}
}

// handler serves the endpoints of one behaviour, of every tenant.
func (r *receiver) handler(name behaviour, answer func(*receiver, http.ResponseWriter, *visit)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // the dispatcher has given the attempt up
		}
		v, err := r.visit(name, req, body)
		if err != nil {
			r.fault(err)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer(r, w, v)
	})
}

// visit checks that a request is one for this very endpoint.
func (r *receiver) visit(name behaviour, req *http.Request, body []byte) (*visit, error) {
	path := strings.Split(req.URL.Path, "/")
	if len(path) != 4 || behaviour(path[1]) != name {
		return nil, fmt.Errorf("%s was asked at an endpoint that is %s", req.URL.Path, name)
	}
	tenant := path[2]
	if own := req.Header.Get(tenantHeader); own != tenant {
		return nil, fmt.Errorf("%s was sent the header of %q", req.URL.Path, own)
	}
	if key := req.Header.Get("X-Pusher-Key"); !signedFor(tenant, key, req.Header.Get("X-Pusher-Signature"), body) {
		return nil, fmt.Errorf("%s was sent what it cannot verify, with key %q", req.URL.Path, key)
	}
	events, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("%s was sent a body that is none: %w", req.URL.Path, err)
	}
	v := &visit{ctx: req.Context(), path: req.URL.Path, size: len(body), events: events, ids: make([]int, len(events))}
	for i := range events {
		if !strings.Contains(events[i].Channel, "-"+tenant+"-") {
			return nil, fmt.Errorf("%s was sent an event of channel %q", req.URL.Path, events[i].Channel)
		}
		if v.ids[i], err = events[i].id(); err != nil || !r.Accepted.holds(v.ids[i]) {
			return nil, fmt.Errorf("%s was sent event %d that was never emitted: %w", req.URL.Path, v.ids[i], err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Requests++
	v.n = r.visits[v.path]
	r.visits[v.path]++
	return v, nil
}

// accept notes a visit's events. What has come already may come again; what comes for the first time must be the newest
// of its stream.
func (r *receiver) accept(v *visit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, id := range v.ids {
		first := r.Accepted.add(id)
		stream := v.events[i].stream()
		if stream == "" {
			continue
		}
		stream = v.path + " " + stream
		switch newest := r.newest[stream]; {
		case id > newest:
			r.newest[stream] = id
		case first:
			r.Late.add(id)
		}
	}
}

func (r *receiver) refuse(w http.ResponseWriter, v *visit, status int, ids []int) {
	for _, id := range ids {
		r.Refused.add(id)
	}
	w.WriteHeader(status)
}

// maxFaults is how many faults are kept.
const maxFaults = 10

func (r *receiver) fault(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Faults) < maxFaults {
		r.Faults = append(r.Faults, err.Error())
	}
}

// runReceiver is the receiver's process. It tells its addresses, serves until its input ends, and tells what it has seen.
func runReceiver(in io.Reader, out io.Writer) error {
	var spec receiverSpec
	decoder, encoder := gob.NewDecoder(bufio.NewReader(in)), gob.NewEncoder(out)
	if err := decoder.Decode(&spec); err != nil {
		return err
	}
	r := newReceiver(spec)
	addresses := make(map[behaviour][]string)
	var servers []*http.Server
	var serving sync.WaitGroup
	for _, b := range behaviours {
		server := &http.Server{Handler: r.handler(b.name, b.answer)}
		servers = append(servers, server)
		for range spec.Addresses {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			addresses[b.name] = append(addresses[b.name], listener.Addr().String())
			serving.Go(func() {
				if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
					r.fault(err)
				}
			})
		}
	}
	if err := encoder.Encode(addresses); err != nil {
		return err
	}
	var nothing struct{}
	if err := decoder.Decode(&nothing); !errors.Is(err, io.EOF) {
		return err
	}
	for _, server := range servers {
		if err := server.Close(); err != nil {
			return err
		}
	}
	serving.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.CPU = cpuTime()
	return encoder.Encode(r.seen)
}

// A receiverProcess is the receiver as the dispatcher's process sees it.
type receiverProcess struct {
	addresses map[behaviour][]string
	cmd       *exec.Cmd
	stdin     io.WriteCloser
	decoder   *gob.Decoder
}

func startReceiver(ctx context.Context, spec receiverSpec) (*receiverProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &receiverProcess{cmd: exec.CommandContext(ctx, program, receiverArgument)}
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.decoder = gob.NewDecoder(stdout)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	err = gob.NewEncoder(p.stdin).Encode(spec)
	if err == nil {
		err = p.decoder.Decode(&p.addresses)
	}
	if err != nil {
		return nil, errors.Join(err, p.stdin.Close(), p.cmd.Wait())
	}
	return p, nil
}

// stop ends the process and returns what it has seen.
func (p *receiverProcess) stop() (s seen, err error) {
	if err = p.stdin.Close(); err == nil {
		err = p.decoder.Decode(&s)
	}
	return s, errors.Join(err, p.cmd.Wait())
}
