package queue

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pusherhooks/webhook"
)

// routes are what apps want, as this process knows it.
type routes struct {
	apps     sync.Map          // by id: *storedRoute
	revision atomic.Uint64     // of the apps, the newest that is known
	ids      map[string]string // by key; of learn alone
	log      *limitedLog
}

// learn takes in what the bucket says.
func (r *routes) learn(entry watched) {
	route, err := decodeRoute(entry.value)
	if err != nil { // a newer version's: the app wants everything, as one that is not known
		r.log.limited("webhook queue: what an app wants cannot be read", err)
		r.apps.Delete(r.ids[entry.key])
		return
	}
	r.ids[entry.key] = route.ID
	r.apps.Store(route.ID, &route)
	if r.revision.Load() < route.Revision {
		r.revision.Store(route.Revision)
	}
}

// known reports whether an app was not removed. One that was never heard of may be heard of in a moment.
func (r *routes) known(app string) bool {
	route, known := r.apps.Load(app)
	return !known || !route.(*storedRoute).Removed
}

// wants reports whether anybody wants an event.
func (r *routes) wants(app string, t webhook.EventType, channel string) bool {
	known, ok := r.apps.Load(app)
	if !ok {
		return true
	}
	for _, w := range known.(*storedRoute).Wants {
		filter := webhook.Filter{ChannelNameStartsWith: w.Prefix, ChannelNameEndsWith: w.Suffix}
		if slices.Contains(w.Types, t) && filter.Match(channel) {
			return true
		}
	}
	return false
}
