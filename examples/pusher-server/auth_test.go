package main

import (
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// The example of Pusher's documentation of its HTTP API.
func TestVerifyRequest(t *testing.T) {
	a := app{App: webhook.App{ID: "3", Key: "278d425bdf160c739803", Secret: "7ad3773142a6692b25b8"}}
	body := `{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`
	now := time.Unix(1353088179, 0)
	genuine := url.Values{
		"auth_key": {"278d425bdf160c739803"}, "auth_timestamp": {"1353088179"}, "auth_version": {"1.0"},
		"body_md5":       {"ec365a775a4cd0599faeb73354201b6f"},
		"auth_signature": {"da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"},
	}
	verify := func(method, path, body string, now time.Time, change ...string) error {
		query := url.Values{}
		for name := range genuine {
			query.Set(name, genuine.Get(name))
		}
		for i := 0; i < len(change); i += 2 {
			query.Set(change[i], change[i+1])
		}
		r := httptest.NewRequest(method, path+"?"+query.Encode(), nil)
		if err := a.verifyRequest(r, now); err != nil {
			return err
		}
		return verifyBody(r, []byte(body))
	}
	require.NoError(t, verify("POST", "/apps/3/events", body, now))
	require.NoError(t, verify("POST", "/apps/3/events", body, now.Add(maxClockSkew)))

	require.ErrorContains(t, verify("POST", "/apps/3/events", body, now.Add(maxClockSkew+time.Second)), "auth_timestamp")
	require.ErrorContains(t, verify("POST", "/apps/3/events", body, now.Add(-maxClockSkew-time.Second)), "auth_timestamp")
	require.ErrorContains(t, verify("POST", "/apps/3/events", body+" ", now), "body_md5")
	require.ErrorContains(t, verify("POST", "/apps/3/events", "", now), "body_md5")
	require.ErrorContains(t, verify("GET", "/apps/3/events", body, now), "auth_signature")
	require.ErrorContains(t, verify("POST", "/apps/4/events", body, now), "auth_signature")
	require.ErrorContains(t, verify("POST", "/apps/3/events", body, now, "info", "more"), "auth_signature")
	require.ErrorContains(t, verify("POST", "/apps/3/events", body, now, "auth_key", "other"), "auth_key")
	require.ErrorContains(t, verify("POST", "/apps/3/events", body, now, "auth_version", "2.0"), "auth_version")
	require.ErrorContains(t, verify("POST", "/apps/3/events", body, now, "auth_signature", ""), "auth_signature")
}

// The examples of Pusher's documentation of private and presence channels.
func TestChannelAuth(t *testing.T) {
	a := app{App: webhook.App{Key: "278d425bdf160c739803", Secret: "7ad3773142a6692b25b8"}}
	require.Equal(t, "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
		a.channelAuth("1234.1234", "private-foobar", ""))
	require.Equal(t, "278d425bdf160c739803:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
		a.channelAuth("1234.1234", "presence-foobar", `{"user_id":10,"user_info":{"name":"Mr. Channels"}}`))
}
