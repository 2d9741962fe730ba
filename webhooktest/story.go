package webhooktest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pusherhooks/webhook"
)

// StoryOptions say what CheckStory may expect. The zero value is the strictest: all types, from the very beginning, nothing lost.
type StoryOptions struct {
	// Types are those that the webhook asks for; the default is all. What only another type could show is not checked.
	Types []webhook.EventType

	// Ended: everybody has left, so every channel must be vacated and every member removed.
	Ended bool

	// UnknownStart: the first delivery is not the beginning. Who was there before is learned from what comes.
	UnknownStart bool

	// Crashes is how often the sender may have died without a word. A channel's story may break off so often: a run of
	// events may be repeated, under new Webhook-Ids, and who was there is unknown from then on.
	Crashes int

	// Refused are events that the sender did not accept or could not deliver, in their order, as Hooks.Rejected,
	// Hooks.Undelivered and channels.Options.Rejected report them. They are gaps: where a story does not go on without
	// one, it is taken as told. The error names those that did not help.
	Refused []webhook.Event
}

// CheckStory checks that what a receiver has accepted can be true: occupied and vacated alternate, no member is added
// twice or removed without being there, and nothing happens on a vacant channel. Each app, path and channel is a story of its own.
// Deliveries that were answered with an error do not count, and those with a Webhook-Id that was seen before. Counts may
// leave some out, as with the dispatcher's timing rules; what these leave out is always a story that can be true.
//
// The error names the event at which each faulty story breaks off, up to 20 of them.
func CheckStory(deliveries []Request, opts StoryOptions) error {
	if len(opts.Types) == 0 {
		opts.Types = webhook.EventTypes()
	}
	stories := make(map[storyKey]*story)
	seen := make(map[string]bool)
	for _, d := range deliveries {
		if d.Err != nil || d.Status >= 300 || d.ID != "" && seen[d.ID] {
			continue
		}
		seen[d.ID] = true
		for _, e := range d.Events {
			key := storyKey{d.Key, d.Path, e.Channel}
			if stories[key] == nil {
				stories[key] = newStory(e.Channel, opts)
			}
			stories[key].next(e)
		}
	}
	var faults []error
	for _, key := range slices.SortedFunc(maps.Keys(stories), storyKey.compare) {
		s := stories[key]
		s.end()
		for _, fault := range s.faults {
			faults = append(faults, fmt.Errorf("app %q, path %q, channel %q: %w", key.app, key.path, key.channel, fault))
		}
	}
	return joined(faults)
}

// maxFaults is how many faults an error describes.
const maxFaults = 20

func joined(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	told := faults[:min(len(faults), maxFaults)]
	return fmt.Errorf("webhooktest: faults in what was told: %d\n%w", len(faults), errors.Join(told...))
}

// A storyKey names a story by the app's key, the webhook's path and the channel.
type storyKey struct{ app, path, channel string }

func (k storyKey) compare(other storyKey) int {
	return slices.Compare([]string{k.app, k.path, k.channel}, []string{other.app, other.path, other.channel})
}

// A story follows the events of one channel.
type story struct {
	opts    StoryOptions
	gaps    []Event // refused, and not needed so far
	crashes int     // that are left
	events  int
	state   state
	faults  []error
}

// A state is what is known of a channel after an event.
type state struct {
	occupied truth
	members  map[string]bool // who is known to be there, or not
	others   truth           // whether anybody else may be
}

type truth int

const (
	unknown truth = iota
	yes
	no
)

func newStory(channel string, opts StoryOptions) *story {
	s := &story{opts: opts, crashes: opts.Crashes, state: state{occupied: no, others: no}}
	if opts.UnknownStart {
		s.state = state{}
	}
	for _, e := range opts.Refused {
		if e.Channel == channel {
			s.gaps = append(s.gaps, Event{Name: e.Type, Channel: channel, UserID: e.UserID, SubscriptionCount: e.SubscriptionCount})
		}
	}
	return s
}

// next goes on with an event: as it comes, or behind gaps, or after a crash, or else with a fault.
func (s *story) next(e Event) {
	s.events++
	fault := s.try(func(now *state) error { return now.apply(e, s.opts.Types) })
	if fault == nil {
		return
	}
	if s.crashes > 0 {
		s.crashes--
	} else {
		s.fault(fmt.Errorf("event %d, %s: %w", s.events, describe(e), fault))
	}
	s.state = state{} // whatever was wrong is told once
	_ = s.state.apply(e, s.opts.Types)
}

// end checks what must be true in the end.
func (s *story) end() {
	if !s.opts.Ended {
		return
	}
	if fault := s.try(func(last *state) error { return last.ended(s.opts.Types) }); fault != nil {
		s.fault(fmt.Errorf("after event %d, the last: %w", s.events, fault))
	}
}

// try does a step from the present state, or from the first one behind gaps from which it can be done.
func (s *story) try(step func(*state) error) error {
	fault := step(&s.state) // which does not change, if there is one
	for i := 0; fault != nil && i < len(s.gaps); i++ {
		behind := s.state.clone()
		for _, gap := range s.gaps[:i+1] {
			_ = behind.apply(gap, s.opts.Types)
		}
		if step(&behind) == nil {
			s.state, s.gaps = behind, s.gaps[i+1:]
			return nil
		}
	}
	return fault
}

func (s *story) fault(err error) {
	for _, gap := range s.gaps {
		err = fmt.Errorf("%w; gap: %s was refused", err, describe(gap))
	}
	s.faults = append(s.faults, err)
}

func describe(e Event) string {
	switch e.Name {
	case webhook.TypeMemberAdded, webhook.TypeMemberRemoved, webhook.TypeClientEvent:
		return fmt.Sprintf("%s of user %q", e.Name, e.UserID)
	case webhook.TypeSubscriptionCount:
		return fmt.Sprintf("%s %d", e.Name, e.SubscriptionCount)
	}
	return string(e.Name)
}

func (s state) clone() state {
	s.members = maps.Clone(s.members)
	return s
}

// member returns what is known of a user.
func (s *state) member(id string) truth {
	there, known := s.members[id]
	switch {
	case !known:
		return s.others
	case there:
		return yes
	}
	return no
}

func (s *state) set(id string, there bool) {
	if s.members == nil {
		s.members = make(map[string]bool)
	}
	s.members[id] = there
}

// apply changes the state by an event, or says why it cannot have happened and changes nothing.
func (s *state) apply(e Event, types []webhook.EventType) error {
	told := func(t webhook.EventType) bool { return slices.Contains(types, t) }
	switch e.Name {
	case webhook.TypeChannelOccupied:
		if s.occupied == yes && told(webhook.TypeChannelVacated) {
			return errors.New("the channel is occupied already")
		}
		*s = state{occupied: yes, others: no}
		return nil
	case webhook.TypeChannelVacated:
		if s.occupied == no && told(webhook.TypeChannelOccupied) {
			return errors.New("the channel is vacant already")
		}
		if err := s.deserted(types); err != nil {
			return err
		}
		*s = state{occupied: no, others: no}
		return nil
	}
	if s.occupied == no && told(webhook.TypeChannelOccupied) {
		return errors.New("the channel is vacant")
	}
	if err := s.applyMember(e, told); err != nil {
		return err
	}
	if s.occupied == unknown {
		s.occupied = yes
	}
	return nil
}

// applyMember is the part of apply that is about users.
func (s *state) applyMember(e Event, told func(webhook.EventType) bool) error {
	switch there := s.member(e.UserID); e.Name {
	case webhook.TypeMemberAdded:
		if there == yes && told(webhook.TypeMemberRemoved) {
			return errors.New("the member is there already")
		}
		s.set(e.UserID, true)
	case webhook.TypeMemberRemoved:
		if there == no && told(webhook.TypeMemberAdded) {
			return errors.New("the member is not there")
		}
		s.set(e.UserID, false)
	case webhook.TypeClientEvent:
		if e.UserID != "" && there == no && told(webhook.TypeMemberAdded) {
			return errors.New("the member is not there")
		}
	}
	return nil
}

// deserted says which member is still there.
func (s *state) deserted(types []webhook.EventType) error {
	if !slices.Contains(types, webhook.TypeMemberRemoved) {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		if s.members[id] {
			return fmt.Errorf("member %q is still there", id)
		}
	}
	return nil
}

func (s *state) ended(types []webhook.EventType) error {
	if s.occupied == yes && slices.Contains(types, webhook.TypeChannelVacated) {
		return errors.New("the channel is still occupied")
	}
	return s.deserted(types)
}
