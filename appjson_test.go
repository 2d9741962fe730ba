package webhook_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

func TestAppFromJSON(t *testing.T) {
	one := func(w webhook.Webhook) webhook.App {
		w.EventTypes = []webhook.EventType{webhook.TypeCacheMiss}
		return webhook.App{ID: "1", Key: "k", Secret: "s", Webhooks: []webhook.Webhook{w}}
	}
	for name, test := range map[string]struct {
		webhook string // one, without its event types
		want    webhook.Webhook
	}{
		"only a URL":                {`"url":"http://a/"`, webhook.Webhook{URL: "http://a/"}},
		"null":                      {`"url":"http://a/","filter":null,"headers":null`, webhook.Webhook{URL: "http://a/"}},
		"empty, as PHP writes it":   {`"url":"http://a/","filter":[],"headers":[ ]`, webhook.Webhook{URL: "http://a/"}},
		"empty objects":             {`"url":"http://a/","filter":{},"headers":{}`, webhook.Webhook{URL: "http://a/"}},
		"a number in a header":      {`"url":"http://a/","headers":{"X-N":1.50}`, webhook.Webhook{URL: "http://a/", Headers: map[string]string{"X-N": "1.50"}}},
		"a function beside the URL": {`"url":"http://a/","lambda_function":"f","lambda":{"async":true}`, webhook.Webhook{URL: "http://a/"}},
		"one condition": {`"url":"http://a/","filter":{"channel_name_ends_with":"x"}`,
			webhook.Webhook{URL: "http://a/", Filter: webhook.Filter{ChannelNameEndsWith: "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, id := range []string{`1`, `"1"`} {
				app := `{"id":` + id + `,"key":"k","secret":"s","maxConnections":2,"webhooks":[{"event_types":["cache_miss"],` + test.webhook + `}]}`
				apps, err := webhook.AppsFromJSON([]byte("[" + app + "]"))
				require.NoError(t, err)
				require.Equal(t, []webhook.App{one(test.want)}, apps)
			}
		})
	}
}

func TestAppFromJSONFaults(t *testing.T) {
	for given, want := range map[string]string{
		`{"id":"shop","webhooks":[{},{"url":1,"event_typs":[],"filter":{"channel_name_start_with":"CANARY"}}]}`: `webhook: apps[0] "shop": webhooks[1].url: must be a string, is number
webhook: apps[0] "shop": webhooks[1]: unknown key "event_typs", did you mean "event_types"?
webhook: apps[0] "shop": webhooks[1].filter: unknown key "channel_name_start_with", did you mean "channel_name_starts_with"?`,
		`{"id":"shop","webhooks":[{"filters":{}}]}`:                            `webhook: apps[0] "shop": webhooks[0]: unknown key "filters", did you mean "filter"?`,
		`{"id":"shop","webhooks":[{"filter":{"channel_pattern":"CANARY"}}]}`:   `webhook: apps[0] "shop": webhooks[0].filter: unknown key "channel_pattern", did you mean "channel_name_ends_with"?`,
		`{"id":"shop","webhooks":[{"filter":"CANARY"}]}`:                       `webhook: apps[0] "shop": webhooks[0].filter: must be an object`,
		`{"id":"shop","webhooks":[{"filter":{"channel_name_ends_with":[]}}]}`:  `webhook: apps[0] "shop": webhooks[0].filter.channel_name_ends_with: must be a string, is array`,
		`{"id":"shop","webhooks":[{"headers":{"A":true},"headers":["x"]}]}`:    "webhook: apps[0] \"shop\": webhooks[0].headers[\"A\"]: must be a string, is bool\nwebhook: apps[0] \"shop\": webhooks[0].headers: must be an object",
		`{"id":"shop","webhooks":[{"event_types":"cache_miss"}]}`:              `webhook: apps[0] "shop": webhooks[0].event_types: must be an array, is string`,
		`{"id":"shop","webhooks":[{"event_types":[7]}]}`:                       `webhook: apps[0] "shop": webhooks[0].event_types: must be a string, is number`,
		`{"id":"shop","webhooks":[7]}`:                                         `webhook: apps[0] "shop": webhooks[0]: must be an object`,
		`{"id":"shop","webhooks":{}}`:                                          `webhook: apps[0] "shop": webhooks: must be an array, is object`,
		`{"id":"shop","secret":["CANARY"]}`:                                    `webhook: apps[0] "shop": secret: must be a string, is array`,
		`{"id":true}`:                                                          `webhook: apps[0] "": id: must be a string, is bool`,
		`{"id":"shop","webhooks":[{"URL":"http://a/"}]}`:                       `webhook: apps[0] "shop": webhooks[0]: unknown key "URL", did you mean "url"?`,
		`{"id":"shop","webhooks":[{"lambda_function":"f"}]}`:                   `webhook: apps[0] "shop": webhooks[0].lambda_function: not supported yet, give the function a URL and set url instead`,
		`{"id":"shop","webhooks":[{"lambda_function":{}}]}`:                    `webhook: apps[0] "shop": webhooks[0].lambda_function: must be a string, is object`,
		`{"id":"shop","webhooks":[{"url":"http://u:CANARY@a/?CANARY","X":1}]}`: `webhook: apps[0] "shop": webhooks[0]: unknown key "X", did you mean "url"?`,
	} {
		_, err := webhook.AppsFromJSON([]byte("[" + given + "]"))
		require.EqualError(t, err, want, given)
	}
	_, err := webhook.AppsFromJSON([]byte(`{"apps":[]}`))
	require.EqualError(t, err, "webhook: apps: must be an array, is object")
	var filter webhook.Filter
	require.EqualError(t, json.Unmarshal([]byte(`{"prefix":"x"}`), &filter), `webhook: filter: unknown key "prefix", did you mean "channel_name_ends_with"?`)
	var hook webhook.Webhook
	require.EqualError(t, json.Unmarshal([]byte(`{"url":"http://u:CANARY@a/x?CANARY","filters":{}}`), &hook), `webhook: webhook for "http://a/x": unknown key "filters", did you mean "filter"?`)
}

// A server keeps its own settings of an app beside the library's.
func TestAppIsEmbedded(t *testing.T) {
	var own struct {
		webhook.App
		Enabled bool `json:"enabled"`
	}
	require.NoError(t, json.Unmarshal([]byte(`{"id":"shop","enabled":true,"webhooks":[{"url":"http://a/"}]}`), &own))
	require.True(t, own.Enabled)
	require.Equal(t, "shop", own.ID)
	require.Len(t, own.Webhooks, 1)
	require.Error(t, json.Unmarshal([]byte(`{"webhooks":[{"filter":{"prefix":"x"}}]}`), &own))
}

// However a key of a webhook or its filter is misspelt, nobody gets a filter that lets everything through.
func TestMisspeltKeysAreNeverIgnored(t *testing.T) {
	const config = `{"id":"shop","key":"k","secret":"s","webhooks":[{"url":"http://a/","event_types":["cache_miss"],"headers":{"A":"b"},
		"filter":{"channel_name_starts_with":"private-","channel_name_ends_with":"-eu"}}]}`
	const letters = "abcdefghijklmnopqrstuvwxyz_- ABC"
	random := rand.New(rand.NewPCG(1, 2))
	for _, key := range []string{"url", "event_types", "headers", "filter", "channel_name_starts_with", "channel_name_ends_with"} {
		for range 300 {
			at, letter := random.IntN(len(key)), letters[random.IntN(len(letters))]
			wrong := []string{
				key[:at] + key[at+1:],
				key[:at] + string(letter) + key[at:],
				key[:at] + string(letter) + key[at+1:],
				strings.ToUpper(key),
				"CHANNEL" + key,
			}[random.IntN(5)]
			if wrong == key {
				continue
			}
			_, err := webhook.AppsFromJSON([]byte("[" + strings.Replace(config, `"`+key+`"`, `"`+wrong+`"`, 1) + "]"))
			require.ErrorContains(t, err, `apps[0] "shop": webhooks[0]`, wrong)
			require.ErrorContains(t, err, "unknown key", wrong)
		}
	}
}

// What was marshalled has lost what is secret: it is refused, not used without it.
func TestMarshalledWebhooksAreRefused(t *testing.T) {
	for name, w := range map[string]webhook.Webhook{
		"header":   {URL: "http://a/", Headers: map[string]string{"Authorization": "Bearer CANARY"}},
		"query":    {URL: "http://a/?CANARY"},
		"password": {URL: "http://u:CANARY@a/"},
		"no URL":   {URL: "http://CANARY\x00/"},
	} {
		t.Run(name, func(t *testing.T) {
			w.EventTypes = every
			data, err := json.Marshal([]webhook.Webhook{w})
			require.NoError(t, err)
			require.NotContains(t, string(data), "CANARY")
			var loaded []webhook.Webhook
			require.NoError(t, json.Unmarshal(data, &loaded))
			_, err = webhook.New(webhook.Config{Apps: []webhook.App{{ID: "a", Key: "k", Secret: "s", Webhooks: loaded}}})
			require.ErrorContains(t, err, "of a Webhook that was marshalled")
		})
	}
}

func TestOddURLs(t *testing.T) {
	for url, want := range map[string]string{
		"http://host:0/":                           "port must be from 1 to 65535, is 0",
		"http://host:99999/":                       "port must be from 1 to 65535, is 99999",
		"http://127。0。0。1/":                        "must be written as punycode",
		"http://bücher.example/":                   "must be written as punycode",
		"http://%7f.example/":                      "is not a valid URL",
		"http://a b/":                              "is not a valid URL",
		"http://a\tb/":                             "is not a valid URL",
		"http://a;b/":                              "a character that a host cannot have",
		"http://host/?a b":                         "query has a character",
		"http://host/?ü":                           "query has a character",
		"http://host/?a\x7f":                       "is not a valid URL",
		"http://host/" + strings.Repeat("x", 9000): "has 9012 bytes, at most 8192 are allowed",
		"//host/":                                  "must be an absolute http or https URL",
		"http:host":                                "must be an absolute http or https URL",
		"http://host/ü":                            "",
		"http://host/a b":                          "",
		"http://host/?a=%20%C3%BC":                 "",
		"http://[::1]:8080/":                       "",
		"http://[fe80::1%25eth0]/":                 "",
		"http://some_name.internal:65535/":         "",
		"http://xn--bcher-kva.example/":            "",
		"HTTPS://EXAMPLE.com":                      "",
	} {
		_, err := webhook.New(webhook.Config{Apps: []webhook.App{testApp("a", url)}})
		if want == "" {
			require.NoError(t, err, url)
		} else {
			require.ErrorContains(t, err, want, url)
		}
	}
}
