package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/pusherhooks/webhook"
)

// Every event carries an id, wherever its type has room for it. Joins and leaves belong together by the user, rooms by
// the channel: what ends has the id after that of what begins.

func clientEvent(channel string, id, padding int) webhook.Event {
	data := fmt.Sprintf(`{"id":%d,"padding":"%s"}`, id, strings.Repeat("x", padding))
	return webhook.ClientEvent(channel, "client-moved", json.RawMessage(data), "123.456", "")
}

func joined(channel string, id int) webhook.Event {
	return webhook.MemberAdded(channel, "u"+strconv.Itoa(id))
}

func left(channel string, id int) webhook.Event {
	return webhook.MemberRemoved(channel, "u"+strconv.Itoa(id))
}

func channelOf(kind, tenant string, id int) string {
	return kind + "-" + tenant + "-" + strconv.Itoa(id)
}

// A received event is one as an endpoint reads it.
type received struct {
	Name    webhook.EventType `json:"name"`
	Channel string            `json:"channel"`
	UserID  string            `json:"user_id"`
	Data    string            `json:"data"`
	Count   int               `json:"subscription_count"`
}

func decode(body []byte) ([]received, error) {
	var envelope struct {
		Events []received `json:"events"`
	}
	err := json.Unmarshal(body, &envelope)
	return envelope.Events, err
}

// id returns the event's id.
func (e *received) id() (id int, err error) {
	switch e.Name {
	case webhook.TypeClientEvent:
		digits, _ := strings.CutPrefix(e.Data, `{"id":`)
		digits, _, _ = strings.Cut(digits, ",")
		id, err = strconv.Atoi(digits)
	case webhook.TypeMemberAdded, webhook.TypeMemberRemoved:
		id, err = strconv.Atoi(strings.TrimPrefix(e.UserID, "u"))
	case webhook.TypeSubscriptionCount:
		return e.Count, nil
	default:
		id, err = strconv.Atoi(e.Channel[strings.LastIndexByte(e.Channel, '-')+1:])
	}
	if err != nil {
		return 0, fmt.Errorf("a %s without an id", e.Name)
	}
	if e.Name == webhook.TypeMemberRemoved || e.Name == webhook.TypeChannelVacated {
		id++
	}
	return id, nil
}

// stream names what is in order by id, for an endpoint: a channel's events, but for those that ReconnectGrace holds. The
// counts of a channel may be held too, and keep their order among themselves. It is empty for what has no order.
func (e *received) stream() string {
	switch e.Name {
	case webhook.TypeClientEvent, webhook.TypeMemberAdded:
		return e.Channel
	case webhook.TypeSubscriptionCount:
		return "count " + e.Channel
	}
	return ""
}
