package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pusherhooks/webhook"
)

// A tenant is an app whose endpoints get events. The other apps are idle.
type tenant struct {
	id        string
	behaviour behaviour
	addresses []string // of endpoints that behave so

	// One goroutine alone changes these.
	version int // of its URL
	newest  int // version that ever was
	key     int // its generation
}

// app is the tenant's configuration as it is now.
func (t *tenant) app() webhook.App {
	key := fmt.Sprintf("%s-%d", t.id, t.key)
	// Two webhooks with one URL and header are one endpoint, so each event is wanted once.
	url := fmt.Sprintf("http://%s/%s/%s/%d", t.addresses[t.version%len(t.addresses)], t.behaviour, t.id, t.version)
	headers := map[string]string{tenantHeader: t.id}
	return webhook.App{ID: t.id, Key: key, Secret: webhook.Secret(secretOf(key)), Webhooks: []webhook.Webhook{
		{URL: url, Headers: headers, EventTypes: webhook.EventTypes(), Filter: webhook.Filter{ChannelNameStartsWith: "pr"}},
		{URL: url, Headers: headers, EventTypes: webhook.EventTypes()},
	}}
}

// tenantHeader is a tenant's own header: no other tenant's endpoint may ever see it.
const tenantHeader = "X-Tenant"

// secretOf is a key's secret. The tenant's id is the beginning of its keys, so an endpoint knows all that it needs.
func secretOf(key string) string { return "the secret of " + key }

// signedFor reports whether a body was signed with a key of the tenant.
func signedFor(tenant, key, signature string, body []byte) bool {
	mac := hmac.New(sha256.New, []byte(secretOf(key)))
	mac.Write(body)
	return strings.HasPrefix(key, tenant+"-") && signature == hex.EncodeToString(mac.Sum(nil))
}

// newTenants makes so many tenants for every behaviour.
func newTenants(scale int, addresses map[behaviour][]string) (all []*tenant) {
	for _, b := range behaviours {
		for range b.tenants * scale / fullScale {
			all = append(all, &tenant{id: fmt.Sprintf("t%d", len(all)), behaviour: b.name, addresses: addresses[b.name]})
		}
	}
	return all
}

// fullScale is what the numbers of tenants are given in.
const fullScale = 10

// idleApp is an app that no event is emitted for.
func idleApp(n, version int, address string) webhook.App {
	id := fmt.Sprintf("idle-%d", n)
	return webhook.App{ID: id, Key: id, Secret: "idle", Webhooks: []webhook.Webhook{
		{URL: fmt.Sprintf("http://%s/healthy/%s/%d", address, id, version), EventTypes: idleTypes},
	}}
}

var idleTypes = []webhook.EventType{webhook.TypeChannelOccupied, webhook.TypeChannelVacated}
