package webhook

import "sync"

// A payload is what an event becomes in a batch: size bytes, encoded already, or to be copied from an event that
// needs no encoding but quotes. To look at every byte is most of the work; that is done here, once however many
// endpoints want the event, and before Emit takes any lock. It holds no pointer to the event, which so can stay
// on the stack of whoever emits it.
type payload struct {
	kind typeSet
	size int
	json *[]byte // from encodeBuffers; nil if the event is plain
}

// encodeBuffers are for events that are encoded beforehand.
var encodeBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, 1024)) }}

// payload makes e, of type t, ready, unless it is larger than MaxEventBytes. The caller frees the payload.
func (d *Dispatcher) payload(t typeSet, e *Event) (payload, error) {
	size := e.size()
	if size <= d.cfg.MaxEventBytes { // or it would only be encoded to be refused
		p, err := newPayload(t, e, d.cfg.ClientData)
		if err != nil || p.size <= d.cfg.MaxEventBytes {
			return p, err
		}
		p.free()
		size = p.size
	}
	return payload{}, invalidEvent("the event has %d bytes, MaxEventBytes is %d", size, d.cfg.MaxEventBytes)
}

// newPayload is Dispatcher.payload for events of any size. It fails only over a client_event's data.
func newPayload(t typeSet, e *Event, data ClientData) (payload, error) {
	if size := e.plainSize(t); size > 0 {
		return payload{kind: t, size: size}, nil
	}
	p := payload{kind: t, json: encodeBuffers.Get().(*[]byte)}
	body, err := e.append((*p.json)[:0], t, data)
	*p.json, p.size = body, len(body)
	if err != nil {
		p.free()
		return payload{}, err
	}
	return p, nil
}

// free gives back the payload's buffer.
func (p payload) free() {
	if p.json != nil {
		encodeBuffers.Put(p.json)
	}
}

// append appends the event that p was made of.
func (p payload) append(dst []byte, e *Event) []byte {
	if p.json != nil {
		return append(dst, *p.json...)
	}
	return e.appendPlain(dst, p.kind)
}
