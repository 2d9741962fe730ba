package webhook

import "strings"

// A Filter selects channels by name. Both conditions must hold; an empty one holds for every channel. The two
// may overlap in the name, as with JavaScript's startsWith and endsWith in soketi: prefix "ab" and suffix
// "bc" match "abc". Names are compared byte by byte.
type Filter struct {
	ChannelNameStartsWith string `json:"channel_name_starts_with" yaml:"channel_name_starts_with"`
	ChannelNameEndsWith   string `json:"channel_name_ends_with" yaml:"channel_name_ends_with"`
}

// Match reports whether the filter lets events of channel through.
func (f Filter) Match(channel string) bool {
	return strings.HasPrefix(channel, f.ChannelNameStartsWith) && strings.HasSuffix(channel, f.ChannelNameEndsWith)
}

// An appRoutes says which endpoints of one app want which events. It is immutable: SetApp puts a new one in
// its place, and an Emit that has read the old one goes on with it.
type appRoutes struct {
	types  typeSet // all that any route wants: most events end at this test
	routes []route // one for each endpoint, in the order of the app's webhooks
}

// A route leads to one endpoint. Webhooks of one app with equal URL and headers are one endpoint, and their
// rules are alternatives.
type route struct {
	endpoint *endpoint
	rules    []rule
}

// A rule is what one webhook asks for.
type rule struct {
	types  typeSet
	filter Filter
}

// newRoutes makes the routes of webhooks, each of which leads to the endpoint at the same index.
func newRoutes(webhooks []Webhook, endpoints []*endpoint) *appRoutes {
	a := &appRoutes{}
	at := make(map[*endpoint]int, len(webhooks))
	for i, e := range endpoints {
		r := rule{filter: webhooks[i].Filter}
		for _, t := range webhooks[i].EventTypes {
			r.types |= t.set()
		}
		a.types |= r.types
		j, known := at[e]
		if !known {
			j = len(a.routes)
			at[e] = j
			a.routes = append(a.routes, route{endpoint: e})
		}
		a.routes[j].rules = append(a.routes[j].rules, r)
	}
	return a
}

func (r *route) wants(t typeSet, channel string) bool {
	for i := range r.rules {
		if rule := &r.rules[i]; rule.types&t != 0 && rule.filter.Match(channel) {
			return true
		}
	}
	return false
}

// wanting is how many endpoints want an event.
func (a *appRoutes) wanting(t typeSet, channel string) (n int) {
	for i := range a.routes {
		if a.routes[i].wants(t, channel) {
			n++
		}
	}
	return n
}

func (a *appRoutes) wants(t typeSet, channel string) bool {
	if a.types&t == 0 {
		return false
	}
	for i := range a.routes {
		if a.routes[i].wants(t, channel) {
			return true
		}
	}
	return false
}
