package main

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// What a client and a backend may ask of this server. Where Pusher's documentation names a limit it is that one; the
// others are this server's own. https://pusher.com/docs/channels/ has them under "using channels" (channels,
// presence channels, events) and in the HTTP API reference.

// Limits of Pusher's.
const (
	maxChannelName  = 164      // characters, prefixes included
	maxEventName    = 200      // as its server libraries check
	maxEventData    = 10 << 10 // of an event, from a client or a backend
	maxChannelsCall = 100      // channels of one POST /events
	maxBatchCall    = 10       // events of one POST /batch_events
	maxMembers      = 100      // users on a presence channel
	maxUserID       = 128      // characters
	maxUserInfo     = 1 << 10
	clientEvents    = 10 // a second, of one socket; an app may set another
)

// Limits of this server.
const (
	maxSockets       = 10_000    // of one app, unless it sets another
	maxChannels      = 100_000   // of one app, occupied at a time
	maxSubscriptions = 1000      // of one socket
	maxFrame         = 64 << 10  // from a client; a longer one closes the socket (1009)
	outboxSize       = 256       // frames that wait for a client to take them
	outboxBytes      = 4 << 20   // and their bytes
	maxCall          = 512 << 10 // the body of an API call
	maxHeader        = 16 << 10  // its line and headers, and a handshake's
	callTime         = 10 * time.Second
)

// A pace is how often something may happen: per second on average, and so many times at once.
type pace struct{ perSecond, burst float64 }

// paces are those of one socket. A client that is faster is not refused: its socket is read no faster. So a page may
// subscribe to hundreds of channels when it loads, and nobody can fill the queue of an app's webhooks by subscribing and
// unsubscribing in a loop.
type paces struct {
	messages      pace // all but the client events that are passed on
	subscriptions pace // pusher:subscribe and pusher:unsubscribe
}

var defaultPaces = paces{
	messages:      pace{perSecond: 100, burst: 200},
	subscriptions: pace{perSecond: 20, burst: 100},
}

// A bucket keeps a pace. It begins full. Only one goroutine uses it.
type bucket struct {
	pace
	left float64 // what may happen at once; less than 0 is what has happened too early
	at   time.Time
}

func newBucket(p pace) bucket { return bucket{pace: p, left: p.burst, at: time.Now()} }

func (b *bucket) fill(now time.Time) {
	b.left = min(b.burst, b.left+now.Sub(b.at).Seconds()*b.perSecond)
	b.at = now
}

// allow counts something that happens now, unless it is too early.
func (b *bucket) allow(now time.Time) bool {
	if b.fill(now); b.left < 1 {
		return false
	}
	b.left--
	return true
}

// take counts something that has happened; wait says when the next may.
func (b *bucket) take(now time.Time) {
	b.fill(now)
	b.left--
}

func (b *bucket) wait() time.Duration {
	if b.left >= 0 {
		return 0
	}
	return time.Duration(-b.left / b.perSecond * float64(time.Second))
}

// A limiter is what one socket may do. Only its reader uses it.
type limiter struct {
	messages, subscriptions, clientEvents bucket
	unlimited                             bool // as to client events
}

func newLimiter(p paces, a *app) limiter {
	perSecond := float64(a.MaxClientEventsPerSecond)
	if perSecond == 0 {
		perSecond = clientEvents
	}
	return limiter{
		messages: newBucket(p.messages), subscriptions: newBucket(p.subscriptions),
		clientEvents: newBucket(pace{perSecond, perSecond}), unlimited: perSecond < 0,
	}
}

// allowClientEvent says whether a client event may be passed on.
func (l *limiter) allowClientEvent() bool { return l.unlimited || l.clientEvents.allow(time.Now()) }

// took counts a message of this event, and returns how long the socket is not to be read.
func (l *limiter) took(event string, passedOn bool) time.Duration {
	now := time.Now()
	if !passedOn {
		l.messages.take(now)
	}
	if event == "pusher:subscribe" || event == "pusher:unsubscribe" {
		l.subscriptions.take(now)
	}
	return max(l.messages.wait(), l.subscriptions.wait())
}

// limitUser says what is too large about a presence channel's user.
func limitUser(u user) *fault {
	switch {
	case utf8.RuneCountInString(string(u.ID)) > maxUserID:
		return &fault{codeUnauthorized, fmt.Sprintf("Invalid channel_data: user_id has %d characters at the most", maxUserID)}
	case len(u.Info) > maxUserInfo:
		return &fault{codeUnauthorized, fmt.Sprintf("Invalid channel_data: user_info has %d bytes at the most", maxUserInfo)}
	}
	return nil
}

// limitSubscription says which number leaves no room for one more subscription: of the socket's channels, of the
// app's if the channel is vacant, of the channel's members if the user is new there.
func limitSubscription(own, occupied, members int, vacant, newMember bool) *fault {
	switch {
	case own >= maxSubscriptions:
		return &fault{codeLimit, fmt.Sprintf("A socket can subscribe to %d channels", maxSubscriptions)}
	case vacant && occupied >= maxChannels:
		return &fault{codeLimit, fmt.Sprintf("The app can have %d channels", maxChannels)}
	case newMember && members >= maxMembers:
		return &fault{codeLimit, fmt.Sprintf("A presence channel can have %d members", maxMembers)}
	}
	return nil
}

// limitSockets says that the app has no room for one more socket.
func limitSockets(a *app, open int) *fault {
	most := a.MaxConnections
	if most == 0 {
		most = maxSockets
	}
	if most > 0 && open >= most {
		return &fault{codeOverQuota, "The app is over its quota of connections"}
	}
	return nil
}
