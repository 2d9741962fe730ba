package webhookprom_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhookprom"
	"github.com/pusherhooks/webhook/webhooktest"
)

func testApp(id, url string) webhook.App {
	return webhook.App{ID: id, Key: id + "-key", Secret: webhook.Secret(id + "-secret"), Webhooks: []webhook.Webhook{
		{URL: url, EventTypes: []webhook.EventType{webhook.TypeChannelOccupied}},
	}}
}

// A fixture is a dispatcher with metrics, over HTTP to a receiver on loopback, and their registry.
type fixture struct {
	receiver   *webhooktest.Receiver
	metrics    *webhookprom.Metrics
	dispatcher *webhook.Dispatcher
	registry   *prometheus.Registry
}

// newFixture makes a fixture in which the apps lead to the receiver. Waits between attempts are short.
func newFixture(t *testing.T, cfg webhookprom.Config, apps ...string) *fixture {
	t.Helper()
	f := &fixture{receiver: webhooktest.NewReceiver(), metrics: webhookprom.New(cfg)}
	t.Cleanup(f.receiver.Close)
	config := webhook.Config{RetryWaitMin: time.Millisecond, RetryWaitMax: time.Millisecond, Hooks: f.metrics.Hooks()}
	for _, id := range apps {
		app := testApp(id, f.receiver.URL)
		f.receiver.Accept(app)
		config.Apps = append(config.Apps, app)
	}
	f.start(t, config)
	return f
}

// start makes the dispatcher and registers its metrics.
func (f *fixture) start(t *testing.T, config webhook.Config) {
	t.Helper()
	var err error
	f.dispatcher, err = webhook.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.dispatcher.Close(t.Context()) }) // the tests that care call it themselves
	f.registry = prometheus.NewPedanticRegistry()
	require.NoError(t, f.registry.Register(f.metrics.Collector(f.dispatcher)))
}

// emit queues n events, one batch, and waits until it has ended.
func (f *fixture) emit(t *testing.T, appID string, n int) {
	t.Helper()
	for i := range n {
		require.NoError(t, f.dispatcher.Emit(appID, webhook.ChannelOccupied(fmt.Sprint("channel-", i))))
	}
	require.NoError(t, f.dispatcher.Flush(t.Context()))
}

// requireText compares the named metrics with want, the text format without its comments.
func (f *fixture) requireText(t *testing.T, want string, names ...string) {
	t.Helper()
	text, err := testutil.GatherAndFormat(f.registry, expfmt.TypeTextPlain, names...)
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(want), withoutComments(text))
}

// withoutComments leaves the lines of values.
func withoutComments(text []byte) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(text)), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "#")
	})
	return strings.Join(lines, "\n")
}

// histogram returns the one histogram of that name which has no labels.
func (f *fixture) histogram(t *testing.T, name string) *dto.Histogram {
	t.Helper()
	families, err := f.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			require.Len(t, family.GetMetric(), 1)
			return family.GetMetric()[0].GetHistogram()
		}
	}
	require.Fail(t, "no such metric", name)
	return nil
}

func TestDeliveries(t *testing.T) {
	f := newFixture(t, webhookprom.Config{}, "app")
	f.receiver.Fail(2, http.StatusServiceUnavailable)
	f.emit(t, "app", 3) // two attempts fail
	f.receiver.Fail(1, http.StatusGone)
	f.emit(t, "app", 2) // given up at once
	f.receiver.Fail(4, http.StatusNotFound)
	f.emit(t, "app", 1) // refused, set aside, given up
	f.receiver.Fail(1, http.StatusFound)
	f.emit(t, "app", 1) // a redirect is a failure
	require.NoError(t, f.dispatcher.Close(t.Context()))
	f.requireText(t, `
webhook_active_endpoints 0
webhook_events_delivered_total 4
webhook_events_emitted_total 7
webhook_events_queued_total 7
webhook_events_undelivered_total 3
webhook_pending_bytes 0
webhook_pending_events 0
webhook_requests_total{status="2xx"} 2
webhook_requests_total{status="3xx"} 1
webhook_requests_total{status="4xx"} 5
webhook_requests_total{status="5xx"} 2
webhook_requests_total{status="error"} 0
`, "webhook_active_endpoints", "webhook_events_delivered_total", "webhook_events_emitted_total",
		"webhook_events_queued_total", "webhook_events_undelivered_total", "webhook_pending_bytes",
		"webhook_pending_events", "webhook_requests_total")
	require.EqualValues(t, 10, f.histogram(t, "webhook_request_duration_seconds").GetSampleCount())
	require.EqualValues(t, 2, f.histogram(t, "webhook_delivery_latency_seconds").GetSampleCount())
	batches := f.histogram(t, "webhook_batch_events")
	require.EqualValues(t, 2, batches.GetSampleCount())
	require.EqualValues(t, 4, batches.GetSampleSum())
}

func TestNoAnswer(t *testing.T) {
	f := &fixture{receiver: webhooktest.NewReceiver(), metrics: webhookprom.New(webhookprom.Config{})}
	f.receiver.Close()
	f.start(t, webhook.Config{
		Apps:     []webhook.App{testApp("app", f.receiver.URL)},
		RetryFor: -1,
		Hooks:    f.metrics.Hooks(),
	})
	f.emit(t, "app", 1)
	f.requireText(t, `
webhook_requests_total{status="2xx"} 0
webhook_requests_total{status="3xx"} 0
webhook_requests_total{status="4xx"} 0
webhook_requests_total{status="5xx"} 0
webhook_requests_total{status="error"} 1
`, "webhook_requests_total")
}

// A Sender may know no status, or tell one that does not exist.
func TestStatuses(t *testing.T) {
	f := newFixture(t, webhookprom.Config{})
	hook := f.metrics.Hooks().Attempt
	for _, a := range []webhook.Attempt{
		{Status: 204},
		{}, // accepted, not by HTTP
		{Err: errors.New("not by HTTP")},
		{Status: 999, Err: errors.New("odd")},
		{Status: 1000, Err: errors.New("no status")},
		{Status: -1, Err: errors.New("no status")},
		{Status: 99, Err: errors.New("no status")},
	} {
		hook(&webhook.Delivery{}, a)
	}
	f.requireText(t, `
webhook_requests_total{status="2xx"} 2
webhook_requests_total{status="3xx"} 0
webhook_requests_total{status="4xx"} 0
webhook_requests_total{status="5xx"} 0
webhook_requests_total{status="9xx"} 1
webhook_requests_total{status="error"} 4
`, "webhook_requests_total")
}

// A backend is down, recovers, refuses everything and recovers.
func TestEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{metrics: webhookprom.New(webhookprom.Config{})}
		var answer atomic.Pointer[error]
		send := func(context.Context, *webhook.Delivery) error { return *answer.Load() }
		f.start(t, webhook.Config{
			Apps:           []webhook.App{testApp("app", "http://127.0.0.1:1")}, // never called
			MaxBatchEvents: 1,
			Sender:         webhook.SenderFunc(send),
			Hooks:          f.metrics.Hooks(),
		})
		requireStates := func(err error, failing, refusing, toFailing, toOK, toRefusing int) {
			t.Helper()
			answer.Store(&err)
			for i := range 4 {
				require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied(fmt.Sprint("channel-", i))))
			}
			<-time.After(2 * time.Minute) // of the bubble
			f.requireText(t, fmt.Sprintf(`
webhook_endpoint_changes_total{state="failing"} %d
webhook_endpoint_changes_total{state="ok"} %d
webhook_endpoint_changes_total{state="refusing"} %d
webhook_endpoints{state="failing"} %d
webhook_endpoints{state="refusing"} %d
`, toFailing, toOK, toRefusing, failing, refusing), "webhook_endpoint_changes_total", "webhook_endpoints")
		}
		requireStates(nil, 0, 0, 0, 0, 0)
		requireStates(errors.New("down"), 1, 0, 1, 0, 0)
		requireStates(nil, 0, 0, 1, 1, 0)
		requireStates(webhook.ErrRefused, 0, 1, 1, 1, 1)
		requireStates(nil, 0, 0, 1, 2, 1)
	})
}

func TestPending(t *testing.T) {
	f := newFixture(t, webhookprom.Config{}, "app", "other")
	f.receiver.Hang()
	for _, app := range []string{"app", "app", "other"} {
		require.NoError(t, f.dispatcher.Emit(app, webhook.ChannelOccupied("channel")))
	}
	f.requireText(t, `
webhook_active_endpoints 2
webhook_events_queued_total 3
webhook_pending_events 3
`, "webhook_active_endpoints", "webhook_events_queued_total", "webhook_pending_events")
	text, err := testutil.GatherAndFormat(f.registry, expfmt.TypeTextPlain, "webhook_pending_bytes")
	require.NoError(t, err)
	require.Contains(t, string(text), fmt.Sprint("webhook_pending_bytes ", f.dispatcher.Stats().PendingBytes))
	f.receiver.Release()
	require.NoError(t, f.dispatcher.Close(t.Context()))
	f.requireText(t, `
webhook_active_endpoints 0
webhook_pending_bytes 0
webhook_pending_events 0
`, "webhook_active_endpoints", "webhook_pending_bytes", "webhook_pending_events")
}

// A timing rule holds an event and then leaves it out, or lets it go.
func TestTimingRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{metrics: webhookprom.New(webhookprom.Config{})}
		app := testApp("app", "http://127.0.0.1:1") // never called
		app.Webhooks[0].EventTypes = append(app.Webhooks[0].EventTypes, webhook.TypeChannelVacated)
		f.start(t, webhook.Config{
			Apps:   []webhook.App{app},
			Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error { return nil }),
			Hooks:  f.metrics.Hooks(),
		}.WithPusherTiming())
		requireCounts := func(emitted, suppressed, queued, held int) {
			t.Helper()
			f.requireText(t, fmt.Sprintf(`
webhook_events_emitted_total %d
webhook_events_queued_total %d
webhook_events_suppressed_total %d
webhook_held_events %d
`, emitted, queued, suppressed, held), "webhook_events_emitted_total", "webhook_events_queued_total",
				"webhook_events_suppressed_total", "webhook_held_events")
		}
		require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelVacated("returns")))
		require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelVacated("stays away")))
		requireCounts(2, 0, 0, 2)
		require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("returns")))
		requireCounts(3, 2, 0, 1)
		<-time.After(time.Minute) // of the bubble
		requireCounts(3, 2, 1, 0)
		f.requireText(t, "webhook_events_delivered_total 1", "webhook_events_delivered_total")
	})
}

func TestRejected(t *testing.T) {
	f := &fixture{metrics: webhookprom.New(webhookprom.Config{})}
	app := testApp("app", "http://127.0.0.1:1") // never called
	filled := make(chan struct{})
	f.start(t, webhook.Config{
		Apps:                   []webhook.App{app},
		MaxBatchBytes:          1024,
		MaxEventBytes:          256,
		MaxEndpointQueuedBytes: 2048,
		BatchWindow:            time.Hour,
		Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
			<-filled
			return nil
		}),
		Hooks: f.metrics.Hooks(),
	})
	var full error
	for full == nil && f.dispatcher.Stats().Emitted < 1000 {
		full = f.dispatcher.Emit("app", webhook.ChannelOccupied("channel"))
	}
	close(filled)
	require.ErrorIs(t, full, webhook.ErrQueueFull)
	require.ErrorIs(t, f.dispatcher.Emit("app", webhook.Event{}), webhook.ErrInvalidEvent)
	require.ErrorIs(t, f.dispatcher.Emit("nobody", webhook.ChannelOccupied("channel")), webhook.ErrUnknownApp)
	require.NoError(t, f.dispatcher.Close(t.Context()))
	require.ErrorIs(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("channel")), webhook.ErrClosed)
	f.metrics.Hooks().Rejected("app", webhook.Event{}, errors.New("of a later version"))
	f.requireText(t, `
webhook_events_rejected_total{reason="closed"} 1
webhook_events_rejected_total{reason="invalid_event"} 1
webhook_events_rejected_total{reason="other"} 1
webhook_events_rejected_total{reason="queue_full"} 1
webhook_events_rejected_total{reason="unknown_app"} 1
`, "webhook_events_rejected_total")
}

func TestPerApp(t *testing.T) {
	f := newFixture(t, webhookprom.Config{PerApp: true}, "a", "b")
	f.emit(t, "a", 2)
	f.receiver.Fail(1, http.StatusGone)
	f.emit(t, "b", 1)
	require.Error(t, f.dispatcher.Emit("b", webhook.Event{}))
	require.Error(t, f.dispatcher.Emit("made-up", webhook.ChannelOccupied("channel")))
	require.NoError(t, f.dispatcher.Close(t.Context())) // the change of b's state was told
	names := []string{"webhook_endpoint_changes_total", "webhook_events_delivered_total", "webhook_events_queued_total",
		"webhook_events_rejected_total", "webhook_events_undelivered_total", "webhook_requests_total"}
	f.requireText(t, `
webhook_endpoint_changes_total{app="b",state="failing"} 1
webhook_events_delivered_total{app="a"} 2
webhook_events_queued_total 3
webhook_events_rejected_total{app="",reason="unknown_app"} 1
webhook_events_rejected_total{app="b",reason="invalid_event"} 1
webhook_events_undelivered_total{app="b"} 1
webhook_requests_total{app="a",status="2xx"} 1
webhook_requests_total{app="b",status="4xx"} 1
`, names...)
	histograms := []string{"webhook_delivery_latency_seconds", "webhook_batch_events", "webhook_request_duration_seconds"}
	requireSeries(t, f.registry, 4, histograms...) // b was never accepted

	f.metrics.Forget("b")
	f.requireText(t, `
webhook_events_delivered_total{app="a"} 2
webhook_events_queued_total 3
webhook_events_rejected_total{app="",reason="unknown_app"} 1
webhook_requests_total{app="a",status="2xx"} 1
`, names...)
	requireSeries(t, f.registry, 3, histograms...)
}

func TestForgetWithoutLabel(t *testing.T) {
	f := newFixture(t, webhookprom.Config{}, "app")
	f.emit(t, "app", 1)
	f.metrics.Forget("app")
	f.requireText(t, "webhook_events_delivered_total 1", "webhook_events_delivered_total")
}

func requireSeries(t *testing.T, g prometheus.Gatherer, want int, names ...string) {
	t.Helper()
	got, err := testutil.GatherAndCount(g, names...)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestNames(t *testing.T) {
	for _, perApp := range []bool{false, true} {
		t.Run(fmt.Sprint("PerApp=", perApp), func(t *testing.T) {
			f := newFixture(t, webhookprom.Config{PerApp: perApp}, "app")
			f.emit(t, "app", 1)
			f.receiver.Fail(1, http.StatusGone)
			f.emit(t, "app", 1)
			require.Error(t, f.dispatcher.Emit("app", webhook.Event{}))
			require.NoError(t, f.dispatcher.Close(t.Context())) // the change of the endpoint's state was told
			problems, err := testutil.GatherAndLint(f.registry)
			require.NoError(t, err)
			require.Empty(t, problems)
			families, err := f.registry.Gather()
			require.NoError(t, err)
			want := map[bool]int{false: 16, true: 17}[perApp]
			require.Len(t, families, want, "doc.go lists every metric")
			status := f.dispatcher.Endpoints("")
			require.Len(t, status, 1)
			if perApp {
				require.NoError(t, testutil.GatherAndCompare(f.registry, strings.NewReader(fmt.Sprintf(`
# HELP webhook_endpoint_failures Failures in a row of an endpoint that does not accept what it gets, by the app and the endpoint's ID.
# TYPE webhook_endpoint_failures gauge
webhook_endpoint_failures{app="app",endpoint=%q} 1
`, status[0].ID)), "webhook_endpoint_failures"))
			}
		})
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{metrics: webhookprom.New(webhookprom.Config{LatencyBuckets: []float64{2, 3}})}
		f.start(t, webhook.Config{
			Apps:        []webhook.App{testApp("app", "http://127.0.0.1:1")}, // never called
			BatchWindow: 500 * time.Millisecond,
			Sender: webhook.SenderFunc(func(context.Context, *webhook.Delivery) error {
				<-time.After(2 * time.Second) // of the bubble
				return nil
			}),
			Hooks: f.metrics.Hooks(),
		})
		require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("channel")))
		<-time.After(time.Minute)
		f.requireText(t, `
webhook_delivery_latency_seconds_bucket{le="2"} 0
webhook_delivery_latency_seconds_bucket{le="3"} 1
webhook_delivery_latency_seconds_bucket{le="+Inf"} 1
webhook_delivery_latency_seconds_sum 2.5
webhook_delivery_latency_seconds_count 1
`, "webhook_delivery_latency_seconds")
	})
}

// A delivery that an earlier process stored may seem to come from the future.
func TestLatencyAfterClockStep(t *testing.T) {
	f := newFixture(t, webhookprom.Config{}, "app")
	f.metrics.Hooks().Delivered(&webhook.Delivery{Events: 1, CreatedAt: time.Now().Add(time.Hour)}, 0)
	require.Zero(t, f.histogram(t, "webhook_delivery_latency_seconds").GetSampleSum())
}

func TestBuckets(t *testing.T) {
	f := newFixture(t, webhookprom.Config{
		LatencyBuckets: []float64{1}, RequestBuckets: []float64{1, 2}, BatchBuckets: []float64{1, 2, 3},
	}, "app")
	f.emit(t, "app", 1)
	require.Len(t, f.histogram(t, "webhook_delivery_latency_seconds").GetBucket(), 1)
	require.Len(t, f.histogram(t, "webhook_request_duration_seconds").GetBucket(), 2)
	require.Len(t, f.histogram(t, "webhook_batch_events").GetBucket(), 3)
	require.Panics(t, func() { webhookprom.New(webhookprom.Config{BatchBuckets: []float64{2, 1}}) })
}

// Hooks run between two requests of an endpoint, and in Emit.
func TestHooksDoNotAllocate(t *testing.T) {
	d := &webhook.Delivery{AppID: "app", Events: 3, CreatedAt: time.Now()}
	attempt := webhook.Attempt{N: 1, Status: http.StatusOK, Took: time.Millisecond}
	full := fmt.Errorf("%w: quite", webhook.ErrQueueFull)
	for _, perApp := range []bool{false, true} {
		hooks := webhookprom.New(webhookprom.Config{PerApp: perApp}).Hooks(webhook.Hooks{})
		require.Zero(t, testing.AllocsPerRun(100, func() {
			hooks.Attempt(d, attempt)
			hooks.Delivered(d, time.Millisecond)
			hooks.Undelivered(d, full)
			hooks.Endpoint(webhook.EndpointStatus{AppID: "app", State: webhook.EndpointFailing})
			hooks.Rejected("app", webhook.Event{}, full)
			hooks.Rejected("made-up", webhook.Event{}, webhook.ErrUnknownApp)
		}))
	}
}

// An app's id is any string, a label's value is UTF-8.
func TestAppsWithOddIDs(t *testing.T) {
	f := newFixture(t, webhookprom.Config{PerApp: true})
	hook := f.metrics.Hooks().Undelivered
	for _, id := range []string{"a\xff", "a\xfe", ""} {
		hook(&webhook.Delivery{AppID: id, Events: 1}, nil)
	}
	f.requireText(t, "webhook_events_undelivered_total{app=\"\"} 1\nwebhook_events_undelivered_total{app=\"a\uFFFD\"} 2",
		"webhook_events_undelivered_total")
	f.metrics.Forget("a\xff")
	hook(&webhook.Delivery{AppID: "a\xfe", Events: 1}, nil)
	f.requireText(t, "webhook_events_undelivered_total{app=\"\"} 1\nwebhook_events_undelivered_total{app=\"a\uFFFD\"} 1",
		"webhook_events_undelivered_total")
}

// Whoever counts while an app is forgotten does not go on counting where nobody sees it.
func TestForgetWhileCounting(t *testing.T) {
	f := newFixture(t, webhookprom.Config{PerApp: true})
	hook := f.metrics.Hooks().Undelivered
	var counting sync.WaitGroup
	for range 4 {
		counting.Go(func() {
			for range 1000 {
				hook(&webhook.Delivery{AppID: "app", Events: 1}, nil)
			}
		})
	}
	for range 1000 {
		f.metrics.Forget("app")
	}
	counting.Wait()
	f.metrics.Forget("app")
	hook(&webhook.Delivery{AppID: "app", Events: 1}, nil)
	f.requireText(t, `webhook_events_undelivered_total{app="app"} 1`, "webhook_events_undelivered_total")
}

// Whoever sets GivenUp has to settle: with nobody's hook there is none, with several the last one settles.
func TestGivenUpIsSettledByAll(t *testing.T) {
	m := webhookprom.New(webhookprom.Config{PerApp: true})
	require.Nil(t, m.Hooks(webhook.Hooks{}).GivenUp)
	var settles []func()
	keep := webhook.Hooks{GivenUp: func(_ *webhook.Delivery, _ error, settle func()) { settles = append(settles, settle) }}
	settled := 0
	m.Hooks(keep, webhook.Hooks{}, keep).GivenUp(&webhook.Delivery{}, nil, func() { settled++ })
	require.Len(t, settles, 2)
	settles[0]()
	settles[0]()
	require.Zero(t, settled)
	settles[1]()
	require.Equal(t, 1, settled)
}

// Every hook of the library, those of later versions included, has to be passed on to the user's own.
func TestHooksAreChained(t *testing.T) {
	var called []string
	record := func(hook string) (own webhook.Hooks) {
		fields := reflect.ValueOf(&own).Elem()
		for i := range fields.NumField() {
			name := hook + "." + fields.Type().Field(i).Name
			fields.Field(i).Set(reflect.MakeFunc(fields.Field(i).Type(), func([]reflect.Value) []reflect.Value {
				called = append(called, name)
				return nil
			}))
		}
		return own
	}
	m := webhookprom.New(webhookprom.Config{PerApp: true})
	hooks := reflect.ValueOf(m.Hooks(record("first"), webhook.Hooks{}, record("second")))
	var want []string
	for i := range hooks.NumField() {
		hook := hooks.Field(i)
		require.False(t, hook.IsNil(), hooks.Type().Field(i).Name)
		var args []reflect.Value
		for in := range hook.Type().Ins() {
			if in.Kind() == reflect.Pointer {
				args = append(args, reflect.New(in.Elem()))
			} else {
				args = append(args, reflect.Zero(in))
			}
		}
		hook.Call(args)
		name := hooks.Type().Field(i).Name
		want = append(want, "first."+name, "second."+name)
	}
	require.Equal(t, want, called)
}

func TestConcurrency(t *testing.T) {
	const emitters, events = 4, 250
	f := newFixture(t, webhookprom.Config{}, "a", "b")
	var emitting sync.WaitGroup
	for i := range emitters {
		emitting.Go(func() {
			app := []string{"a", "b"}[i%2]
			for n := range events {
				_ = f.dispatcher.Emit(app, webhook.ChannelOccupied(fmt.Sprint(i, "-", n))) // counted below
				_ = f.dispatcher.Emit(app, webhook.Event{})
			}
		})
	}
	done := make(chan struct{})
	go func() { emitting.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		v := f.values(t)
		require.Equal(t, v["webhook_events_queued_total"], v["webhook_events_delivered_total"]+
			v["webhook_events_undelivered_total"]+v["webhook_pending_events"])
	}
	require.NoError(t, f.dispatcher.Close(t.Context()))
	v := f.values(t)
	require.EqualValues(t, emitters*events, v["webhook_events_emitted_total"])
	require.EqualValues(t, emitters*events, v["webhook_events_delivered_total"])
	require.EqualValues(t, emitters*events, v["webhook_events_rejected_total"])
	batches := f.histogram(t, "webhook_batch_events")
	require.Equal(t, f.dispatcher.Stats().Delivered, uint64(batches.GetSampleSum()))
	require.Equal(t, f.dispatcher.Stats().Requests, batches.GetSampleCount())
	require.EqualValues(t, batches.GetSampleCount(), v["webhook_requests_total"])
}

// values returns the value of each counter and gauge, the sum of all its series.
func (f *fixture) values(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := f.registry.Gather()
	require.NoError(t, err)
	values := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			values[family.GetName()] += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	return values
}
