package main

import (
	"errors"
	"fmt"
	"net/http"
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

func newFixture(t *testing.T, cfg webhook.HTTPConfig) *fixture {
	t.Helper()
	app := webhook.App{ID: "app", Key: "key", Secret: "secret"}
	f := &fixture{receiver: webhooktest.NewReceiver(app), spans: tracetest.NewSpanRecorder()}
	t.Cleanup(f.receiver.Close)
	app.Webhooks = []webhook.Webhook{{
		URL:        strings.Replace(f.receiver.URL, "http://", "http://user:password@", 1) + "/hooks?token=hidden",
		EventTypes: []webhook.EventType{webhook.TypeChannelOccupied},
	}}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(f.spans))
	sender, closeIdle, err := newSender(cfg, provider)
	require.NoError(t, err)
	t.Cleanup(closeIdle)
	f.dispatcher, err = webhook.New(webhook.Config{Apps: []webhook.App{app}, Sender: sender})
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

// ended returns the spans of the attempts, in order, and the one of the delivery, which ends last.
func (f *fixture) ended(t *testing.T, attempts int) (clients []sdktrace.ReadOnlySpan, delivery sdktrace.ReadOnlySpan) {
	t.Helper()
	spans := f.spans.Ended()
	require.Len(t, spans, attempts+1)
	require.Len(t, f.spans.Started(), attempts+1)
	return spans[:attempts], spans[attempts]
}

func requireAttribute(t *testing.T, span sdktrace.ReadOnlySpan, key attribute.Key, want string) {
	t.Helper()
	value, ok := find(span.Attributes(), key)
	require.True(t, ok, key)
	require.Equal(t, want, value.String())
}

func TestSpanPerAttempt(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{RetryWaitMin: time.Millisecond})
	f.receiver.Fail(2, http.StatusServiceUnavailable)
	f.emit(t)

	require.Len(t, f.receiver.Deliveries(), 1) // so its signature was right
	require.Len(t, f.receiver.Events(), 2)
	requests := f.receiver.Requests()
	require.Len(t, requests, 3)
	attempts, delivery := f.ended(t, 3)
	requireAttribute(t, delivery, "webhook.id", requests[0].ID)
	requireAttribute(t, delivery, "webhook.app_id", "app")
	requireAttribute(t, delivery, "webhook.events", "2")
	require.Equal(t, codes.Unset, delivery.Status().Code)
	for i, span := range attempts {
		request, status := requests[i], []int{503, 503, 200}[i]
		require.Equal(t, status, request.Status)
		require.NoError(t, request.Err)
		require.Equal(t, requests[0].Body, request.Body)
		require.Equal(t, requests[0].ID, request.ID)
		require.Equal(t, requests[0].Header["X-Pusher-Signature"], request.Header["X-Pusher-Signature"])

		require.Equal(t, trace.SpanKindClient, span.SpanKind())
		requireAttribute(t, span, "http.response.status_code", fmt.Sprint(status))
		require.Equal(t, status != 200, span.Status().Code == codes.Error)
		require.Equal(t, delivery.SpanContext().SpanID(), span.Parent().SpanID())
		id := span.SpanContext()
		require.Equal(t, fmt.Sprintf("00-%s-%s-01", id.TraceID(), id.SpanID()), request.Header.Get("Traceparent"))
	}
}

func TestSpanWithoutAnswer(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{RetryFor: -1})
	f.receiver.Close()
	f.emit(t)
	attempts, delivery := f.ended(t, 1)
	require.Equal(t, codes.Error, attempts[0].Status().Code)
	require.Equal(t, codes.Error, delivery.Status().Code)
}

// A guard keeps its effect below otelhttp: what it refuses is not tried again.
func TestRefusedAddressIsFinal(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{
		RetryWaitMin: time.Millisecond,
		DialControl:  func(string, string, syscall.RawConn) error { return errors.New("not this one") },
	})
	f.emit(t)
	require.Empty(t, f.receiver.Requests())
	_, delivery := f.ended(t, 1)
	require.Contains(t, delivery.Status().Description, "not this one")
}

func TestSpanHasNoSecrets(t *testing.T) {
	f := newFixture(t, webhook.HTTPConfig{})
	f.emit(t)
	attempts, delivery := f.ended(t, 1)
	requireAttribute(t, attempts[0], "url.full", f.receiver.URL+"/hooks")
	for _, span := range append(attempts, delivery) {
		printed := fmt.Sprint(span.Attributes(), span.Events(), span.Status())
		require.NotContains(t, printed, "hidden")
		require.NotContains(t, printed, "password")
	}
	require.Equal(t, "/hooks?token=hidden", f.receiver.Requests()[0].Path)
	require.NotEmpty(t, f.receiver.Requests()[0].Header.Get("Authorization"))
}

// The Sender that is wrapped still hears of Close through its context, and does not wait for an hour.
func TestCloseReachesTheSender(t *testing.T) {
	failed := make(chan struct{}, 1)
	f := newFixture(t, webhook.HTTPConfig{
		RetryWaitMin: time.Hour, RetryWaitMax: time.Hour, RetryFor: 2 * time.Hour,
		OnAttempt: func(_ *webhook.Delivery, a webhook.Attempt) {
			if a.Err != nil {
				failed <- struct{}{}
			}
		},
	})
	f.receiver.Fail(1, http.StatusServiceUnavailable)
	require.NoError(t, f.dispatcher.Emit("app", webhook.ChannelOccupied("a")))
	<-failed
	require.NoError(t, f.dispatcher.Close(t.Context()))
	attempts, _ := f.ended(t, 2)
	requireAttribute(t, attempts[1], "http.response.status_code", "200")
}
