package main

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pusherhooks/webhook"
)

// Pusher signs all things alike: the HMAC-SHA256 of a text, in hexadecimal. So the library's Sign serves here
// too.
func (a *app) sign(text string) string { return webhook.Sign(a.Secret, []byte(text)) }

// channelAuth is what the app's backend hands a client for a private or presence channel.
func (a *app) channelAuth(socketID, channel, channelData string) string {
	text := socketID + ":" + channel
	if channelData != "" {
		text += ":" + channelData
	}
	return a.Key + ":" + a.sign(text)
}

// maxClockSkew is how old a signed request may be.
const maxClockSkew = 600 * time.Second

// verifyRequest checks the signed query of Pusher's HTTP API. What the body has to be is signed with it, so no body is
// read of a caller who is not the app's backend.
func (a *app) verifyRequest(r *http.Request, now time.Time) error {
	query := r.URL.Query()
	timestamp, err := strconv.ParseInt(query.Get("auth_timestamp"), 10, 64)
	switch {
	case query.Get("auth_key") != a.Key:
		return errors.New("auth_key is not the app's")
	case query.Get("auth_version") != "1.0":
		return errors.New("auth_version must be 1.0")
	case err != nil || now.Sub(time.Unix(timestamp, 0)).Abs() > maxClockSkew:
		return fmt.Errorf("auth_timestamp must be within %v of the server's %d", maxClockSkew, now.Unix())
	}
	params := make([]string, 0, len(query))
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if name != "auth_signature" {
			params = append(params, strings.ToLower(name)+"="+query.Get(name))
		}
	}
	want := a.sign(r.Method + "\n" + r.URL.Path + "\n" + strings.Join(params, "&"))
	if !hmac.Equal([]byte(query.Get("auth_signature")), []byte(want)) {
		return errors.New("auth_signature does not match the request")
	}
	return nil
}

// verifyBody checks the body against the query, which was verified before.
func verifyBody(r *http.Request, body []byte) error {
	sum, query := md5.Sum(body), r.URL.Query()
	if (len(body) > 0 || query.Has("body_md5")) && query.Get("body_md5") != hex.EncodeToString(sum[:]) {
		return errors.New("body_md5 does not match the body")
	}
	return nil
}
