package webhooktest_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/webhooktest"
)

var app = webhook.App{ID: "app", Key: "app-key", Secret: "app-secret"}

const body = `{"time_ms":1327078148132,"events":[{"name":"member_added","channel":"presence-room","user_id":"7"}]}`

func newReceiver(t *testing.T) *webhooktest.Receiver {
	r := webhooktest.NewReceiver(app)
	t.Cleanup(r.Close)
	return r
}

// post sends body signed with secret and returns the status, 0 if there was no answer.
func post(ctx context.Context, t *testing.T, r *webhooktest.Receiver, secret webhook.Secret, id string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL+"/path?query", bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	req.Header.Set("X-Pusher-Key", app.Key)
	req.Header.Set("X-Pusher-Signature", webhook.Sign(secret, []byte(body)))
	req.Header.Set("Webhook-Id", id)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer func() { require.NoError(t, resp.Body.Close()) }()
	return resp.StatusCode
}

func TestReceiverRecordsWhatArrives(t *testing.T) {
	r := newReceiver(t)
	require.Equal(t, 200, post(t.Context(), t, r, app.Secret, "1"))
	require.Equal(t, 200, post(t.Context(), t, r, app.Secret, "1"))
	events, err := r.Wait(1, time.Second)
	require.NoError(t, err)
	want := []webhooktest.Event{{Name: webhook.TypeMemberAdded, Channel: "presence-room", UserID: "7"}}
	require.Equal(t, want, events)
	require.Equal(t, want, r.Events(), "a repeated delivery counts once")
	require.Len(t, r.Requests(), 2)
	require.Len(t, r.Deliveries(), 1)
	got := r.Deliveries()[0]
	require.Equal(t, "1", got.ID)
	require.Equal(t, "app-key", got.Key)
	require.Equal(t, "/path?query", got.Path)
	require.Equal(t, 200, got.Status)
	require.Equal(t, body, string(got.Body))
	require.Equal(t, int64(1327078148132), got.Time.UnixMilli())
}

func TestReceiverRefusesWhatIsNotSigned(t *testing.T) {
	r := newReceiver(t)
	require.Equal(t, 401, post(t.Context(), t, r, "forged", "1"))
	require.Error(t, r.Requests()[0].Err)
	require.Empty(t, r.Deliveries())
	_, err := r.Wait(1, time.Millisecond)
	require.ErrorContains(t, err, "0 of 1 events within 1ms; a request was refused: webhook: X-Pusher-Signature does not match")

	rotated := app
	rotated.Secret = "forged"
	r.Accept(rotated)
	require.Equal(t, 200, post(t.Context(), t, r, "forged", "1"))
}

func TestReceiverMisbehavesWhenTold(t *testing.T) {
	r := newReceiver(t)
	r.Fail(2, 503)
	r.Fail(1, 429)
	r.Answer(204)
	for _, want := range []int{503, 503, 429, 204, 204} {
		require.Equal(t, want, post(t.Context(), t, r, app.Secret, "1"))
	}

	r.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.Zero(t, post(ctx, t, r, app.Secret, "2"), "no answer")
	answered := make(chan int)
	go func() { answered <- post(context.Background(), t, r, app.Secret, "3") }()
	for len(r.Requests()) < 7 {
		_, _ = r.Wait(10, time.Millisecond)
	}
	r.Release()
	require.Equal(t, 204, <-answered)
	require.Len(t, r.Deliveries(), 2)
}
