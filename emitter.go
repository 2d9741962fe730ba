package webhook

// An Emitter is where events go: a Dispatcher, or whatever takes a server's events in its place. What produces
// events, such as the package channels, asks for no more than this.
//
// Both methods may be called concurrently. Emit must not block: those who call it have a websocket to serve. It keeps
// nothing of the event's Data. Wants reports whether anybody asks for events of a type on a channel; an event that
// nobody asks for need not be emitted.
type Emitter interface {
	Emit(appID string, e Event) error
	Wants(appID string, t EventType, channel string) bool
}

var _ Emitter = (*Dispatcher)(nil)
