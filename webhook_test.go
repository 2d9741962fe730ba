package webhook_test

import (
	"testing"
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
