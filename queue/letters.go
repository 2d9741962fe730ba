package queue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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

// maxUnstored is how much of letters may wait to be stored before no more events are read.
const maxUnstored = 8 << 20

// deadShare is the part of MaxDeadBytes that one endpoint's letters may take.
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
	stored  uint64          // events
	sizes   map[string]kept // by subject; of the goroutine that stores
	done    sync.WaitGroup
}

type letterKey struct{ app, endpoint, reason string }

// kept is what was stored of one subject since the worker began.
type kept struct {
	letters uint64
	bytes   int64
}

type letter struct {
	note   note
	group  []byte
	events int
	stored []func()
}

func newLetters(w *Worker) *letters {
	l := &letters{w: w, open: make(map[letterKey]*letter), sizes: make(map[string]kept)}
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
		}
		before := len(one.group)
		events[i].Node = "" // of no use to whoever gets it later
		one.group = appendEvent(one.group, n.App, &events[i], 0)
		one.events++
		l.bytes += len(one.group) - before
		if i == len(events)-1 { // the letters before it are stored earlier
			one.stored = append(one.stored, stored)
		}
	}
	l.start()
}

// addRaw has a message stored that cannot be read.
func (l *letters) addRaw(reason string, message []byte, stored func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := note{Endpoint: poison, Reason: reason, Raw: true}
	l.waiting = append(l.waiting, &letter{note: n, group: message, events: 1, stored: []func(){stored}})
	l.bytes += len(message)
	l.start()
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
	size := len(one.group)
	if !one.note.Raw {
		size -= groupHead + 2 // which add does not count
	}
	data, err := encodeLetter(one.note, one.group)
	if err != nil { // strings always are JSON
		panic(err)
	}
	msg, id := &nats.Msg{Subject: deadSubject(one.note.App, one.note.Endpoint), Data: data}, rand.Text()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if _, err = l.w.q.publish(l.w.ctx, msg, id); err == nil {
			break
		}
		l.w.log.limited("webhook queue: dead letter not stored, tried again", err)
		if !sleep(l.w.ctx, wait) {
			return false
		}
	}
	l.bound(msg)
	for _, stored := range one.stored {
		stored()
	}
	l.mu.Lock()
	l.bytes -= size
	l.stored += uint64(one.events)
	l.less.Broadcast()
	l.mu.Unlock()
	return true
}

// bound keeps one endpoint's letters from pushing out everybody's: the engine bounds a subject's messages, not their
// bytes.
func (l *letters) bound(msg *nats.Msg) {
	if len(l.sizes) > 100_000 {
		clear(l.sizes)
	}
	k := l.sizes[msg.Subject]
	k.letters++
	k.bytes += int64(len(msg.Data))
	if k.bytes > l.w.q.cfg.MaxDeadBytes/deadShare {
		l.w.log.limited("webhook queue: an endpoint's dead letters take a quarter of the store; the older half of them is deleted", errFullOfLetters)
		if stream, err := l.w.q.js.Stream(l.w.ctx, deadStream); err == nil {
			err = stream.Purge(l.w.ctx, jetstream.WithPurgeSubject(msg.Subject), jetstream.WithPurgeKeep(max(1, k.letters/2)))
			if err == nil {
				k.letters, k.bytes = max(1, k.letters/2), k.bytes/2
			}
		}
	}
	l.sizes[msg.Subject] = k
}

var errFullOfLetters = errors.New("MaxDeadBytes is too small for them")

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
