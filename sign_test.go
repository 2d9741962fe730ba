package webhook_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// signed returns the headers of a well-signed request.
func signed(key string, secret webhook.Secret, body []byte) http.Header {
	return http.Header{"X-Pusher-Key": {key}, "X-Pusher-Signature": {webhook.Sign(secret, body)}}
}

func TestSign(t *testing.T) {
	// echo -n what do ya want for nothing? | openssl dgst -sha256 -hmac Jefe: RFC 4231, test case 2
	require.Equal(t, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
		webhook.Sign("Jefe", []byte("what do ya want for nothing?")))
}

func TestVerify(t *testing.T) {
	body := []byte(`{"time_ms":1,"events":[]}`)
	good := signed("key", "secret", body)
	require.NoError(t, webhook.Verify("key", "secret", good, body))

	upper := good.Clone()
	upper.Set("X-Pusher-Signature", strings.ToUpper(good.Get("X-Pusher-Signature")))
	require.NoError(t, webhook.Verify("key", "secret", upper, body), "hexadecimal has two spellings")

	for name, test := range map[string]struct {
		header http.Header
		body   string
		want   string
	}{
		"another body":     {good, `{"time_ms":2,"events":[]}`, "does not match the body"},
		"another secret":   {signed("key", "other", body), string(body), "does not match the body"},
		"another key":      {signed("other", "secret", body), string(body), `X-Pusher-Key is "other"`},
		"no headers":       {http.Header{}, string(body), "X-Pusher-Key"},
		"no signature":     {http.Header{"X-Pusher-Key": {"key"}}, string(body), "X-Pusher-Signature is missing"},
		"short signature":  {http.Header{"X-Pusher-Key": {"key"}, "X-Pusher-Signature": {"abcd"}}, string(body), "X-Pusher-Signature is missing or"},
		"not hexadecimal":  {http.Header{"X-Pusher-Key": {"key"}, "X-Pusher-Signature": {strings.Repeat("zz", 32)}}, string(body), "X-Pusher-Signature is missing or"},
		"longer signature": {http.Header{"X-Pusher-Key": {"key"}, "X-Pusher-Signature": {good.Get("X-Pusher-Signature") + "00"}}, string(body), "X-Pusher-Signature is missing or"},
	} {
		err := webhook.Verify("key", "secret", test.header, []byte(test.body))
		require.ErrorContains(t, err, test.want, name)
		require.NotContains(t, err.Error(), "secret", name)
	}
}

// Nobody's signature is right under a secret that was never set, or is what a Secret prints as.
func TestVerifyRefusesSecretsThatAreNone(t *testing.T) {
	body := []byte(`{"time_ms":1,"events":[]}`)
	for _, secret := range []webhook.Secret{"", "[redacted]"} {
		err := webhook.Verify("key", secret, signed("key", secret, body), body)
		require.EqualError(t, err, "webhook: Verify: secret: must not be empty or a placeholder")
	}
}

// While a secret is rotated both are valid; each app's are valid for its own key only.
func TestVerifyAny(t *testing.T) {
	body := []byte(`{"time_ms":1,"events":[]}`)
	secrets := map[string][]webhook.Secret{"shop": {"new", "old"}, "chat": {"other"}, "closed": nil}
	for name, test := range map[string]struct {
		header http.Header
		want   string // of the error
	}{
		"new secret":       {signed("shop", "new", body), ""},
		"old secret":       {signed("shop", "old", body), ""},
		"the other app's":  {signed("shop", "other", body), "does not match the body"},
		"an unknown key":   {signed("nobody", "new", body), `X-Pusher-Key is "nobody"`},
		"no secret":        {signed("closed", "", body), "does not match the body"},
		"an endless key":   {signed(strings.Repeat("x", 10_000), "new", body), `X-Pusher-Key is "xxx`},
		"no key":           {http.Header{}, `X-Pusher-Key is ""`},
		"half a signature": {http.Header{"X-Pusher-Key": {"shop"}, "X-Pusher-Signature": {webhook.Sign("new", body)[:32] + strings.Repeat("0", 32)}}, "does not match the body"},
	} {
		key, err := webhook.VerifyAny(secrets, test.header, body)
		if test.want == "" {
			require.NoError(t, err, name)
			require.Equal(t, "shop", key, name)
			continue
		}
		require.ErrorContains(t, err, test.want, name)
		require.Less(t, len(err.Error()), 300, name)
		require.Empty(t, key, name)
	}
	for _, unusable := range []webhook.Secret{"", "[redacted]"} {
		_, err := webhook.VerifyAny(map[string][]webhook.Secret{"shop": {"new"}, "chat": {"other", unusable}}, signed("shop", "new", body), body)
		require.ErrorContains(t, err, "must not be empty or a placeholder")
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("key", "secret", []byte("body"), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
	f.Fuzz(func(t *testing.T, key, secret string, body []byte, signature string) {
		h := http.Header{"X-Pusher-Key": {key}, "X-Pusher-Signature": {signature}}
		right := webhook.Sign(webhook.Secret(secret), body)
		got := webhook.Verify(key, webhook.Secret(secret), h, body) == nil
		require.Equal(t, strings.EqualFold(signature, right), got)
		usable := secret != "" && secret != "[redacted]"
		require.Equal(t, usable, webhook.Verify(key, webhook.Secret(secret), signed(key, webhook.Secret(secret), body), body) == nil)
	})
}

// A Secret never prints, but for one in an unexported field of somebody else's struct: fmt calls no methods there. The guide says so.
func TestSecretNeverPrints(t *testing.T) {
	type config struct {
		Secret webhook.Secret
	}
	const value = "hunter2"
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", webhook.Secret(value), "config", config{value})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", webhook.Secret(value), "config", config{value})
	asJSON, err := json.Marshal(config{value})
	require.NoError(t, err)
	printed := log.String() + string(asJSON)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		printed += fmt.Sprintf(verb, webhook.Secret(value)) + fmt.Sprintf(verb, config{value}) + fmt.Sprintf(verb, &config{value})
	}
	require.NotContains(t, printed, value)
	require.NotContains(t, printed, fmt.Sprintf("%x", value))
	require.Contains(t, printed, "[redacted]")
	require.Equal(t, value, string(webhook.Secret(value)))
}
