// Package ssrf keeps webhooks away from the server's own network with the guard of code.dny.dev/ssrf, plugged
// into HTTPConfig.DialControl: it is asked on every dial, after the name was resolved.
package ssrf

import (
	"code.dny.dev/ssrf"

	"github.com/pusherhooks/webhook"
)

// NewSender returns a Sender that connects to public addresses only, on any port. A delivery to any other is given up
// at once, and reported to Hooks.Undelivered.
func NewSender(cfg webhook.HTTPConfig, options ...ssrf.Option) (*webhook.HTTPSender, error) {
	cfg.DialControl = ssrf.New(append([]ssrf.Option{ssrf.WithAnyPort()}, options...)...).Safe
	return webhook.NewHTTPSender(cfg)
}
