package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
)

// The headers that every delivery carries.
const (
	headerContentType = "Content-Type"

	headerKey       = "X-Pusher-Key"
	headerSignature = "X-Pusher-Signature"
	headerID        = "Webhook-Id"
)

// ownHeaders are those that the library sets, in canonical form and in the order of endpointSigner.sign.
var ownHeaders = []string{headerContentType, headerKey, headerSignature, headerID}

// redacted is what a Secret, and whatever else may hold one, prints as.
const redacted = "[redacted]"

// A Secret is an app's secret. It prints as [redacted] through fmt, log/slog and encoding/json;
// string(secret) is the value.
type Secret string

// Format implements fmt.Formatter, for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which encoding/json and other encoders use.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Sign returns the X-Pusher-Signature of body: its HMAC-SHA256 under secret, in lower-case hexadecimal.
func Sign(secret Secret, body []byte) string {
	return newSigner(secret).sign(body)
}

// Verify reports whether a received webhook was sent by the app with this key and secret. header and body
// are the request's, body unchanged. The error says what is wrong and holds neither secret nor signature.
// The comparison takes constant time.
func Verify(key string, secret Secret, header http.Header, body []byte) error {
	if got := header.Get(headerKey); got != key {
		return fmt.Errorf("webhook: %s is %q, want %q", headerKey, got, key)
	}
	got, err := hex.DecodeString(header.Get(headerSignature))
	if err != nil || len(got) != sha256.Size {
		return errors.New("webhook: " + headerSignature + " is missing or is not the hexadecimal form of an HMAC-SHA256")
	}
	if !hmac.Equal(got, newSigner(secret).sum(body)) {
		return errors.New("webhook: " + headerSignature + " does not match the body")
	}
	return nil
}

// A signer computes signatures under one secret. It keeps its HMAC state, which costs a third of a new one
// on a small body. Not safe for concurrent use.
type signer struct {
	mac hash.Hash
}

func newSigner(secret Secret) *signer {
	return &signer{hmac.New(sha256.New, []byte(secret))}
}

func (s *signer) sum(body []byte) []byte {
	s.mac.Reset()
	s.mac.Write(body)
	return s.mac.Sum(nil)
}

func (s *signer) sign(body []byte) string {
	return hex.EncodeToString(s.sum(body))
}
