package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
)

// The headers that every delivery carries.
const (
	headerContentType = "Content-Type"

	headerKey       = "X-Pusher-Key"
	headerSignature = "X-Pusher-Signature"
	headerID        = "Webhook-Id"
)

// ownHeaders are those that the library sets, in canonical form and in the order of signature.
var ownHeaders = []string{headerContentType, headerKey, headerSignature, headerID}

// Sign returns the X-Pusher-Signature of body: its HMAC-SHA256 under secret, in lower-case hexadecimal.
func Sign(secret Secret, body []byte) string {
	var s signer
	return s.signature(&credentials{secret: secret}, body)
}

// Verify reports whether a received webhook was sent by the app with this key and secret. header and body
// are the request's, body unchanged. The error says what is wrong and holds neither secret nor signature.
// The comparison takes constant time.
func Verify(key string, secret Secret, header http.Header, body []byte) error {
	_, err := VerifyAny(map[string][]Secret{key: {secret}}, header, body)
	return err
}

// VerifyAny is Verify for a receiver of several apps, or of one whose secret is being rotated: by key, the secrets that
// are valid. It returns the key of the app that has sent the webhook. A secret that is empty or a placeholder is an
// error, whatever else matches.
func VerifyAny(secrets map[string][]Secret, header http.Header, body []byte) (key string, err error) {
	for _, all := range secrets {
		if slices.Contains(all, "") || slices.Contains(all, redacted) {
			return "", errors.New("webhook: Verify: secret: must not be empty or a placeholder")
		}
	}
	key = header.Get(headerKey)
	valid, known := secrets[key]
	if !known {
		return "", fmt.Errorf("webhook: %s is %q, which is no key of an app that is known", headerKey, key[:min(len(key), 100)])
	}
	got, err := hex.DecodeString(header.Get(headerSignature))
	if err != nil || len(got) != sha256.Size {
		return "", errors.New("webhook: " + headerSignature + " is missing or is not the hexadecimal form of an HMAC-SHA256")
	}
	for _, secret := range valid {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		if hmac.Equal(got, mac.Sum(nil)) {
			return key, nil
		}
	}
	return "", errors.New("webhook: " + headerSignature + " does not match the body")
}

// A signer computes signatures. It keeps its HMAC state while the credentials stay the same, which costs a third of
// a new one on a small body. The zero value is ready; not safe for concurrent use.
type signer struct {
	by  *credentials
	mac hash.Hash
	sum [sha256.Size]byte
}

func (s *signer) signature(by *credentials, body []byte) string {
	if s.by != by {
		s.by, s.mac = by, hmac.New(sha256.New, []byte(by.secret))
	}
	s.mac.Reset()
	s.mac.Write(body)
	var digits [2 * sha256.Size]byte
	return string(hex.AppendEncode(digits[:0], s.mac.Sum(s.sum[:0])))
}
