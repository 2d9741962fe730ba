package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pusherhooks/webhook"
)

// An emitter is the part of a server that has some tenants' channels. It emits for them in turns, at a fixed rate.
type emitter struct {
	d      *webhook.Dispatcher
	ledger *ledger
	took   *durations
	hubs   []*hub
}

// A hub is what goes on at one tenant.
type hub struct {
	tenant  *tenant
	members []member // who are there, the longest first
	away    []member // who have just left and come back at the next turn
	rooms   []int    // that are occupied
	miss    int      // the latest cache miss
}

type member struct {
	id      int
	channel string
}

const (
	turnEvery  = time.Second // for each tenant
	mostEvents = 20          // in one turn
	mostThere  = 30          // members of a hub, and rooms
)

func (m *emitter) run(ctx context.Context) {
	ticker := time.NewTicker(turnEvery / time.Duration(len(m.hubs)))
	defer ticker.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h := m.hubs[turn%len(m.hubs)]
			for _, back := range h.away {
				m.ledger.again.add(back.id)
				if m.emit(h, joined(back.channel, back.id), back.id, false) {
					h.members = append(h.members, back)
				}
			}
			h.away = h.away[:0]
			for range 1 + rand.IntN(mostEvents) {
				m.event(h)
			}
		}
	}
}

// event emits one that might happen next.
func (m *emitter) event(h *hub) {
	id, ok := m.ledger.newIDs(2)
	if !ok {
		m.ledger.fault(errors.New("there are more events than ids: the test is too slow to stop"))
		return
	}
	switch dice := rand.IntN(100); {
	case dice < 55:
		padding := rand.IntN(100)
		if dice == 0 {
			padding = rand.IntN(8 << 10)
		}
		m.emit(h, clientEvent(channelOf(channelKinds[rand.IntN(len(channelKinds))], h.tenant.id, rand.IntN(3)), id, padding), id, true)
	case dice < 80:
		m.comeOrGo(h, id)
	case dice < 90:
		m.occupyOrVacate(h, id)
	case dice < 97:
		m.emit(h, webhook.SubscriptionCount(channelOf("private", h.tenant.id, 0), id), id, false)
	case h.miss > 0 && dice == 97: // once more, which is left out
		m.emit(h, webhook.CacheMiss(channelOf("private-cache", h.tenant.id, h.miss)), h.miss, false)
	default:
		h.miss = id
		m.emit(h, webhook.CacheMiss(channelOf("private-cache", h.tenant.id, id)), id, true)
	}
}

var channelKinds = []string{"private", "presence", "private-encrypted"}

// comeOrGo has a member join, or one leave, of whom half return at once.
func (m *emitter) comeOrGo(h *hub, id int) {
	if n := len(h.members); n < mostThere && (n == 0 || rand.IntN(2) == 0) {
		who := member{id, channelOf("presence", h.tenant.id, rand.IntN(3))}
		if m.emit(h, joined(who.channel, who.id), who.id, true) {
			h.members = append(h.members, who)
		}
		return
	}
	who := h.members[0]
	h.members = h.members[:copy(h.members, h.members[1:])]
	m.emit(h, left(who.channel, who.id), who.id+1, false)
	if rand.IntN(2) == 0 {
		h.away = append(h.away, who)
	}
}

func (m *emitter) occupyOrVacate(h *hub, id int) {
	if n := len(h.rooms); n < mostThere && (n == 0 || rand.IntN(2) == 0) {
		if m.emit(h, webhook.ChannelOccupied(channelOf("room", h.tenant.id, id)), id, true) {
			h.rooms = append(h.rooms, id)
		}
		return
	}
	room := h.rooms[0]
	h.rooms = h.rooms[:copy(h.rooms, h.rooms[1:])]
	m.emit(h, webhook.ChannelVacated(channelOf("room", h.tenant.id, room)), room+1, false)
}

// emit emits an event and notes that it was accepted. Only a full queue, and an app that is being changed, are reasons why
// it may not be.
func (m *emitter) emit(h *hub, e webhook.Event, id int, owed bool) (accepted bool) {
	started := time.Now()
	err := m.d.Emit(h.tenant.id, e)
	m.took.add(time.Since(started))
	switch {
	case err == nil:
		m.ledger.emitted.add(id)
		if owed {
			m.ledger.owed.add(id)
		}
		return true
	case !errors.Is(err, webhook.ErrQueueFull) && !errors.Is(err, webhook.ErrUnknownApp):
		m.ledger.fault(fmt.Errorf("an event was not accepted: %w", err))
	}
	return false
}
