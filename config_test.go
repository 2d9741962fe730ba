package webhook_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

func TestConfigFaultsAreReportedAllAtOnceByPath(t *testing.T) {
	good := testApp("good", "https://example.com/hook")
	_, err := webhook.New(webhook.Config{
		BatchWindow:    -1,
		MaxBatchEvents: -5,
		ClientData:     7,
		Apps: []webhook.App{
			good,
			{},
			{ID: "shop", Key: "k\n", Secret: "[redacted]", Webhooks: []webhook.Webhook{
				{URL: "/hook?token=CANARY", EventTypes: every},
				{URL: "ftp://user:CANARY@example.com/", EventTypes: []webhook.EventType{"channel_created"}},
				{URL: "https://user:CANARY%zz@example.com/", EventTypes: every},
				{URL: "https://user:CANARY/x@example.com/", EventTypes: every},
				{URL: "mailto:someone@example.com"},
				{URL: "https://:443/", EventTypes: every, Headers: map[string]string{
					"X-Bad\n": "v", "": "v", "Host": "v", "Expect": "100-continue", "content-length": "1", "Transfer-Encoding": "chunked",
					"X-Value": "CANARY\r\nX-Injected: 1", "X-Nul": "CANARY\x00", "x-twice": "1", "X-Twice": "2", "Authorization": "fine",
				}},
				{URL: "https://example.com/", EventTypes: every, Headers: map[string]string{"X-Long": strings.Repeat("x", 8200)}},
			}},
			{ID: "good", Key: "k", Secret: "s"},
		},
	})
	require.Error(t, err)
	require.Equal(t, strings.Split(`webhook: invalid config:
BatchWindow: must be positive, or 0 for the default
MaxBatchEvents: must be positive, or 0 for the default
ClientData: must be DataString or DataRaw, got 7
apps[1] "": id: must not be empty
apps[1] "": key: must not be empty
apps[1] "": secret: must not be empty
apps[2] "shop": key: has a character that an HTTP header cannot carry
apps[2] "shop": secret: is the placeholder of an App that was marshalled, not the secret itself
apps[2] "shop": webhooks[0].url: must be an absolute http or https URL, got "/hook"
apps[2] "shop": webhooks[1].url: must be an absolute http or https URL, got "ftp://example.com/"
apps[2] "shop": webhooks[1].event_types[0]: unknown "channel_created", known are `+types+`
apps[2] "shop": webhooks[2].url: is not a valid URL
apps[2] "shop": webhooks[3].url: is not a valid URL
apps[2] "shop": webhooks[4].url: must be an absolute http or https URL, got "mailto:someone@example.com"
apps[2] "shop": webhooks[4].event_types: must name at least one of `+types+`
apps[2] "shop": webhooks[5].url: must be an absolute http or https URL, got "https://:443/"
apps[2] "shop": webhooks[5].headers[""]: is not a valid header name (RFC 9110, section 5.1)
apps[2] "shop": webhooks[5].headers["Expect"]: belongs to the connection and cannot be set
apps[2] "shop": webhooks[5].headers["Host"]: belongs to the connection and cannot be set
apps[2] "shop": webhooks[5].headers["Transfer-Encoding"]: belongs to the connection and cannot be set
apps[2] "shop": webhooks[5].headers["X-Bad\n"]: is not a valid header name (RFC 9110, section 5.1)
apps[2] "shop": webhooks[5].headers["X-Nul"]: its value has a character that an HTTP header cannot carry (RFC 9110, section 5.5)
apps[2] "shop": webhooks[5].headers["X-Value"]: its value has a character that an HTTP header cannot carry (RFC 9110, section 5.5)
apps[2] "shop": webhooks[5].headers["content-length"]: belongs to the connection and cannot be set
apps[2] "shop": webhooks[5].headers["x-twice"]: is the same header as "X-Twice"
apps[2] "shop": webhooks[6].headers: have 8206 bytes, at most 8192 are sent
apps[3] "good": id: is taken by apps[0]`, "\n"), strings.Split(err.Error(), "\n"))
}

const types = "client_event, channel_occupied, channel_vacated, member_added, member_removed, cache_miss, subscription_count"

func TestLimitsMustFitIntoEachOther(t *testing.T) {
	for want, cfg := range map[string]webhook.Config{
		"MaxBatchBytes: 1000 is too small for an event":        {MaxBatchBytes: 1000, MaxEventBytes: 1000},
		"MaxEndpointQueuedBytes: 1000 is too small":            {MaxBatchBytes: 1000, MaxEndpointQueuedBytes: 1000},
		"MaxEndpointQueuedBytes: 2000 is more than":            {MaxEndpointQueuedBytes: 2000, MaxQueuedBytes: 1000},
		"MaxQueuedBytes: must be positive, or 0":               {MaxQueuedBytes: -1},
		"MaxEventBytes: must be positive, or 0 for":            {MaxEventBytes: -1},
		"MaxInFlight: must be positive, or 0 for the default":  {MaxInFlight: -1},
		"MaxEndpointQueuedBytes: must be positive, or 0 for t": {MaxEndpointQueuedBytes: -1},
	} {
		_, err := webhook.New(cfg)
		require.ErrorContains(t, err, want)
	}
	for _, cfg := range []webhook.Config{ // a default makes room for what is set
		{}, {MaxEventBytes: 64 << 20}, {MaxBatchBytes: 1 << 30}, {MaxBatchBytes: 200}, {MaxQueuedBytes: 1000},
		{MaxEndpointQueuedBytes: 1000}, {MaxEndpointQueuedBytes: 1 << 30}, {MaxEventBytes: 100, MaxQueuedBytes: 1000},
	} {
		_, err := webhook.New(cfg)
		require.NoError(t, err, "%+v", cfg)
	}
}

// soketi's own example of an app, with all that its apps may hold.
const soketiApp = `{
	"id": "shop", "key": "shop-key", "secret": "shop-secret", "maxConnections": 200, "enableClientMessages": true,
	"webhooks": [
		{"url": "https://example.com/a", "event_types": ["channel_occupied"], "filter": {"channel_name_starts_with": "private-", "channel_name_ends_with": "-eu"},
		 "headers": {"X-Custom": "1"}},
		{"url": "https://example.com/b", "event_types": ["member_added"], "filter": null, "headers": null, "lambda": {"async": true}}
	]}`

func TestSoketiConfigUnmarshalsAsItIs(t *testing.T) {
	var app webhook.App
	require.NoError(t, json.Unmarshal([]byte(soketiApp), &app))
	require.Equal(t, webhook.App{ID: "shop", Key: "shop-key", Secret: "shop-secret", Webhooks: []webhook.Webhook{
		{URL: "https://example.com/a", EventTypes: []webhook.EventType{webhook.TypeChannelOccupied},
			Filter:  webhook.Filter{ChannelNameStartsWith: "private-", ChannelNameEndsWith: "-eu"},
			Headers: map[string]string{"X-Custom": "1"}},
		{URL: "https://example.com/b", EventTypes: []webhook.EventType{webhook.TypeMemberAdded}},
	}}, app)
	_, err := webhook.New(webhook.Config{Apps: []webhook.App{app}})
	require.NoError(t, err)
}

func TestLambdaIsRefused(t *testing.T) {
	var hooks []webhook.Webhook
	err := json.Unmarshal([]byte(`[{"lambda_function": "my-function", "event_types": ["channel_occupied"]}]`), &hooks)
	require.ErrorContains(t, err, "lambda_function: not supported yet")
	require.NoError(t, json.Unmarshal([]byte(`[{"url": "https://example.com", "lambda_function": null}]`), &hooks))
}

// What the parser accepts is either refused with an error or serves.
func FuzzConfigJSON(f *testing.F) {
	f.Add([]byte(soketiApp))
	f.Add([]byte(`{"id":"a","key":"k","secret":"s","webhooks":[{"url":"http://[::1]:80/","event_types":["cache_miss"],"headers":{"A":"b"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var app webhook.App
		if json.Unmarshal(data, &app) != nil {
			return
		}
		d, err := webhook.New(webhook.Config{Apps: []webhook.App{app}, Sender: &recorder{}})
		if err != nil {
			return
		}
		defer closeNow(t, d)
		for _, kind := range every {
			d.Wants(app.ID, kind, "room")
		}
		require.NoError(t, d.Emit(app.ID, webhook.ChannelOccupied("room")))
	})
}

func TestAppsPrintWithoutWhatIsSecret(t *testing.T) {
	app := testApp("shop", "https://user:CANARY@example.com/hook?token=CANARY#CANARY")
	app.Secret = "CANARY"
	app.Webhooks[0].Headers = map[string]string{"Authorization": "Bearer CANARY"}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "app", app, "pointer", &app, "webhook", app.Webhooks[0])
	slog.New(slog.NewJSONHandler(&out, nil)).Info("", "app", app, "pointer", &app, "webhook", app.Webhooks[0])
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, app, &app, app.Webhooks[0])
	}
	asJSON, err := json.Marshal(app)
	require.NoError(t, err)
	require.NotContains(t, out.String()+string(asJSON), "CANARY")
	require.NotContains(t, out.String(), fmt.Sprintf("%x", "CANARY"))
	require.JSONEq(t, `{"id":"shop","key":"shop-key","secret":"[redacted]","webhooks":[{"url":"https://example.com/hook?[redacted]",
		"event_types":["client_event","channel_occupied","channel_vacated","member_added","member_removed","cache_miss","subscription_count"],
		"filter":{"channel_name_starts_with":"","channel_name_ends_with":""},"headers":{"Authorization":"[redacted]"}}]}`, string(asJSON))
	require.Equal(t, "Bearer CANARY", app.Webhooks[0].Headers["Authorization"], "only the printed form is changed")
}

func TestConfigFromEnv(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want webhook.Config
	}{
		"nothing set":        {nil, webhook.Config{MaxBatchEvents: 1}},
		"off":                {map[string]string{"WEBHOOKS_BATCHING": "false"}, webhook.Config{MaxBatchEvents: 1}},
		"on":                 {map[string]string{"WEBHOOKS_BATCHING": "true"}, webhook.Config{}},
		"duration":           {map[string]string{"WEBHOOKS_BATCHING": "1", "WEBHOOKS_BATCHING_DURATION": "500"}, webhook.Config{BatchWindow: 500 * time.Millisecond}},
		"no duration":        {map[string]string{"WEBHOOKS_BATCHING": "true", "WEBHOOKS_BATCHING_DURATION": "0"}, webhook.Config{BatchWindow: time.Millisecond}},
		"soketi 1.x":         {map[string]string{"SOKETI_WEBHOOKS_BATCHING": "true", "SOKETI_WEBHOOKS_BATCHING_DURATION": "20"}, webhook.Config{BatchWindow: 20 * time.Millisecond}},
		"1.x names go first": {map[string]string{"SOKETI_WEBHOOKS_BATCHING": "true", "WEBHOOKS_BATCHING": "false"}, webhook.Config{}},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnv(t, test.env)
			cfg, err := webhook.ConfigFromEnv()
			require.NoError(t, err)
			require.Equal(t, test.want, cfg)
			_, err = webhook.New(cfg)
			require.NoError(t, err)
		})
	}
}

func TestConfigFromEnvFaults(t *testing.T) {
	clearEnv(t, map[string]string{"WEBHOOKS_BATCHING": "maybe", "SOKETI_WEBHOOKS_BATCHING_DURATION": "-1"})
	_, err := webhook.ConfigFromEnv()
	require.ErrorContains(t, err, `WEBHOOKS_BATCHING: must be true or false, got "maybe"`)
	require.ErrorContains(t, err, `SOKETI_WEBHOOKS_BATCHING_DURATION: must be a number of milliseconds from 0 to 2147483647, got "-1"`)
	for _, wrong := range []string{"NaN", "Inf", "1e300", "50ms"} {
		clearEnv(t, map[string]string{"WEBHOOKS_BATCHING_DURATION": wrong})
		_, err := webhook.ConfigFromEnv()
		require.ErrorContains(t, err, "WEBHOOKS_BATCHING_DURATION", wrong)
	}
}

func clearEnv(t *testing.T, env map[string]string) {
	for _, name := range []string{"WEBHOOKS_BATCHING", "WEBHOOKS_BATCHING_DURATION"} {
		t.Setenv(name, env[name])
		t.Setenv("SOKETI_"+name, env["SOKETI_"+name])
	}
}

// A header that a configuration may hold reaches the endpoint as it is, and brings no other with it.
func FuzzHeaders(f *testing.F) {
	f.Add("X-Custom", "value")
	f.Add("x-custom", " a\tb ")
	f.Add("X-Bad", "a\r\nX-Injected: 1")
	f.Add("Authorization", "Bearer \xff\u2028")
	f.Fuzz(func(t *testing.T, name, value string) {
		app := testApp("app", "http://localhost/")
		app.Webhooks[0].Headers = map[string]string{name: value}
		sent := &recorder{}
		d, err := webhook.New(webhook.Config{Apps: []webhook.App{app}, Sender: sent, MaxBatchEvents: 1})
		if err != nil {
			return
		}
		emit(t, d, "app", webhook.ChannelOccupied("room"))
		closeNow(t, d)
		delivery := sent.deliveries()[0]
		require.NoError(t, webhook.Verify(app.Key, app.Secret, delivery.Header, delivery.Body))
		stored, err := json.Marshal(delivery)
		require.NoError(t, err)
		var restored webhook.Delivery
		require.NoError(t, json.Unmarshal(stored, &restored))
		require.Equal(t, delivery.Header, restored.Header)

		req, err := http.NewRequest(http.MethodPost, delivery.URL, bytes.NewReader(delivery.Body))
		require.NoError(t, err)
		req.Header = delivery.Header
		var wire bytes.Buffer
		require.NoError(t, req.Write(&wire))
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		require.NoError(t, err)
		got.Header.Del("Content-Length")
		if delivery.Header.Get("User-Agent") == "" {
			got.Header.Del("User-Agent")
			delivery.Header.Del("User-Agent")
		}
		require.Len(t, got.Header, len(delivery.Header))
		for header := range delivery.Header {
			require.Equal(t, strings.Trim(delivery.Header.Get(header), " \t"), got.Header.Get(header))
		}
	})
}

// No limit is so large that a sum of it overflows: what is larger is refused by name, what is allowed works, all of it
// together, also where an int has 32 bits.
func TestLargestLimits(t *testing.T) {
	const bytes, count, wait, batch = 1 << 50, 1 << 20, 100 * 365 * 24 * time.Hour, 1 << 30
	largest := webhook.Config{
		BatchWindow: wait, MaxBatchEvents: math.MaxInt32, MaxBatchBytes: batch, MaxEventBytes: batch - 100, MaxInFlight: count,
		MaxQueuedBytes: bytes, MaxEndpointQueuedBytes: bytes, MaxWebhooks: count, MaxConcurrent: count,
		SendTimeout: wait, RetryWaitMin: wait, RetryWaitMax: wait, RetryFor: wait,
		ReconnectGrace: wait, Lateness: wait, CountInterval: wait, CountThreshold: math.MaxInt, CacheMissWindow: wait,
	}
	limits := reflect.TypeFor[webhook.Config]()
	for i := range limits.NumField() {
		field := limits.Field(i)
		if !field.Type.ConvertibleTo(reflect.TypeFor[int64]()) || field.Name == "ClientData" || field.Name == "CountThreshold" {
			continue // no limits
		}
		cfg, most := webhook.Config{}, int64(math.MaxInt64)
		if field.Type.Kind() == reflect.Int {
			most = math.MaxInt
		}
		require.NotZero(t, reflect.ValueOf(largest).Field(i).Int(), field.Name)
		if most == reflect.ValueOf(largest).Field(i).Int() {
			continue // on 32 bits
		}
		reflect.ValueOf(&cfg).Elem().Field(i).SetInt(most)
		_, err := webhook.New(cfg)
		require.ErrorContains(t, err, field.Name+": must be at most", "%s", field.Name)
	}
	synctest.Test(t, func(t *testing.T) {
		failed := false
		cfg, sent := oneEndpoint(largest, func(context.Context, *webhook.Delivery) error {
			if !failed {
				failed = true
				return asksLater(math.MaxInt64)
			}
			return nil
		})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ClientEvent("private-room", "client-a", nil, "", ""))
		time.Sleep(wait + time.Second)
		require.Len(t, sent.deliveries(), 1)
		time.Sleep(wait + time.Second)
		require.EqualValues(t, 1, d.Stats().Delivered)
	})
}

// A Delivery's JSON is for storage, and JSON is UTF-8: what it could not hold is refused when it is configured.
func TestWhatIsNoUTF8IsRefused(t *testing.T) {
	app := testApp("app\xff", "http://host/\xff", "http://host/")
	app.Key = "key\xff"
	app.Webhooks[1].Headers = map[string]string{"X-Latin-1": "caf\xe9", "X-UTF-8": "café"}
	_, err := webhook.New(webhook.Config{Apps: []webhook.App{app}})
	require.EqualError(t, err, `webhook: invalid config:
apps[0] "app\xff": id: must be UTF-8
apps[0] "app\xff": key: must be UTF-8
apps[0] "app\xff": webhooks[0].url: must be UTF-8
apps[0] "app\xff": webhooks[1].headers["X-Latin-1"]: its value must be UTF-8`)
}
