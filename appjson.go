package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
)

// How apps are read from JSON. It is soketi's dialect: an app's other fields are ignored, but in a webhook and its
// filter an unknown key is an error. One that is ignored is as good as none, and a filter without it matches every
// channel.

// AppsFromJSON reads an array of apps in soketi's format. It is json.Unmarshal with better errors: it reports every
// fault at once, by the app's id and the path. It also takes a number as an id.
//
// App has no UnmarshalJSON of its own, so that a server's struct may embed it beside fields of the server's.
func AppsFromJSON(data []byte) ([]App, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("webhook: apps: %w", typeError(err))
	}
	apps, errs := make([]App, len(all)), []error(nil)
	for i, data := range all {
		faults := apps[i].unmarshal(data)
		for _, err := range faults {
			errs = append(errs, fmt.Errorf("webhook: apps[%d] %q%w", i, apps[i].ID, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return apps, nil
}

// unmarshal returns every fault, each with the path that follows the app's.
func (a *App) unmarshal(data []byte) (errs []error) {
	var app struct {
		ID       json.RawMessage   `json:"id"`
		Key      string            `json:"key"`
		Secret   string            `json:"secret"`
		Webhooks []json.RawMessage `json:"webhooks"`
	}
	err := json.Unmarshal(data, &app)
	errs = appendFault(errs, ": id", unmarshalText(app.ID, &a.ID))
	errs = appendFault(errs, "", typeError(err))
	a.Key, a.Secret = app.Key, Secret(app.Secret)
	for i, data := range app.Webhooks {
		var w Webhook
		for _, err := range w.unmarshal(data) {
			errs = append(errs, fmt.Errorf(": webhooks[%d]%w", i, err))
		}
		a.Webhooks = append(a.Webhooks, w)
	}
	return errs
}

// UnmarshalJSON reads soketi's format of a webhook. Unknown keys are errors, but for soketi's lambda; an error names the
// webhook by its URL (AppsFromJSON's names the app too). So is
// lambda_function without a url: a webhook that would be silently ignored is worse than one that stops the server at
// its start.
func (w *Webhook) UnmarshalJSON(data []byte) error {
	var errs []error
	for _, err := range w.unmarshal(data) {
		errs = append(errs, fmt.Errorf("webhook: webhook for %q%w", redactURL(w.URL), err))
	}
	return errors.Join(errs...)
}

// unmarshal returns every fault, each with the path that follows the webhook's.
func (w *Webhook) unmarshal(data []byte) (errs []error) {
	*w = Webhook{}
	var lambda string
	err := members(data, func(key string, value json.RawMessage) {
		path := "." + key
		switch key {
		case "url":
			errs = appendFault(errs, path, unmarshalValue(value, &w.URL))
		case "event_types":
			errs = appendFault(errs, path, unmarshalValue(value, &w.EventTypes))
		case "filter":
			for _, err := range w.Filter.unmarshal(value) {
				errs = append(errs, fmt.Errorf("%s%w", path, err))
			}
		case "headers":
			errs = append(errs, w.unmarshalHeaders(value)...)
		case "lambda_function":
			errs = appendFault(errs, path, unmarshalValue(value, &lambda))
		case "lambda": // soketi's settings of the function
		default:
			errs = append(errs, unknownKey(key, "url", "event_types", "filter", "headers"))
		}
	})
	errs = appendFault(errs, "", err)
	if lambda != "" && w.URL == "" { // with both, soketi uses the URL
		errs = append(errs, errors.New(".lambda_function: not supported yet, give the function a URL and set url instead"))
	}
	return errs
}

// unmarshalHeaders takes numbers too, as they are written.
func (w *Webhook) unmarshalHeaders(data []byte) (errs []error) {
	if isEmptyArray(data) {
		return nil
	}
	err := members(data, func(name string, value json.RawMessage) {
		var text string
		errs = appendFault(errs, fmt.Sprintf(".headers[%q]", name), unmarshalText(value, &text))
		if w.Headers == nil {
			w.Headers = make(map[string]string)
		}
		w.Headers[name] = text
	})
	return appendFault(errs, ".headers", err)
}

// UnmarshalJSON reads a filter. Unknown keys are errors.
func (f *Filter) UnmarshalJSON(data []byte) error {
	var errs []error
	for _, err := range f.unmarshal(data) {
		errs = append(errs, fmt.Errorf("webhook: filter%w", err))
	}
	return errors.Join(errs...)
}

func (f *Filter) unmarshal(data []byte) (errs []error) {
	*f = Filter{}
	if isEmptyArray(data) {
		return nil
	}
	err := members(data, func(key string, value json.RawMessage) {
		switch path := "." + key; key {
		case "channel_name_starts_with":
			errs = appendFault(errs, path, unmarshalValue(value, &f.ChannelNameStartsWith))
		case "channel_name_ends_with":
			errs = appendFault(errs, path, unmarshalValue(value, &f.ChannelNameEndsWith))
		default:
			errs = append(errs, unknownKey(key, "channel_name_starts_with", "channel_name_ends_with"))
		}
	})
	return appendFault(errs, "", err)
}

// isEmptyArray reports whether data is how PHP writes an empty object.
func isEmptyArray(data []byte) bool {
	inside, found := bytes.CutPrefix(bytes.TrimSpace(data), []byte("["))
	return found && string(bytes.TrimSpace(inside)) == "]"
}

func appendFault(errs []error, path string, err error) []error {
	if err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", path, err))
	}
	return errs
}

// members calls f for each member of an object, in order. null has none.
func members(data []byte, f func(key string, value json.RawMessage)) error {
	d := json.NewDecoder(bytes.NewReader(data))
	start, err := d.Token()
	switch {
	case err != nil:
		return errors.New("is not valid JSON")
	case start == nil:
		return nil
	case start != json.Delim('{'):
		return errors.New("must be an object")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return errors.New("is not valid JSON")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return errors.New("is not valid JSON")
		}
		f(key.(string), value)
	}
	return nil
}

func unmarshalValue(data []byte, to any) error { return typeError(json.Unmarshal(data, to)) }

// unmarshalText takes a string, or a number as it is written.
func unmarshalText(data []byte, to *string) error {
	var number json.Number
	if len(data) > 0 && data[0] != '"' && json.Unmarshal(data, &number) == nil {
		*to = number.String()
		return nil
	}
	if len(data) == 0 {
		return nil
	}
	return unmarshalValue(data, to)
}

// typeError is err without the value, which may be secret, and in the words of JSON.
func typeError(err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	text := fmt.Sprintf("must be %s, is %s", jsonTypes[wrong.Type.Kind().String()], wrong.Value)
	if wrong.Field != "" {
		text = wrong.Field + ": " + text
	}
	return errors.New(text)
}

var jsonTypes = map[string]string{"string": "a string", "slice": "an array", "struct": "an object", "map": "an object"}

func unknownKey(key string, known ...string) error {
	nearest := slices.MinFunc(known, func(a, b string) int { return distance(key, a) - distance(key, b) })
	return fmt.Errorf(": unknown key %q, did you mean %q?", key, nearest)
}

// distance is how many characters have to be changed, added or left out to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// MarshalJSON leaves out what may be secret: header values, and the URL's userinfo and query. What is left out is
// marked, so that nobody loads it by mistake.
func (w Webhook) MarshalJSON() ([]byte, error) {
	type plain Webhook
	if u, err := url.Parse(w.URL); err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		w.URL = redactURL(w.URL) + "?" + redacted
	}
	w.Headers = maps.Clone(w.Headers)
	for name := range w.Headers {
		w.Headers[name] = redacted
	}
	return json.Marshal(plain(w))
}
