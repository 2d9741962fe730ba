package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// Two apps with one URL, emitting in turn: soketi put them into one batch, signed for whoever came first.
func TestAppsNeverShareABatch(t *testing.T) {
	shop, chat := testApp("shop"), testApp("chat")
	r := newReceiver(t, shop, chat)
	shop.Webhooks = testApp("", r.URL).Webhooks
	chat.Webhooks = testApp("", r.URL).Webhooks
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{shop, chat}})
	for range 50 {
		emit(t, d, "shop", webhook.ChannelOccupied("shop-channel"))
		emit(t, d, "chat", webhook.ChannelOccupied("chat-channel"))
	}
	_, err := r.Wait(100, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, r.Requests(), 2, "one batch for each app, each verified with the app's own key and secret")
	for _, request := range r.Requests() {
		for _, e := range request.Events {
			require.Equal(t, request.Key, map[string]string{"shop-channel": "shop-key", "chat-channel": "chat-key"}[e.Channel])
		}
	}
}

// Webhooks with different event types, batched: soketi filtered a batch, then posted the unfiltered one.
func TestEachWebhookGetsOnlyWhatItAskedFor(t *testing.T) {
	app := testApp("app")
	r := newReceiver(t, app)
	app.Webhooks = []webhook.Webhook{
		{URL: r.URL + "/occupied", EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}},
		{URL: r.URL + "/vacated", EventTypes: []webhook.EventType{webhook.TypeChannelVacated}},
		{URL: r.URL + "/private", EventTypes: every, Filter: webhook.Filter{ChannelNameStartsWith: "private-"}},
	}
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{app}})
	for range 10 {
		emit(t, d, "app", webhook.ChannelOccupied("room"), webhook.ChannelVacated("private-room"))
	}
	closeNow(t, d)
	require.Len(t, r.Deliveries(), 3)
	for _, delivery := range r.Deliveries() {
		require.Len(t, delivery.Events, 10)
		for _, e := range delivery.Events {
			switch delivery.Path {
			case "/occupied":
				require.Equal(t, webhook.TypeChannelOccupied, e.Name)
			case "/vacated":
				require.Equal(t, webhook.TypeChannelVacated, e.Name)
			case "/private":
				require.Equal(t, "private-room", e.Channel)
			}
		}
	}
}

func TestUnknownApp(t *testing.T) {
	d := newDispatcher(t, webhook.Config{})
	err := d.Emit("nobody", webhook.ChannelOccupied("room"))
	require.ErrorIs(t, err, webhook.ErrUnknownApp)
	require.EqualError(t, err, `webhook: unknown app "nobody"`)
	require.Equal(t, webhook.Stats{Rejected: 1}, d.Stats())
}

// Emitted counts calls, however many endpoints want the event, and whether it is held or not.
func TestEmittedCountsEachCallOnce(t *testing.T) {
	for name, webhooks := range map[string][]webhook.Webhook{
		"no webhook":   nil,
		"filtered":     {{URL: "http://localhost/1", EventTypes: every, Filter: webhook.Filter{ChannelNameStartsWith: "x"}}},
		"one endpoint": {{URL: "http://localhost/1", EventTypes: every}},
		"two endpoints, one of them wants it": {{URL: "http://localhost/1", EventTypes: every},
			{URL: "http://localhost/2", EventTypes: []webhook.EventType{webhook.TypeCacheMiss}}},
		"two endpoints": {{URL: "http://localhost/1", EventTypes: every}, {URL: "http://localhost/2", EventTypes: every}},
	} {
		cfg := webhook.Config{Sender: &recorder{}, Apps: []webhook.App{{ID: "app", Key: "key", Secret: "secret", Webhooks: webhooks}}}
		for timing, cfg := range map[string]webhook.Config{"": cfg, ", held": cfg.WithPusherTiming()} {
			t.Run(name+timing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDispatcher(t, cfg)
					for room := range 3 {
						emit(t, d, "app", webhook.ChannelVacated(strconv.Itoa(room)))
					}
					time.Sleep(time.Minute)
					require.EqualValues(t, 3, d.Stats().Emitted)
				})
			})
		}
	}
}

// A client's data may be anything, and with DataRaw not anything can be sent.
func TestInvalidClientDataIsRejected(t *testing.T) {
	sent := &recorder{}
	d := newDispatcher(t, webhook.Config{Apps: []webhook.App{testApp("app", "http://localhost/")}, ClientData: webhook.DataRaw, Sender: sent})
	for range 2 {
		require.ErrorIs(t, d.Emit("app", webhook.ClientEvent("private-room", "client-a", []byte(`{"a":`), "", "")), webhook.ErrInvalidEvent)
		emit(t, d, "app", webhook.ClientEvent("private-room", "client-a", []byte(`{"a":1}`), "", ""))
	}
	closeNow(t, d)
	require.EqualValues(t, 2, d.Stats().Rejected)
	one := `{"name":"client_event","channel":"private-room","event":"client-a","data":{"a":1}}`
	require.Contains(t, string(sent.deliveries()[0].Body), "["+one+","+one+"]")
}

func TestNothingOfTheCallersIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		data := json.RawMessage(`{"a":1}`)
		emit(t, d, "app", webhook.ClientEvent("private-room", "client-a", data, "1.1", ""))
		copy(data, `{"b":2}`)
		cfg.Apps[0].Webhooks[0].URL = "http://localhost/changed"
		closeNow(t, d)
		require.Equal(t, `"{\"a\":1}"`, string(parse(t, sent.deliveries()[0].Body).Events[0].Data))
	})
}

func TestSetAppReplacesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("before"))
		rotated := testApp("app", "http://localhost/", "http://localhost/new")
		rotated.Key, rotated.Secret = "new-key", "new-secret"
		require.NoError(t, d.SetApp(rotated))
		emit(t, d, "app", webhook.ChannelOccupied("after"))
		closeNow(t, d)
		require.Len(t, sent.deliveries(), 2)
		for _, delivery := range sent.deliveries() {
			require.NoError(t, webhook.Verify("new-key", "new-secret", delivery.Header, delivery.Body))
			want := []string{"after"}
			if delivery.URL == "http://localhost/" {
				want = []string{"before", "after"} // the same endpoint as before, with its batch
			}
			require.Equal(t, want, channels(t, delivery.Body))
		}
	})
}

func TestSetAppReportsFaultsAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		bad := testApp("app", "nowhere")
		bad.Secret = ""
		require.EqualError(t, d.SetApp(bad), "webhook: invalid config:\n"+
			`app "app": secret: must not be empty`+"\n"+
			`app "app": webhooks[0].url: must be an absolute http or https URL, got "nowhere"`)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		closeNow(t, d)
		require.Len(t, sent.deliveries(), 1)
	})
}

func TestRemovedAppsQueueIsStillDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"))
		d.RemoveApp("app")
		d.RemoveApp("app")
		require.ErrorIs(t, d.Emit("app", webhook.ChannelOccupied("b")), webhook.ErrUnknownApp)
		require.False(t, d.Wants("app", webhook.TypeChannelOccupied, "b"))
		require.NoError(t, d.SetApp(cfg.Apps[0]))
		emit(t, d, "app", webhook.ChannelOccupied("c"))
		atTime(window)
		require.Equal(t, [][]string{{"a", "c"}}, sent.batches(t), "and the app's return finds its queue as it was")
	})
}

// Apps that change all the time while their events flow: nothing is lost, and each channel stays in order.
func TestReconfigurationUnderLoad(t *testing.T) {
	cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 5, MaxInFlight: 2}, nil)
	d := newDispatcher(t, cfg)
	stop := make(chan struct{})
	var churn, emitters sync.WaitGroup
	churn.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if i%2 == 0 {
				d.RemoveApp("app")
			}
			if err := d.SetApp(cfg.Apps[0]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	const channelCount, each = 4, 5000
	for c := range channelCount {
		emitters.Go(func() {
			for i := range each {
				e := webhook.SubscriptionCount(strconv.Itoa(c), i)
				for errors.Is(d.Emit("app", e), webhook.ErrUnknownApp) {
					runtime.Gosched() // removed just now, and back in a moment
				}
			}
		})
	}
	emitters.Wait()
	close(stop)
	churn.Wait()
	closeNow(t, d)
	next := map[string]int{}
	for _, delivery := range sent.deliveries() {
		for _, e := range parse(t, delivery.Body).Events {
			require.Equal(t, next[e.Channel], e.SubscriptionCount)
			next[e.Channel]++
		}
	}
	require.Equal(t, map[string]int{"0": each, "1": each, "2": each, "3": each}, next)
}

func TestPanicsCostOnlyTheirOwnBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var undelivered []string
		cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1}, func(_ context.Context, d *webhook.Delivery) error {
			if strings.Contains(string(d.Body), "bad") {
				panic("sender trouble")
			}
			return nil
		})
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		cfg.Hooks = webhook.Hooks{
			Delivered: func(*webhook.Delivery, time.Duration) { panic("hook trouble") },
			Undelivered: func(_ *webhook.Delivery, err error) {
				undelivered = append(undelivered, err.Error())
				panic("more trouble")
			},
			Rejected: func(string, webhook.Event, error) { panic("reject trouble") },
		}
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("a"), webhook.ChannelOccupied("bad"), webhook.ChannelOccupied("c"))
		require.ErrorIs(t, d.Emit("app", webhook.ChannelOccupied("")), webhook.ErrInvalidEvent)
		require.NoError(t, d.Flush(t.Context()))
		require.Len(t, sent.deliveries(), 3+3, "the bad one is tried again after 1, 2 and 4 seconds")
		require.Equal(t, []string{"webhook: panic in Sender: sender trouble"}, undelivered)
		require.EqualValues(t, 2, d.Stats().Delivered)
		require.EqualValues(t, 1, d.Stats().Undelivered)
		for _, want := range []string{"sender trouble", "hook trouble", "more trouble", "reject trouble", "webhook_test.go"} {
			require.Contains(t, log.String(), want)
		}
	})
}

// A secret that is rotated in the same SetApp that drops the webhook signs what is queued for that webhook.
func TestDroppedWebhooksQueueIsSignedWithTheNewSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := oneEndpoint(webhook.Config{}, nil)
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		require.NoError(t, d.SetApp(webhook.App{ID: "app", Key: "new-key", Secret: "new-secret"}))
		closeNow(t, d)
		require.Len(t, sent.deliveries(), 1)
		require.NoError(t, webhook.Verify("new-key", "new-secret", sent.deliveries()[0].Header, sent.deliveries()[0].Body))
	})
}

func TestWebhooksOfAnAppAreBounded(t *testing.T) {
	app := testApp("app")
	app.Webhooks = make([]webhook.Webhook, 1001)
	_, err := webhook.New(webhook.Config{Apps: []webhook.App{app}})
	require.EqualError(t, err, "webhook: invalid config:\n"+`apps[0] "app": webhooks: are 1001, MaxWebhooks is 1000`)
	d := newDispatcher(t, webhook.Config{MaxWebhooks: 2})
	require.NoError(t, d.SetApp(testApp("app", "http://a/", "http://b/")))
	require.ErrorContains(t, d.SetApp(testApp("app", "http://a/", "http://b/", "http://c/")), `app "app": webhooks: are 3, MaxWebhooks is 2`)
}

// SetApp holds a lock that others wait for: one with 80 000 webhooks takes about as long as 200 with 400, whether they
// are many endpoints or one. A machine that is busy with something else gets another chance.
func TestSetAppIsLinearInItsWebhooks(t *testing.T) {
	for name, url := range map[string]func(int) string{
		"many endpoints": func(n int) string { return fmt.Sprint("http://host/", n) },
		"one endpoint":   func(int) string { return "http://host/" },
	} {
		t.Run(name, func(t *testing.T) {
			few, many := time.Duration(0), time.Hour
			for tries := 0; tries < 4 && many >= 8*few; tries++ {
				few, many = replaceWebhooks(t, 200, 400, url), replaceWebhooks(t, 1, 80_000, url)
			}
			require.Less(t, many, 8*few)
		})
	}
}

// When an app is gone and nothing is pending for it, nothing of it is left.
func TestNothingIsLeftOfAnApp(t *testing.T) {
	for name, test := range map[string]struct {
		most int64 // queued bytes
		come func(d *webhook.Dispatcher) error
	}{
		"set": {0, func(d *webhook.Dispatcher) error {
			err := d.SetApp(testApp("app", "http://localhost/"))
			d.RemoveApp("app")
			return err
		}},
		"pending": {0, func(d *webhook.Dispatcher) error {
			err := errors.Join(d.SetApp(testApp("app", "http://localhost/")), d.Emit("app", webhook.ChannelOccupied("room")))
			d.RemoveApp("app")
			return err
		}},
		"purged": {0, func(d *webhook.Dispatcher) error {
			err := errors.Join(d.SetApp(testApp("app", "http://localhost/")), d.Emit("app", webhook.ChannelOccupied("room")))
			d.RemoveApp("app")
			d.Purge("app")
			return err
		}},
		"redelivered to, and never set": {0, func(d *webhook.Dispatcher) error { return d.Redeliver(delivery("http://localhost/")) }},
		"redelivered to, and no room": {1000, func(d *webhook.Dispatcher) error {
			if d.Redeliver(delivery("http://localhost/")) == nil {
				return errors.New("there is room")
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDispatcher(t, webhook.Config{MaxQueuedBytes: test.most, Sender: &recorder{}})
				require.NoError(t, test.come(d))
				atTime(time.Second)
				require.False(t, d.HasAccount("app"))
				require.Empty(t, d.Endpoints("app"))
			})
		})
	}
}

// Apps whose ids begin or end alike are found as fast as others.
func TestAccountsOfSimilarIDsAreSpread(t *testing.T) {
	const apps = 20_000
	for name, format := range map[string]string{"end": "%08x-0000-0000-0000-000000000000", "begin": "00000000-0000-0000-0000-%012x"} {
		d := newDispatcher(t, webhook.Config{Sender: &recorder{}})
		for i := range apps {
			require.NoError(t, d.SetApp(testApp(fmt.Sprintf(format, i))))
		}
		require.Less(t, d.LongestAccountList(), 4*apps/4096, "ids that %s alike", name)
		for i := range apps {
			d.RemoveApp(fmt.Sprintf(format, i))
		}
		require.Zero(t, d.LongestAccountList())
	}
}

// replaceWebhooks returns how long it takes to give an app other webhooks, and others again.
func replaceWebhooks(t *testing.T, rounds, webhooks int, url func(int) string) time.Duration {
	apps := [2]webhook.App{testApp("app"), testApp("app")}
	for n := range webhooks {
		for i := range apps {
			apps[i].Webhooks = append(apps[i].Webhooks, webhook.Webhook{URL: url(2*n + i), EventTypes: every})
		}
	}
	d := newDispatcher(t, webhook.Config{MaxWebhooks: webhooks, Apps: apps[1:]})
	start := time.Now()
	for round := range rounds {
		require.NoError(t, d.SetApp(apps[round%2]))
	}
	return time.Since(start)
}
