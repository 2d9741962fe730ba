package main

import (
	"hash/crc32"
	"net"
	"net/http"
	"time"
)

// A behaviour is how an endpoint answers.
type behaviour string

// behaviours are all of them, with how many tenants each has.
var behaviours = []struct {
	name    behaviour
	tenants int // at full scale
	answer  func(r *receiver, w http.ResponseWriter, v *visit)
}{
	{"healthy", 400, (*receiver).healthy},
	{"slow", 40, (*receiver).slow},
	{"hanging", 40, (*receiver).hanging},
	{"down", 40, (*receiver).down},
	{"flaky", 40, (*receiver).flaky},
	{"refusing", 40, (*receiver).refusing},
	{"picky", 80, (*receiver).picky},
	{"small", 40, (*receiver).small},
	{"resetting", 40, (*receiver).resetting},
	{"dripping", 40, (*receiver).dripping},
}

const (
	slowness  = 2 * time.Second
	pickiness = 50      // a picky endpoint refuses one event in so many
	smallBody = 4 << 10 // what a small endpoint takes at the most
)

func (r *receiver) healthy(w http.ResponseWriter, v *visit) { r.accept(v) }

// slow answers after two seconds, or when nobody waits for it any more.
func (r *receiver) slow(w http.ResponseWriter, v *visit) {
	r.accept(v)
	timer := time.NewTimer(slowness)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-v.ctx.Done():
	}
}

func (r *receiver) hanging(w http.ResponseWriter, v *visit) { <-v.ctx.Done() }

func (r *receiver) down(w http.ResponseWriter, v *visit) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

// flaky is down half of the time, each when others are not: long enough that several batches wait in order.
func (r *receiver) flaky(w http.ResponseWriter, v *visit) {
	phase := time.Duration(crc32.ChecksumIEEE([]byte(v.path))) % (2 * r.flakiness)
	if (time.Since(r.began)+phase)/r.flakiness%2 == 1 {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.accept(v)
}

func (r *receiver) refusing(w http.ResponseWriter, v *visit) {
	r.refuse(w, v, http.StatusBadRequest, v.ids)
}

func (r *receiver) picky(w http.ResponseWriter, v *visit) {
	var bad []int
	for _, id := range v.ids {
		if id%pickiness == 0 {
			bad = append(bad, id)
		}
	}
	if len(bad) > 0 {
		r.refuse(w, v, http.StatusBadRequest, bad)
		return
	}
	r.accept(v)
}

func (r *receiver) small(w http.ResponseWriter, v *visit) {
	switch {
	case v.size <= smallBody:
		r.accept(v)
	case len(v.ids) == 1:
		r.refuse(w, v, http.StatusRequestEntityTooLarge, v.ids)
	default:
		r.refuse(w, v, http.StatusRequestEntityTooLarge, nil)
	}
}

// resetting has its connection reset in one of three requests, before or after what it got is safe.
func (r *receiver) resetting(w http.ResponseWriter, v *visit) {
	switch v.n % 6 {
	case 2:
		reset(w)
	case 5:
		r.accept(v)
		reset(w)
	default:
		r.accept(v)
	}
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// dripping accepts, and sends the body of its answer byte by byte.
func (r *receiver) dripping(w http.ResponseWriter, v *visit) {
	r.accept(v)
	w.Header().Set("Content-Length", "1000")
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for range 1000 {
		if _, err := w.Write([]byte("x")); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-v.ctx.Done():
			return
		}
	}
}
