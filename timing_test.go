package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

const grace = 3 * time.Second

// timed runs a test in a bubble, with Pusher's timing and without batching. said returns what has been sent so
// far, as "type channel user-or-count".
func timed(t *testing.T, test func(t *testing.T, d *webhook.Dispatcher, said func() []string)) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{}
		d := newDispatcher(t, webhook.Config{
			Apps: []webhook.App{testApp("app", "http://localhost/"), testApp("other", "http://localhost/")}, MaxBatchEvents: 1, Sender: sent,
		}.WithPusherTiming())
		test(t, d, func() []string {
			synctest.Wait()
			return spoken(t, sent)
		})
	})
}

func spoken(t *testing.T, sent *recorder) (all []string) {
	for _, delivery := range sent.deliveries() {
		for _, e := range parse(t, delivery.Body).Events {
			line := strings.TrimPrefix(delivery.AppID+" ", "app ") + string(e.Name) + " " + e.Channel
			if e.UserID != "" {
				line += " " + e.UserID
			}
			if e.Name == webhook.TypeSubscriptionCount {
				line += fmt.Sprint(" ", e.SubscriptionCount)
			}
			all = append(all, line)
		}
	}
	return all
}

func TestVacatedIsHeldForTheGrace(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.ChannelOccupied("room"), webhook.ChannelVacated("room"))
		require.Equal(t, []string{"channel_occupied room"}, said())
		require.Equal(t, uint64(1), d.Stats().Held)
		require.Positive(t, d.Stats().PendingBytes, "in the memory bounds")
		time.Sleep(grace - 1)
		require.Len(t, said(), 1)
		time.Sleep(time.Nanosecond)
		require.Equal(t, []string{"channel_occupied room", "channel_vacated room"}, said())
		require.Zero(t, d.Stats().PendingBytes)
	})
}

func TestReturnJustBeforeAndJustAfterTheGraceEnds(t *testing.T) {
	for name, pair := range map[string][2]webhook.Event{
		"channel": {webhook.ChannelVacated("presence-room"), webhook.ChannelOccupied("presence-room")},
		"member":  {webhook.MemberRemoved("presence-room", "ada"), webhook.MemberAdded("presence-room", "ada")},
	} {
		t.Run(name, func(t *testing.T) {
			timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
				emit(t, d, "app", pair[0])
				time.Sleep(grace - 1)
				emit(t, d, "app", pair[1])
				time.Sleep(time.Minute)
				require.Empty(t, said(), "neither is sent")
				require.Equal(t, webhook.Stats{Emitted: 2, Suppressed: 2}, d.Stats())

				emit(t, d, "app", pair[0])
				time.Sleep(grace + 1)
				emit(t, d, "app", pair[1])
				require.Len(t, said(), 2, "both are, in order")
				require.Equal(t, said()[0][:3], string(pair[0].Type)[:3])
			})
		})
	}
}

// The event that returns and the timer come at the same moment: sent both or neither, and never out of order.
func TestReturnAtTheMomentTheGraceEnds(t *testing.T) {
	for range 200 {
		timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
			emit(t, d, "app", webhook.ChannelVacated("room"))
			time.Sleep(grace)
			emit(t, d, "app", webhook.ChannelOccupied("room"))
			if got := said(); len(got) > 0 {
				require.Equal(t, []string{"channel_vacated room", "channel_occupied room"}, got)
			} else {
				require.EqualValues(t, 2, d.Stats().Suppressed)
			}
		})
	}
}

func TestFlapping(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		for range 100 {
			emit(t, d, "app", webhook.ChannelVacated("room"))
			time.Sleep(grace - time.Second)
			emit(t, d, "app", webhook.ChannelOccupied("room"))
			time.Sleep(time.Second)
		}
		emit(t, d, "app", webhook.ChannelVacated("room"), webhook.ChannelVacated("room"))
		require.Equal(t, []string{"channel_occupied room"}, said())
		time.Sleep(grace)
		require.Equal(t, []string{"channel_occupied room", "channel_vacated room"}, said())
		require.EqualValues(t, 201, d.Stats().Suppressed)
	})
}

func TestMembersAndAppsAreHeldApart(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.MemberRemoved("presence-room", "ada"), webhook.MemberRemoved("presence-room", "bob"))
		emit(t, d, "other", webhook.MemberRemoved("presence-room", "ada"))
		time.Sleep(time.Second)
		emit(t, d, "app", webhook.MemberAdded("presence-room", "ada"), webhook.MemberAdded("presence-room", "eve"))
		emit(t, d, "app", webhook.MemberRemoved("presence-hall", "ada"))
		time.Sleep(grace - time.Second)
		require.ElementsMatch(t, []string{
			"member_added presence-room eve", "member_removed presence-room bob", "other member_removed presence-room ada",
		}, said())
		time.Sleep(grace)
		require.Contains(t, said(), "member_removed presence-hall ada")
	})
}

func TestHeldEventsKeepTheirOrder(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.MemberRemoved("presence-room", "ada"), webhook.MemberRemoved("presence-room", "bob"), webhook.ChannelVacated("presence-room"))
		time.Sleep(grace)
		require.Equal(t, []string{"member_removed presence-room ada", "member_removed presence-room bob", "channel_vacated presence-room"}, said())
	})
}

// A webhook for occupied alone hears no second occupied when the vacated between them was never due.
func TestGraceHoldsForWebhooksThatWantOneOfThePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1}.WithPusherTiming(), nil)
		cfg.Apps[0].Webhooks[0].EventTypes = []webhook.EventType{webhook.TypeChannelOccupied}
		cfg.Apps[0].Webhooks[0].Filter.ChannelNameStartsWith = "private-"
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("private-room"), webhook.ChannelVacated("private-room"), webhook.ChannelOccupied("private-room"))
		emit(t, d, "app", webhook.ChannelVacated("room"))
		require.Zero(t, d.Stats().Held, "nobody asks for this channel")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"channel_occupied private-room"}, spoken(t, sent))
		require.True(t, d.Wants("app", webhook.TypeChannelVacated, "private-room"), "the server has to tell of both")
		require.False(t, d.Wants("app", webhook.TypeMemberAdded, "private-room"))
	})
}

func TestHeldEventsGoOnlyWhereTheyWereAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &recorder{}
		d := newDispatcher(t, webhook.Config{Sender: sent, Apps: []webhook.App{{ID: "app", Key: "key", Secret: "secret", Webhooks: []webhook.Webhook{
			{URL: "http://localhost/occupied", EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}},
			{URL: "http://localhost/vacated", EventTypes: []webhook.EventType{webhook.TypeChannelVacated}},
		}}}}.WithPusherTiming())
		emit(t, d, "app", webhook.ChannelVacated("room"))
		time.Sleep(time.Minute)
		require.Len(t, sent.deliveries(), 1)
		require.Equal(t, "http://localhost/vacated", sent.deliveries()[0].URL)
	})
}

func TestTooLargeAnEventIsRefusedBeforeItIsHeld(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		require.ErrorIs(t, d.Emit("app", webhook.ChannelVacated(strings.Repeat("x", 64<<10))), webhook.ErrInvalidEvent)
		require.Zero(t, d.Stats().Held)
	})
}

func TestCloseLetsGoWhatIsHeld(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.SubscriptionCount("presence-room", 200), webhook.SubscriptionCount("presence-room", 150))
		time.Sleep(time.Second)
		emit(t, d, "app", webhook.MemberRemoved("presence-room", "ada"), webhook.ChannelVacated("presence-room"))
		start := time.Now()
		closeNow(t, d)
		require.Zero(t, time.Since(start))
		require.Equal(t, []string{"subscription_count presence-room 200", "subscription_count presence-room 150",
			"member_removed presence-room ada", "channel_vacated presence-room"}, said())
		require.ErrorIs(t, d.Emit("app", webhook.ChannelVacated("room")), webhook.ErrClosed)
	})
}

func TestAppRemovedOrReplacedWhileItsEventsAreHeld(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.ChannelVacated("a"), webhook.ChannelVacated("b"))
		d.RemoveApp("app")
		require.Empty(t, said())
		require.NoError(t, d.SetApp(testApp("app", "http://localhost/new")))
		emit(t, d, "app", webhook.ChannelOccupied("b")) // the app that came back knows its channels
		time.Sleep(grace)
		require.Equal(t, []string{"channel_vacated a"}, said(), "what was accepted is sent where it was meant to go")
		require.EqualValues(t, 2, d.Stats().Suppressed)
	})
}

func TestCountsAboveTheThreshold(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		for n := 98; n <= 110; n++ {
			emit(t, d, "app", webhook.SubscriptionCount("room", n))
		}
		want := []string{"subscription_count room 98", "subscription_count room 99", "subscription_count room 100", "subscription_count room 101"}
		require.Equal(t, want, said(), "up to the threshold each, above it the first")
		require.EqualValues(t, 8, d.Stats().Suppressed)
		require.EqualValues(t, 1, d.Stats().Held)
		time.Sleep(5*time.Second - 1)
		require.Len(t, said(), 4)
		atTime(time.Nanosecond)
		want = append(want, "subscription_count room 110")
		require.Equal(t, want, said(), "the latest at the end of the interval")
		emit(t, d, "app", webhook.SubscriptionCount("room", 120))
		require.Len(t, said(), 5, "which starts the next interval")
		emit(t, d, "app", webhook.SubscriptionCount("room", 90))
		want = append(want, "subscription_count room 90")
		require.Equal(t, want, said(), "below the threshold at once, and what was held is out of date")
		time.Sleep(time.Minute)
		require.Equal(t, want, said())
		require.Zero(t, d.Stats().PendingBytes)
		emit(t, d, "app", webhook.SubscriptionCount("room", 130))
		require.Len(t, said(), 7)
	})
}

func TestCacheMissOncePerWindow(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		for range 10 {
			emit(t, d, "app", webhook.CacheMiss("cache-a"), webhook.CacheMiss("cache-b"))
		}
		require.Len(t, said(), 2)
		atTime(time.Second)
		emit(t, d, "app", webhook.CacheMiss("cache-a"))
		require.Equal(t, []string{"cache_miss cache-a", "cache_miss cache-a", "cache_miss cache-b"}, sorted(said()))
		require.EqualValues(t, 18, d.Stats().Suppressed)
	})
}

func TestRulesAreOffByDefaultAndOneByOne(t *testing.T) {
	story := []webhook.Event{
		webhook.ChannelVacated("a"), webhook.ChannelOccupied("a"), webhook.CacheMiss("a"), webhook.CacheMiss("a"),
		webhook.SubscriptionCount("a", 200), webhook.SubscriptionCount("a", 201), webhook.SubscriptionCount("a", 202),
		webhook.ClientEvent("a", "client-a", nil, "", ""), webhook.ClientEvent("a", "client-a", nil, "", ""),
	}
	for want, cfg := range map[int]webhook.Config{
		9: {},
		7: {ReconnectGrace: time.Second},
		8: {CacheMissWindow: time.Second},
		6: {ReconnectGrace: time.Second, CacheMissWindow: time.Second, CountThreshold: -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg, sent := oneEndpoint(cfg, nil)
			d := newDispatcher(t, cfg)
			emit(t, d, "app", story...)
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Len(t, spoken(t, sent), want)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{CountInterval: time.Second, CountThreshold: -1}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.SubscriptionCount("a", 0), webhook.SubscriptionCount("a", 1), webhook.SubscriptionCount("a", 2))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"subscription_count a 0", "subscription_count a 2"}, spoken(t, sent), "no count is below the threshold")
	})
	_, err := webhook.New(webhook.Config{ReconnectGrace: -1, CountInterval: -1, CacheMissWindow: -1})
	for _, field := range []string{"ReconnectGrace", "CountInterval", "CacheMissWindow"} {
		require.ErrorContains(t, err, field+": must be positive, or 0 for off")
	}
}

// A held event was accepted. If its endpoint is full when it is let go it is reported, ready to be redelivered.
func TestHeldEventThatFindsAFullQueueIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost []*webhook.Delivery
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxEndpointQueuedBytes: 2000}.WithPusherTiming(), dead)
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			if errors.Is(err, webhook.ErrQueueFull) {
				lost = append(lost, d)
			}
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelVacated("room"))
		for d.Emit("app", webhook.ClientEvent("room", "client-a", nil, "", "")) == nil {
		}
		time.Sleep(grace)
		synctest.Wait()
		require.Len(t, lost, 1)
		require.NoError(t, webhook.Verify("app-key", "app-secret", lost[0].Header, lost[0].Body))
		require.Equal(t, []string{"room"}, channels(t, lost[0].Body))
		require.EqualValues(t, 1, d.Stats().Undelivered)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = d.Close(ctx)
	})
}

// The same for an app that was removed meanwhile: of the endpoint that was made for the event nothing is left, nor of the
// app.
func TestHeldEventOfARemovedAppThatFindsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := 0
		cfg := webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/")}, MaxBatchEvents: 1, MaxQueuedBytes: 200_000, MaxEventBytes: 1000,
			SendTimeout: time.Hour, Sender: webhook.SenderFunc(dead)}
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			if d.AppID == "app" && errors.Is(err, webhook.ErrQueueFull) {
				lost++
			}
		}
		for i := range 20 {
			cfg.Apps = append(cfg.Apps, testApp(fmt.Sprint("other", i), "http://localhost/"))
		}
		d := newDispatcher(t, cfg.WithPusherTiming())
		emit(t, d, "app", webhook.ChannelVacated("room"))
		d.RemoveApp("app")
		for i := range 20 {
			for d.Emit(fmt.Sprint("other", i), webhook.ClientEvent("room", "client-a", nil, "", "")) == nil {
			}
		}
		require.True(t, d.HasAccount("app"))
		atTime(grace)
		require.Equal(t, 1, lost)
		require.Empty(t, d.Endpoints("app"))
		require.False(t, d.HasAccount("app"))
		require.EqualValues(t, 1, d.Stats().Undelivered)
		for i := range 20 {
			d.Purge(fmt.Sprint("other", i))
		}
	})
}

// Rules take no more memory than an app's share; beyond it they do not apply.
func TestRulesStayWithinTheShareOfTheApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{MaxEndpointQueuedBytes: 20_000}.WithPusherTiming(), nil)
		d := newDispatcher(t, cfg)
		most := uint64(0)
		for round := range 3 { // what has ended, or was refused, takes no share any more
			for i := range 100 {
				emit(t, d, "app", webhook.ChannelVacated(fmt.Sprint(i+100)))
				require.LessOrEqual(t, d.Stats().PendingBytes, int64(40_000))
			}
			held := d.Stats().Held
			if most = max(most, held); round == 0 {
				require.Greater(t, held, uint64(20))
				require.Less(t, held, uint64(50))
			}
			require.Equal(t, most, held)
			atTime(window)
			require.Len(t, spoken(t, sent), 100*(round+1)-int(held), "sent at once instead")
			time.Sleep(grace)
			atTime(window)
			require.Len(t, spoken(t, sent), 100*(round+1))
		}
	})
}

// What is held keeps nothing of the message that it came in.
func TestHeldEventsKeepNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 100_000
		cfg, _ := oneEndpoint(webhook.Config{}.WithPusherTiming(), nil)
		d := newDispatcher(t, cfg)
		before := heap()
		for i := range 100 {
			message := fmt.Sprintf("member_removed presence-%03d user", i) + strings.Repeat("x", size)
			emit(t, d, "app", webhook.Event{Type: webhook.EventType(message[:14]), Channel: message[15:27], UserID: message[28:32]})
		}
		require.EqualValues(t, 100, d.Stats().Held)
		require.Less(t, heap()-before, int64(10*size))
	})
}

// A channel that is vacated twice is told of when the first grace ends.
func TestVacatedTwiceIsOneGrace(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		emit(t, d, "app", webhook.ChannelVacated("room"))
		time.Sleep(grace - time.Second)
		emit(t, d, "app", webhook.ChannelVacated("room"))
		time.Sleep(time.Second)
		require.Equal(t, []string{"channel_vacated room"}, said())
		time.Sleep(time.Minute)
		require.Len(t, said(), 1)
		require.EqualValues(t, 1, d.Stats().Suppressed)
	})
}

// A cache_miss that finds no room was not sent: the next one is the first.
func TestRefusedCacheMissBeginsNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxEndpointQueuedBytes: 5000, CacheMissWindow: time.Hour}, open.answer)
		d := newDispatcher(t, cfg)
		for d.Emit("app", webhook.ChannelOccupied("room")) == nil {
		}
		require.ErrorIs(t, d.Emit("app", webhook.CacheMiss("cache-room")), webhook.ErrQueueFull)
		close(open)
		synctest.Wait()
		emit(t, d, "app", webhook.CacheMiss("cache-room"), webhook.CacheMiss("cache-room"))
		synctest.Wait()
		all := spoken(t, sent)
		require.Equal(t, "cache_miss cache-room", all[len(all)-1])
		require.EqualValues(t, 1, d.Stats().Suppressed)
	})
}

// Two users in two apps come and go at random; whatever is sent is a true story of each: it begins with an
// arrival, alternates, and ends as it really ended.
func TestTimingAtRandom(t *testing.T) {
	for seed := range uint64(50) {
		timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
			rng := rand.New(rand.NewPCG(seed, 0))
			in := map[string]bool{}
			for range 300 {
				app, user := []string{"app", "other"}[rng.IntN(2)], []string{"ada", "bob"}[rng.IntN(2)]
				who := strings.TrimPrefix(app+" ", "app ") + "presence-room " + user
				if in[who] {
					emit(t, d, app, webhook.MemberRemoved("presence-room", user))
				} else {
					emit(t, d, app, webhook.MemberAdded("presence-room", user))
				}
				in[who] = !in[who]
				time.Sleep(time.Duration(rng.Int64N(int64(grace))))
			}
			closeNow(t, d)
			told := map[string]bool{}
			for _, line := range said() {
				added := strings.Contains(line, "member_added ")
				who := strings.NewReplacer("member_added ", "", "member_removed ", "").Replace(line)
				require.NotEqual(t, told[who], added, "seed %d: %s", seed, line)
				told[who] = added
			}
			require.Equal(t, in, told, "seed %d", seed)
		})
	}
}

// An event that is refused begins nothing: the next one of its channel is the first.
func TestRefusedEventsBeginNoWindow(t *testing.T) {
	for name, events := range map[string][2]webhook.Event{
		"cache miss": {webhook.CacheMiss("room"), webhook.CacheMiss("room")},
		"count":      {webhook.SubscriptionCount("room", 200), webhook.SubscriptionCount("room", 201)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(gate)
				cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxEndpointQueuedBytes: 4000}.WithPusherTiming(), open.answer)
				d := newDispatcher(t, cfg)
				fillUp(t, d)
				require.ErrorIs(t, d.Emit("app", events[0]), webhook.ErrQueueFull)
				require.Zero(t, d.Stats().Suppressed)
				close(open)
				synctest.Wait()
				emit(t, d, "app", events[1])
				synctest.Wait()
				all := sent.deliveries()
				require.Equal(t, events[1].Type, parse(t, all[len(all)-1].Body).Events[0].Name, "it is sent at once")
				require.Zero(t, d.Stats().Held)
				require.Zero(t, d.Stats().Suppressed)
			})
		})
	}
}

// fillUp emits until the app's endpoints have no room for another event.
func fillUp(t *testing.T, d *webhook.Dispatcher) {
	t.Helper()
	for range 100_000 {
		if err := d.Emit("app", webhook.ClientEvent("private-x", "client-a", nil, "", "")); err != nil {
			require.ErrorIs(t, err, webhook.ErrQueueFull)
			return
		}
	}
	t.Fatal("there is always room")
}

// A server that parses without copying hands over strings whose memory it uses again.
func TestHeldEventsKeepNothingOfTheCallers(t *testing.T) {
	timed(t, func(t *testing.T, d *webhook.Dispatcher, said func() []string) {
		memory := []byte("member_removed presence-room ada")
		text := unsafe.String(&memory[0], len(memory))
		parts := strings.Split(text, " ")
		emit(t, d, "app", webhook.Event{Type: webhook.EventType(parts[0]), Channel: parts[1], UserID: parts[2]})
		copy(memory, strings.Repeat("!", len(memory)))
		time.Sleep(grace)
		require.Equal(t, []string{"member_removed presence-room ada"}, said())
		require.Zero(t, d.Stats().PendingBytes)
	})
}

// Events that were held and find no room are all counted before a hook is told of the first: a Close that comes while
// the hook takes its time finds none of them missing.
func TestHeldEventsWithoutRoomAreCountedBeforeAnybodyIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const held = 20
		release := make(chan struct{})
		var mu sync.Mutex
		told := map[string]int{}
		cfg := webhook.Config{Apps: []webhook.App{testApp("app", "http://a/", "http://b/", "http://c/")}, MaxBatchEvents: 1,
			MaxEndpointQueuedBytes: held * 600, Sender: webhook.SenderFunc(dead)}
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			if errors.Is(err, webhook.ErrQueueFull) {
				<-release
				mu.Lock()
				defer mu.Unlock()
				for _, e := range parse(t, d.Body).Events {
					told[d.URL+e.Channel]++
				}
			}
		}
		d := newDispatcher(t, cfg.WithPusherTiming())
		for i := range held {
			emit(t, d, "app", webhook.ChannelVacated(fmt.Sprint("held-", i)))
		}
		fillUp(t, d)
		atTime(grace)
		require.Zero(t, d.Stats().Held)
		require.EqualValues(t, 3*held, d.Stats().Undelivered, "counted, and the hook has not returned once")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, d.Close(ctx))
		checkAccounts(t, d)
		close(release)
		synctest.Wait()
		require.Len(t, told, 3*held, "and each is told once")
	})
}

// Close hands back in order: what was held comes behind what was queued before, whether there is room for it or not.
func TestCloseReleasesWhatIsHeldBehindWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1, MaxEndpointQueuedBytes: 4000}.WithPusherTiming(), dead)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"), webhook.ChannelVacated("room"))
		fillUp(t, d)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		first, last := left.Deliveries[0], left.Deliveries[len(left.Deliveries)-1]
		require.Equal(t, webhook.TypeChannelOccupied, parse(t, first.Body).Events[0].Name)
		require.Equal(t, webhook.TypeChannelVacated, parse(t, last.Body).Events[0].Name)
	})
}

// Thousands of held events that find all of an app's endpoints full, or that are purged, are given up in slices, in one
// batch for each endpoint, and a shard serves others between the slices. So are a few that are large.
func TestManyHeldEventsAreGivenUpInSlices(t *testing.T) {
	const endpoints = 20
	for _, test := range []struct {
		name           string
		held, size     int
		slice, batches int // events and deliveries for each endpoint
		purge          bool
	}{
		{name: "without room", held: 1000, size: 10, slice: 64, batches: 16},
		{name: "without room, large", held: 40, size: 60_000, slice: 1, batches: 40},
		{name: "purged", held: 1000, size: 10, slice: 64, batches: 16, purge: true},
		{name: "purged, large", held: 40, size: 60_000, slice: 1, batches: 40, purge: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var urls []string
				for i := range endpoints {
					urls = append(urls, fmt.Sprintf("http://host/%d", i))
				}
				var d *webhook.Dispatcher
				var mu sync.Mutex
				var deliveries, events, most int
				cfg := webhook.Config{Apps: []webhook.App{testApp("app", urls...)}, MaxEndpointQueuedBytes: 3 << 20, Sender: webhook.SenderFunc(dead)}
				cfg.Hooks.Undelivered = func(delivery *webhook.Delivery, err error) {
					mu.Lock()
					defer mu.Unlock()
					if events == test.held*endpoints {
						return // what was queued is purged at the end
					}
					most = max(most, int(d.Stats().Undelivered)-events)
					deliveries, events = deliveries+1, events+delivery.Events
					_ = d.Emit("app", webhook.MemberAdded("presence-room", "somebody")) // the shard's lock is free
				}
				d = newDispatcher(t, cfg.WithPusherTiming())
				for i := range test.held { // of one channel, and so of one shard
					emit(t, d, "app", webhook.MemberRemoved("presence-room", fmt.Sprint(i, strings.Repeat("x", test.size))))
				}
				if !test.purge {
					data := []byte(`"` + strings.Repeat("x", 60_000) + `"`)
					for d.Emit("app", webhook.ClientEvent("private-x", "client-a", data, "", "")) == nil {
					}
					fillUp(t, d)
					atTime(grace)
				}
				d.Purge("app")
				require.Equal(t, test.held*endpoints, events)
				require.LessOrEqual(t, most, test.slice*endpoints, "at a time")
				require.LessOrEqual(t, deliveries, test.batches*endpoints)
			})
		})
	}
}

// An endpoint that comes back for an event of a removed app, and has no room for it, goes again.
func TestHeldEventOfARemovedAppLeavesNoEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := 0
		cfg := webhook.Config{Apps: []webhook.App{testApp("app", "http://a/"), testApp("gone", "http://b/")}, MaxBatchEvents: 1,
			MaxQueuedBytes: 10_000, Sender: webhook.SenderFunc(dead)}
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, err error) {
			if d.AppID == "gone" && errors.Is(err, webhook.ErrQueueFull) {
				lost++
			}
		}
		d := newDispatcher(t, cfg.WithPusherTiming())
		emit(t, d, "gone", webhook.ChannelVacated("room"))
		d.RemoveApp("gone")
		fillUp(t, d)
		atTime(grace)
		require.Equal(t, 1, lost)
		require.Empty(t, d.Endpoints("gone"))
		d.Purge("app")
	})
}

// What a burst of states took is given back when they have ended, also while a few live on.
func TestStatesThatHaveEndedTakeNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{CacheMissWindow: time.Second, MaxEndpointQueuedBytes: 200 << 20}, nil)
		cfg.Sender = webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil })
		d := newDispatcher(t, cfg)
		before := heap()
		for i := range 100_000 {
			emit(t, d, "app", webhook.CacheMiss(fmt.Sprint("cache-", i)))
		}
		time.Sleep(900 * time.Millisecond)
		for i := range 200 { // in every shard
			emit(t, d, "app", webhook.CacheMiss(fmt.Sprint("cache-later-", i)))
		}
		atTime(200 * time.Millisecond)
		require.LessOrEqual(t, d.Stats().PendingBytes, int64(300<<10), "200 states, and what is spare")
		require.Less(t, heap()-before, int64(2<<20))
		require.NoError(t, d.Flush(t.Context()))
	})
}

// Purge lets others go on between its slices. A count that is held anew meanwhile is not what was to be purged, and its
// memory is released once.
func TestPurgeBesideCountsThatAreHeldAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const channels = 4000
		var d *webhook.Dispatcher
		var once atomic.Bool
		counts := func(n int) {
			for i := range channels {
				_ = d.Emit("a", webhook.Event{Type: webhook.TypeSubscriptionCount, Channel: fmt.Sprint("c", i), SubscriptionCount: n})
			}
		}
		d, err := webhook.New(webhook.Config{
			Apps: []webhook.App{testApp("a", "http://a.test/")}, Sender: &recorder{},
			CountInterval: time.Second, CountThreshold: -1,
			Hooks: webhook.Hooks{Undelivered: func(*webhook.Delivery, error) {
				if once.CompareAndSwap(false, true) { // a hook that stores takes a while
					time.Sleep(1500 * time.Millisecond) // the intervals end
					counts(3)                           // held in the next
				}
			}},
		})
		require.NoError(t, err)
		counts(1)
		counts(2) // held
		d.Purge("a")
		time.Sleep(time.Minute) // all states end
		synctest.Wait()
		pending := d.Stats().PendingBytes

		require.NoError(t, d.Close(context.Background()))
		require.Zero(t, pending, "nothing is pending")
	})
}
