package queue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pusherhooks/webhook"
)

// Endpoints of letters about what has none. An endpoint's id is a hash, so none begins like these.
const (
	unknownApp   = "_unknown" // no app has this id
	removedApp   = "_removed" // the app was removed
	invalidEvent = "_invalid" // the Dispatcher does not take the event
	poison       = "_poison"  // a message that cannot be read
)

// A note is what a letter says beside its events.
type note struct {
	App      string `json:"app"`
	Endpoint string `json:"endpoint"`
	URL      string `json:"url,omitempty"` // scheme and host
	Reason   string `json:"reason"`
	Raw      bool   `json:"raw,omitempty"` // what follows is a message that cannot be read
	Before   int64  `json:"before"`        // bytes of all letters of the app that were ever stored before this one
}

// A letter is its version, the note and a group of events.
func encodeLetter(n note, group []byte) ([]byte, error) {
	b, err := json.Marshal(n)
	return append(appendString([]byte{version}, b), group...), err
}

func decodeLetter(b []byte) (n note, group []byte, err error) {
	if err := checkVersion(b); err != nil {
		return n, nil, err
	}
	s := scanner{rest: b[1:]}
	about := s.bytes()
	if s.fault || json.Unmarshal(about, &n) != nil {
		return note{}, nil, errPoison
	}
	return n, s.rest, nil
}

func deadSubject(app, endpoint string) string { return "wh.dead." + token(app) + "." + endpoint }

// maxLetterBytes bounds a letter's events, but for a single larger one.
const maxLetterBytes = 64 << 10

// maxUnstored is how much of letters may wait to be stored before no more events are read: what they say, and what they
// take besides.
const (
	maxUnstored   = 8 << 20
	letterTakes   = 512 // its note included
	settlingTakes = 64
)

// deadShare is the part of MaxDeadBytes that one app's letters may take.
const deadShare = 4

// letters are stored by a goroutine that exists while there are any. Those for one endpoint go together.
type letters struct {
	w *Worker

	mu      sync.Mutex
	less    *sync.Cond // bytes has become less
	running bool
	waiting []*letter
	open    map[letterKey]*letter
	bytes   int
	stored  uint64 // events
	done    sync.WaitGroup

	kept  map[string]*kept // by app; of the goroutine that stores
	stale atomic.Bool      // others may have stored letters meanwhile
}

type letterKey struct{ app, endpoint, reason string }

// kept says what an app's letters take: what was ever stored of it, but for what was stored before the first that is
// still there.
type kept struct{ total, before int64 }

type letter struct {
	note   note
	group  []byte
	events int
	bytes  int // that it counts for in letters.bytes
	stored []func()
}

func newLetters(w *Worker) *letters {
	l := &letters{w: w, open: make(map[letterKey]*letter), kept: make(map[string]*kept)}
	l.less = sync.NewCond(&l.mu)
	return l
}

// add has events stored, and calls stored then. It does not wait.
func (l *letters) add(n note, events []webhook.Event, stored func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := letterKey{n.App, n.Endpoint, n.Reason}
	for i := range events {
		one := l.open[key]
		if size := eventBytes(n.App, &events[i]); one == nil || len(one.group)+size > maxLetterBytes || one.events == maxGroupEvents {
			one = &letter{note: n, group: appendHead(nil, "", "")}
			l.open[key] = one
			l.waiting = append(l.waiting, one)
			l.charge(one, letterTakes)
		}
		before := len(one.group)
		events[i].Node = "" // of no use to whoever gets it later
		one.group = appendEvent(one.group, n.App, &events[i], 0)
		one.events++
		l.charge(one, len(one.group)-before)
		if i == len(events)-1 { // the letters before it are stored earlier
			one.stored = append(one.stored, stored)
			l.charge(one, settlingTakes)
		}
	}
	l.start()
}

// addRaw has a message stored that cannot be read, as far as a letter may hold it.
func (l *letters) addRaw(reason string, message []byte, stored func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(message) > maxGroupBytes {
		reason = fmt.Sprintf("%s; this is the first half MiB of its %d bytes", reason, len(message))
		message = message[:maxGroupBytes]
	}
	one := &letter{note: note{Endpoint: poison, Reason: reason, Raw: true}, group: message, events: 1, stored: []func(){stored}}
	l.waiting = append(l.waiting, one)
	l.charge(one, letterTakes+len(message))
	l.start()
}

func (l *letters) charge(one *letter, bytes int) {
	one.bytes += bytes
	l.bytes += bytes
}

func (l *letters) start() {
	if !l.running {
		l.running = true
		l.done.Add(1)
		go l.run()
	}
}

// letterLinger is how long letters wait for more events of theirs.
const letterLinger = 10 * time.Millisecond

func (l *letters) run() {
	defer l.done.Done()
	for sleep(l.w.ctx, letterLinger) {
		l.mu.Lock()
		all := l.waiting
		l.waiting = nil
		clear(l.open)
		if l.running = len(all) > 0; !l.running {
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, one := range all {
			if !l.store(one) {
				return
			}
		}
	}
}

// store stores a letter, however often that has to be tried. It reports whether that was done before the worker ended.
func (l *letters) store(one *letter) bool {
	id := rand.Text()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := l.try(one, id)
		if err == nil {
			break
		}
		l.w.log.limited("webhook queue: dead letter not stored, tried again", err)
		if !sleep(l.w.ctx, wait) {
			return false
		}
	}
	for _, stored := range one.stored {
		stored()
	}
	l.mu.Lock()
	l.bytes -= one.bytes
	l.stored += uint64(one.events)
	l.less.Broadcast()
	l.mu.Unlock()
	return true
}

func (l *letters) try(one *letter, id string) error {
	app := one.note.App
	k, err := l.keptOf(app)
	if err != nil {
		return err
	}
	one.note.Before = k.total
	data, err := encodeLetter(one.note, one.group)
	if err != nil { // strings always are JSON
		panic(err)
	}
	if _, err := l.w.q.publish(l.w.ctx, &nats.Msg{Subject: deadSubject(app, one.note.Endpoint), Data: data}, id); err != nil {
		return err
	}
	k.total += int64(len(data))
	if most := l.w.q.cfg.MaxDeadBytes / deadShare; k.total-k.before > most {
		if err := l.halve(app, k, most); err != nil {
			l.w.log.limited("webhook queue: an app's dead letters take more than a quarter of the store", err)
			if err != errFullOfLetters {
				k.before += most / 16 // it is tried again, but not at each letter
			}
		}
	}
	return nil
}

// room waits until there is room for more letters; wake ends it once ctx has ended.
func (l *letters) room(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.bytes > maxUnstored && ctx.Err() == nil {
		l.less.Wait()
	}
}

// wait waits until all letters are stored.
func (l *letters) wait(ctx context.Context) {
	stop := context.AfterFunc(ctx, l.wake)
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.bytes > 0 && ctx.Err() == nil && l.w.ctx.Err() == nil {
		l.less.Wait()
	}
}

func (l *letters) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.less.Broadcast()
}

// eventsOf takes a delivery's body apart.
func eventsOf(d *webhook.Delivery) ([]webhook.Event, error) {
	var body struct {
		Events []struct {
			Name    webhook.EventType `json:"name"`
			Channel string            `json:"channel"`
			Event   string            `json:"event"`
			Data    json.RawMessage   `json:"data"`
			Socket  string            `json:"socket_id"`
			User    string            `json:"user_id"`
			Count   int               `json:"subscription_count"`
		} `json:"events"`
	}
	if err := json.Unmarshal(d.Body, &body); err != nil {
		return nil, fmt.Errorf("queue: a delivery's body: %w", err)
	}
	all := make([]webhook.Event, len(body.Events))
	for i, e := range body.Events {
		// Data that is a JSON string stays that, so what was encoded is encoded the same.
		all[i] = webhook.Event{Type: e.Name, Channel: e.Channel, Event: e.Event, Data: e.Data, SocketID: e.Socket, UserID: e.User, SubscriptionCount: e.Count}
	}
	return all, nil
}
