package main

import (
	"strings"
	"testing"

	"github.com/pusher/pusher-http-go/v5"
	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// What Pusher's own Go library is answered about channels.
func TestChannelsOfTheHTTPAPI(t *testing.T) {
	a := testApp(nil)
	a.App = webhook.App{ID: "3", Key: "key", Secret: "secret"} // the library wants a number
	s := startServer(t, a)
	ada, tab, bob := s.connect(t), s.connect(t), s.connect(t)
	ada.join(a, "presence-room", "ada")
	tab.join(a, "presence-room", "ada")
	bob.join(a, "presence-room", "bob")
	bob.join(a, "news", "")
	client := pusher.Client{AppID: a.ID, Key: a.Key, Secret: string(a.Secret), Host: strings.TrimPrefix(s.url, "http://")}

	all, err := client.Channels(pusher.ChannelsParams{})
	require.NoError(t, err)
	require.Equal(t, map[string]pusher.ChannelListItem{"presence-room": {}, "news": {}}, all.Channels)
	prefix, info := "presence-", "user_count"
	some, err := client.Channels(pusher.ChannelsParams{FilterByPrefix: &prefix, Info: &info})
	require.NoError(t, err)
	require.Equal(t, map[string]pusher.ChannelListItem{"presence-room": {UserCount: 2}}, some.Channels)
	_, err = client.Channels(pusher.ChannelsParams{Info: &info})
	require.ErrorContains(t, err, "user_count is an attribute of presence channels only")

	both := "user_count,subscription_count"
	room, err := client.Channel("presence-room", pusher.ChannelParams{Info: &both})
	require.NoError(t, err)
	require.Equal(t, &pusher.Channel{Name: "presence-room", Occupied: true, UserCount: 2, SubscriptionCount: 3}, room)
	count := "subscription_count"
	news, err := client.Channel("news", pusher.ChannelParams{Info: &count})
	require.NoError(t, err)
	require.Equal(t, &pusher.Channel{Name: "news", Occupied: true, SubscriptionCount: 1}, news)
	vacant, err := client.Channel("vacant", pusher.ChannelParams{})
	require.NoError(t, err)
	require.Equal(t, &pusher.Channel{Name: "vacant"}, vacant)
	_, err = client.Channel("news", pusher.ChannelParams{Info: &info})
	require.ErrorContains(t, err, "user_count is an attribute of presence channels only")
	more := "more"
	_, err = client.Channel("news", pusher.ChannelParams{Info: &more})
	require.ErrorContains(t, err, `unknown attribute "more"`)

	users, err := client.GetChannelUsers("presence-room")
	require.NoError(t, err)
	require.Equal(t, []pusher.User{{ID: "ada"}, {ID: "bob"}}, users.List)
	_, err = client.GetChannelUsers("news")
	require.ErrorContains(t, err, "Status Code: 400")
}
