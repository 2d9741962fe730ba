package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/queue"
)

// A selection is which dead letters a command is about.
type selection struct {
	queue.DeadFilter
	all bool
}

// flags adds the filters; where a command changes something they may not be forgotten.
func (s *selection) flags(a *arguments, changes bool) {
	a.StringVar(&s.App, "app", "", "those of this `app`")
	a.StringVar(&s.Endpoint, "endpoint", "", "those of this `endpoint`, as dead ls names it: _unknown, _removed, _invalid and _poison are of none")
	a.Uint64Var(&s.ID, "id", 0, "the one with this `number`")
	a.Func("before", "those stored before this `time`: 2006-01-02, 2006-01-02T15:04:05Z, or an age such as 24h", func(text string) (err error) {
		s.Before, err = parseTime(text, time.Now())
		return err
	})
	if !changes {
		return
	}
	a.BoolVar(&s.all, "all", false, "all of them; instead of filters")
	a.check(func() error {
		switch filtered := s.DeadFilter != (queue.DeadFilter{}); {
		case !filtered && !s.all:
			return errors.New("-app, -endpoint, -id or -before: say which dead letters, or -all")
		case filtered && s.all:
			return errors.New("-all: leave it out, or the filters")
		}
		return nil
	})
}

// parseTime takes a day, a moment, or how long ago it was.
func parseTime(text string, now time.Time) (time.Time, error) {
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("must be like 2006-01-02, 2006-01-02T15:04:05Z or 24h")
}

// A deadCommand is what dead ls, dead replay and dead purge have in common.
type deadCommand struct {
	server natsServer
	which  selection
	queue  *queue.Queue
	close  func()
}

func (c *deadCommand) open(ctx context.Context, a *arguments, changes bool, args []string, stdout, stderr io.Writer) error {
	c.server.flags(a)
	c.which.flags(a, changes)
	if err := a.parse(args, stdout); err != nil {
		return err
	}
	nc, q, err := openExisting(ctx, &c.server, slog.New(slog.NewTextHandler(stderr, nil)))
	if err != nil {
		return err
	}
	c.queue, c.close = q, nc.Close
	return nil
}

func deadReplay(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c deadCommand
	a := newArguments("webhook-worker dead replay", "Puts dead letters back into the queue, for the endpoint that gave them up. They come behind what is queued.")
	if err := c.open(ctx, a, true, args, stdout, stderr); err != nil {
		return err
	}
	defer c.close()
	events, err := c.queue.Replay(ctx, c.which.DeadFilter)
	fmt.Fprintf(stdout, "%d events replayed\n", events)
	return err
}

func deadPurge(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c deadCommand
	a := newArguments("webhook-worker dead purge", "Deletes dead letters.")
	if err := c.open(ctx, a, true, args, stdout, stderr); err != nil {
		return err
	}
	defer c.close()
	if c.which.all {
		c.which.Before = time.Now().AddDate(1, 0, 0) // whatever the engine's clock says
	}
	letters, err := c.queue.PurgeDead(ctx, c.which.DeadFilter)
	fmt.Fprintf(stdout, "%d dead letters deleted\n", letters)
	return err
}

func deadList(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c deadCommand
	a := newArguments("webhook-worker dead ls", "Lists dead letters, the oldest first. Each holds events that were given up for one endpoint.")
	asJSON := a.Bool("json", false, "a JSON object on each line, with the events")
	if err := c.open(ctx, a, false, args, stdout, stderr); err != nil {
		return err
	}
	defer c.close()
	write := writeRow
	if *asJSON {
		write = writeJSON
	} else {
		fmt.Fprintf(stdout, deadRow, "ID", "STORED", "EVENTS", "ENDPOINT", "APP", "URL", "REASON")
	}
	letters, events := 0, 0
	for letter, err := range c.queue.Dead(ctx, c.which.DeadFilter) {
		if err != nil {
			if letter.ID == 0 {
				return err
			}
			letter.Reason = err.Error() // it cannot be read; the others can
		}
		if err := write(stdout, &letter); err != nil {
			return err
		}
		letters, events = letters+1, events+len(letter.Events)
	}
	if !*asJSON {
		fmt.Fprintf(stdout, "%d dead letters, %d events\n", letters, events)
	}
	return nil
}

const deadRow = "%-8v %-20v %6v  %-9v %-20v %-30v %v\n"

func writeRow(w io.Writer, l *queue.DeadLetter) error {
	_, err := fmt.Fprintf(w, deadRow, l.ID, l.Time.UTC().Format(time.RFC3339), len(l.Events), printable(l.Endpoint), printable(l.App), printable(l.URL), printable(l.Reason))
	return err
}

// printable is a text that others chose, as it can be shown in a terminal.
func printable(text string) string {
	if text == "" {
		return "-"
	}
	plain := func(r rune) bool { return strconv.IsPrint(r) && r != '"' }
	if strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// A letterJSON is a dead letter for programs. What cannot be read is in raw, as Base64.
type letterJSON struct {
	ID       uint64      `json:"id"`
	Stored   time.Time   `json:"stored"`
	App      string      `json:"app"`
	Endpoint string      `json:"endpoint"`
	URL      string      `json:"url"`
	Reason   string      `json:"reason"`
	Events   []eventJSON `json:"events"`
	Raw      []byte      `json:"raw,omitempty"`
}

// An eventJSON has the names that webhooks have.
type eventJSON struct {
	Name     webhook.EventType `json:"name"`
	Channel  string            `json:"channel"`
	Event    string            `json:"event,omitempty"`
	Data     string            `json:"data,omitempty"`
	SocketID string            `json:"socket_id,omitempty"`
	UserID   string            `json:"user_id,omitempty"`
	Count    *int              `json:"subscription_count,omitempty"`
}

func writeJSON(w io.Writer, l *queue.DeadLetter) error {
	out := letterJSON{ID: l.ID, Stored: l.Time.UTC(), App: l.App, Endpoint: l.Endpoint, URL: l.URL, Reason: l.Reason, Events: []eventJSON{}, Raw: l.Raw}
	for _, e := range l.Events {
		one := eventJSON{Name: e.Type, Channel: e.Channel, Event: e.Event, Data: text(e.Data), SocketID: e.SocketID, UserID: e.UserID}
		if e.Type == webhook.TypeSubscriptionCount {
			one.Count = &e.SubscriptionCount
		}
		out.Events = append(out.Events, one)
	}
	return json.NewEncoder(w).Encode(out)
}

// text is a client event's data as the webhook has it: a string, which holds the client's JSON.
func text(data json.RawMessage) (s string) {
	if json.Unmarshal(data, &s) == nil {
		return s
	}
	return string(data)
}
