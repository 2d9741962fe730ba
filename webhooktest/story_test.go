package webhooktest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

// told makes a delivery of a story in short: O and V for occupied and vacated, +u and -u for members, =n for a count,
// !u for a client event, ? for a cache miss.
func told(id, story string) webhooktest.Request {
	d := webhooktest.Request{ID: id, Key: "app-key", Path: "/", Status: 200}
	for _, word := range strings.Fields(story) {
		d.Events = append(d.Events, inShort(word))
	}
	return d
}

func inShort(word string) webhooktest.Event {
	e := webhooktest.Event{Channel: "presence-room"}
	switch rest := word[1:]; word[0] {
	case 'O':
		e.Name = webhook.TypeChannelOccupied
	case 'V':
		e.Name = webhook.TypeChannelVacated
	case '+':
		e.Name, e.UserID = webhook.TypeMemberAdded, rest
	case '-':
		e.Name, e.UserID = webhook.TypeMemberRemoved, rest
	case '=':
		e.Name, e.SubscriptionCount = webhook.TypeSubscriptionCount, len(rest)
	case '!':
		e.Name, e.UserID = webhook.TypeClientEvent, rest
	case '?':
		e.Name = webhook.TypeCacheMiss
	}
	return e
}

func TestCheckStory(t *testing.T) {
	onlyMembers := webhooktest.StoryOptions{Types: []webhook.EventType{webhook.TypeMemberAdded, webhook.TypeMemberRemoved}}
	onlyJoins := webhooktest.StoryOptions{Types: []webhook.EventType{webhook.TypeChannelOccupied, webhook.TypeMemberAdded}}
	for _, test := range []struct {
		name, story string
		opts        webhooktest.StoryOptions
		fault       string // empty if there is none
	}{
		{name: "a whole story", story: "O +a +b !a ? -a -b V O =1 =0 V", opts: webhooktest.StoryOptions{Ended: true}},
		{name: "with Pusher's timing: who came back at once has not left", story: "O +a =111 = +b -a", opts: webhooktest.StoryOptions{}},
		{name: "occupied twice", story: "O O", fault: "event 2, channel_occupied: the channel is occupied already"},
		{name: "vacated twice", story: "O V V", fault: "event 3, channel_vacated: the channel is vacant already"},
		{name: "vacated first", story: "V", fault: "the channel is vacant already"},
		{name: "added twice", story: "O +a +a", fault: `event 3, member_added of user "a": the member is there already`},
		{name: "removed twice", story: "O +a +b -a -a", fault: "the member is not there"},
		{name: "removed and never added", story: "O +a -b", fault: `member_removed of user "b": the member is not there`},
		{name: "an event of nobody", story: "O +a !b", fault: "the member is not there"},
		{name: "an event after vacated", story: "O +a -a V !a", fault: "the channel is vacant"},
		{name: "a count after vacated", story: "O V =1", fault: "event 3, subscription_count 1: the channel is vacant"},
		{name: "a miss before occupied", story: "?", fault: "the channel is vacant"},
		{name: "a member stays on a vacant channel", story: "O +a V", fault: `member "a" is still there`},
		{name: "it goes on after a fault", story: "O O +a +a -a V", fault: "faults in what was told: 2\n"},
		{name: "not ended", story: "O =1", opts: webhooktest.StoryOptions{Ended: true}, fault: "after event 2, the last: the channel is still occupied"},

		{name: "only members are told", story: "+a -a +a", opts: onlyMembers},
		{name: "only members are told, and wrong", story: "+a -a -a", opts: onlyMembers, fault: "the member is not there"},
		{name: "nobody tells who goes", story: "O +a O +a +a", opts: onlyJoins},

		{name: "from the middle", story: "+b -a -b V O", opts: webhooktest.StoryOptions{UnknownStart: true}},
		{name: "from the middle, and wrong", story: "+b -b -b", opts: webhooktest.StoryOptions{UnknownStart: true}, fault: "the member is not there"},
		{name: "a crash: leaving was not told", story: "O +a O +a -a V", opts: webhooktest.StoryOptions{Crashes: 1, Ended: true}},
		{name: "a crash: a run is told again", story: "O +a +b -a +a +b -a -b V", opts: webhooktest.StoryOptions{Crashes: 1, Ended: true}},
		{name: "more crashes than there were", story: "O O O", opts: webhooktest.StoryOptions{Crashes: 1}, fault: "event 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := webhooktest.CheckStory([]webhooktest.Request{told("1", test.story)}, test.opts)
			if test.fault == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.fault)
			}
		})
	}
}

func TestCheckStoryKnowsGaps(t *testing.T) {
	const room = "presence-room"
	gaps := webhooktest.StoryOptions{Ended: true, Refused: []webhook.Event{
		webhook.ChannelVacated("another"), webhook.MemberRemoved(room, "a"), webhook.ChannelVacated(room),
	}}
	check := func(story string) error { return webhooktest.CheckStory([]webhooktest.Request{told("1", story)}, gaps) }
	require.NoError(t, check("O +a -a V"), "they were not needed")
	require.NoError(t, check("O +a +a -a V"))
	require.NoError(t, check("O +a O +b -b V"))
	require.NoError(t, check("O +a"), "in the end")
	require.ErrorContains(t, check("O +a +b +b"), `the member is there already; gap: member_removed of user "a" was refused; gap: channel_vacated was refused`)
}

func TestCheckStoryCountsWhatWasAccepted(t *testing.T) {
	twice := []webhooktest.Request{told("1", "O +a"), told("1", "O +a"), told("2", "-a V")}
	require.NoError(t, webhooktest.CheckStory(twice, webhooktest.StoryOptions{Ended: true}))
	failed := []webhooktest.Request{told("1", "O +a"), told("2", "-a V"), told("2", "-a V")}
	failed[1].Status = 503
	require.NoError(t, webhooktest.CheckStory(failed, webhooktest.StoryOptions{Ended: true}))
	forged := []webhooktest.Request{told("1", "V"), told("2", "O")}
	forged[0].Err = errors.New("forged")
	require.NoError(t, webhooktest.CheckStory(forged, webhooktest.StoryOptions{}))
}

func TestCheckStoryTellsStoriesApart(t *testing.T) {
	one, two, three := told("1", "O +a"), told("2", "O +a"), told("3", "O +a")
	two.Path = "/other"
	three.Key = "other-key"
	require.NoError(t, webhooktest.CheckStory([]webhooktest.Request{one, two, three}, webhooktest.StoryOptions{}))
	two.Events[1].Channel = "presence-other"
	require.ErrorContains(t, webhooktest.CheckStory([]webhooktest.Request{one, two}, webhooktest.StoryOptions{}),
		`app "app-key", path "/other", channel "presence-other": event 1, member_added of user "a": the channel is vacant`)
}

func TestCheckStoryBoundsItsError(t *testing.T) {
	var many []webhooktest.Request
	for i := range 100 {
		d := told(fmt.Sprint(i), "V")
		d.Path = fmt.Sprint("/", i)
		many = append(many, d)
	}
	err := webhooktest.CheckStory(many, webhooktest.StoryOptions{})
	require.ErrorContains(t, err, "told: 100\n")
	require.Len(t, strings.Split(err.Error(), "\n"), 21)
}
