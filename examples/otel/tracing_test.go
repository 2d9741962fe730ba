package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

// A fixture is a dispatcher that traces, over HTTP to a receiver on loopback.
type fixture struct {
	receiver   *webhooktest.Receiver
	dispatcher *webhook.Dispatcher
	spans      *tracetest.SpanRecorder
}

// newFixture makes a fixture. It adds the Sender and its app, which leads to the receiver, to config.
func newFixture(t *testing.T, cfg webhook.HTTPConfig, config webhook.Config) *fixture {
	t.Helper()
	app := webhook.App{ID: "app", Key: "key", Secret: "secret"}
	f := &fixture{receiver: webhooktest.NewReceiver(app), spans: tracetest.NewSpanRecorder()}
	t.Cleanup(f.receiver.Close)
	app.Webhooks = []webhook.Webhook{{
		URL:        strings.Replace(f.receiver.URL, "http://", "http://user:password@", 1) + "/hooks?token=hidden",
		EventTypes: []webhook.EventType{webhook.TypeChannelOccupied},
	}}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(f.spans), sdktrace.WithIDGenerator(deliveryIDs{}))
	sender, closeIdle, err := newSender(cfg, provider)
	require.NoError(t, err)
	t.Cleanup(closeIdle)
	config.Apps, config.Sender = []webhook.App{app}, sender
	f.dispatcher, err = webhook.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.dispatcher.Close(t.Context()) }) // the tests that care call it themselves
	return f
}

// emit queues two events, one batch, and waits until it has ended.
func (f *fixture) emit(t *testing.T) {
	t.Helper()
	require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("a")))
	require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("b")))
	require.NoError(t, f.dispatcher.Flush(t.Context()))
}

// An attempt is its two spans.
type attempt struct{ own, client sdktrace.ReadOnlySpan }

// ended returns the spans of so many attempts, in order.
func (f *fixture) ended(t *testing.T, attempts int) (all []attempt) {
	t.Helper()
	spans := f.spans.Ended()
	require.Len(t, spans, 2*attempts)
	require.Len(t, f.spans.Started(), 2*attempts)
	for pair := range slices.Chunk(spans, 2) {
		a := attempt{client: pair[0], own: pair[1]}
		require.Equal(t, trace.SpanKindClient, a.client.SpanKind())
		require.Equal(t, a.own.SpanContext().SpanID(), a.client.Parent().SpanID())
		require.False(t, a.own.Parent().IsValid())
		require.Equal(t, a.own.SpanContext().TraceID(), a.client.SpanContext().TraceID())
		all = append(all, a)
	}
	return all
}

func requireAttribute(t *testing.T, span sdktrace.ReadOnlySpan, key attribute.Key, want string) {
	t.Helper()
	value, ok := find(span.Attributes(), key)
	require.True(t, ok, key)
	require.Equal(t, want, value.String())
}

func TestSpansOfAttempts(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{}, webhook.Config{RetryWaitMin: time.Millisecond})
	f.receiver.Fail(2, http.StatusServiceUnavailable)
	f.emit(t)

	require.Len(t, f.receiver.Deliveries(), 1) // so its signature was right
	require.Len(t, f.receiver.Events(), 2)
	requests := f.receiver.Requests()
	require.Len(t, requests, 3)
	attempts := f.ended(t, 3)
	for i, a := range attempts {
		request, status := requests[i], []int{503, 503, 200}[i]
		require.Equal(t, status, request.Status)
		require.NoError(t, request.Err)
		require.Equal(t, requests[0].Body, request.Body)
		require.Equal(t, requests[0].ID, request.ID)
		require.Equal(t, requests[0].Header["X-Pusher-Signature"], request.Header["X-Pusher-Signature"])

		requireAttribute(t, a.own, "webhook.id", request.ID)
		requireAttribute(t, a.own, "webhook.app_id", "app")
		requireAttribute(t, a.own, "webhook.events", "2")
		require.Equal(t, status != 200, a.own.Status().Code == codes.Error)
		requireAttribute(t, a.client, "http.response.status_code", fmt.Sprint(status))
		require.Equal(t, status != 200, a.client.Status().Code == codes.Error)
		id := a.client.SpanContext()
		require.Equal(t, attempts[0].client.SpanContext().TraceID(), id.TraceID(), "one trace for a delivery")
		require.Equal(t, fmt.Sprintf("00-%s-%s-01", id.TraceID(), id.SpanID()), request.Header.Get("Traceparent"))
	}
}

func TestTraceOfADelivery(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{}, webhook.Config{})
	f.emit(t)
	f.emit(t)
	attempts := f.ended(t, 2)
	require.NotEqual(t, attempts[0].own.SpanContext().TraceID(), attempts[1].own.SpanContext().TraceID())
	for i, request := range f.receiver.Requests() { // another process makes the same of a Webhook-Id
		id, _ := deliveryIDs{}.NewIDs(context.WithValue(t.Context(), deliveryKey{}, request.ID))
		require.Equal(t, id, attempts[i].own.SpanContext().TraceID())
	}
	one, _ := deliveryIDs{}.NewIDs(t.Context()) // the provider's other spans
	two, _ := deliveryIDs{}.NewIDs(t.Context())
	require.NotEqual(t, one, two)
}

func TestSpanWithoutAnswer(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{}, webhook.Config{RetryFor: -1})
	f.receiver.Close()
	f.emit(t)
	attempts := f.ended(t, 1)
	require.Equal(t, codes.Error, attempts[0].client.Status().Code)
	require.Equal(t, codes.Error, attempts[0].own.Status().Code)
}

// A guard keeps its effect below otelhttp: what it refuses is not tried again.
func TestRefusedAddressIsFinal(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{
		DialControl: func(string, string, syscall.RawConn) error { return errors.New("not this one") },
	}, webhook.Config{RetryWaitMin: time.Millisecond})
	f.emit(t)
	require.Empty(t, f.receiver.Requests())
	require.Contains(t, f.ended(t, 1)[0].own.Status().Description, "not this one")
	require.EqualValues(t, 2, f.dispatcher.Stats().Undelivered)
}

func TestSpanHasNoSecrets(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{}, webhook.Config{})
	f.emit(t)
	a := f.ended(t, 1)[0]
	requireAttribute(t, a.client, "url.full", f.receiver.URL+"/hooks")
	for _, span := range []sdktrace.ReadOnlySpan{a.own, a.client} {
		printed := fmt.Sprint(span.Attributes(), span.Events(), span.Status())
		require.NotContains(t, printed, "hidden")
		require.NotContains(t, printed, "password")
	}
	require.Equal(t, "/hooks?token=hidden", f.receiver.Requests()[0].Path)
	require.NotEmpty(t, f.receiver.Requests()[0].Header.Get("Authorization"))
}

// The Sender that is wrapped still hears through its context that Close's time is up.
func TestCloseReachesTheSender(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := newFixture(t, webhook.HTTPConfig{
		Timeout:     time.Hour,
		DialControl: func(string, string, syscall.RawConn) error { cancel(); return nil },
	}, webhook.Config{SendTimeout: time.Hour})
	f.receiver.Hang()
	require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("a")))
	var undelivered *webhook.UndeliveredError
	require.ErrorAs(t, f.dispatcher.Close(ctx), &undelivered)
	require.Len(t, undelivered.Deliveries, 1)
	a := f.ended(t, 1)[0]
	require.Equal(t, codes.Error, a.client.Status().Code)
	require.Contains(t, a.own.Status().Description, context.Canceled.Error())
}

// Close sends at once what waits for its next attempt.
func TestCloseEndsTheWait(t *testing.T) {
	failed := make(chan struct{}, 1)
	f := newFixture(t, webhook.HTTPConfig{}, webhook.Config{
		RetryWaitMin: time.Hour, RetryWaitMax: time.Hour, RetryFor: 2 * time.Hour,
		Hooks: webhook.Hooks{Attempt: func(_ *webhook.Delivery, a webhook.Attempt) {
			if a.Err != nil {
				failed <- struct{}{}
			}
		}},
	})
	f.receiver.Fail(1, http.StatusServiceUnavailable)
	require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("a")))
	<-failed
	require.NoError(t, f.dispatcher.Close(t.Context()))
	requireAttribute(t, f.ended(t, 2)[1].client, "http.response.status_code", "200")
}
