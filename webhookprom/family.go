package webhookprom

import (
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const labelApp = "app"

// A family is one metric with all of its series. It remembers them by their labels, so that a hook finds one without
// allocating, which WithLabelValues does at every call.
type family[S any] struct {
	*prometheus.MetricVec
	with   func(labels ...string) S
	labels []string // at most one, and then app if there is a label for it
	perApp bool

	mu    sync.Mutex // of making and forgetting: what is known is what MetricVec has
	known sync.Map   // of S by seriesKey
}

type seriesKey struct{ app, label string }

func counters(opts prometheus.CounterOpts, labels []string) *family[prometheus.Counter] {
	v := prometheus.NewCounterVec(opts, labels)
	return newFamily(v.MetricVec, v.WithLabelValues, labels)
}

func histograms(opts prometheus.HistogramOpts, labels []string) *family[prometheus.Observer] {
	v := prometheus.NewHistogramVec(opts, labels)
	return newFamily(v.MetricVec, v.WithLabelValues, labels)
}

func newFamily[S any](v *prometheus.MetricVec, with func(...string) S, labels []string) *family[S] {
	return &family[S]{MetricVec: v, with: with, labels: labels, perApp: slices.Contains(labels, labelApp)}
}

// series returns that of an app, which counts only if there is a label for it, and of the value of the metric's own
// label, if it has one.
func (f *family[S]) series(app, label string) S {
	if !f.perApp {
		app = ""
	}
	app = appLabel(app)
	if s, ok := f.known.Load(seriesKey{app, label}); ok {
		return s.(S)
	}
	return f.add(app, label)
}

func (f *family[S]) add(app, label string) S {
	f.mu.Lock()
	defer f.mu.Unlock()
	app = strings.Clone(app) // what Emit was given may be part of something larger
	values := make([]string, len(f.labels))
	for i, name := range f.labels {
		if values[i] = label; name == labelApp {
			values[i] = app
		}
	}
	s := f.with(values...)
	f.known.Store(seriesKey{app, label}, s)
	return s
}

// forget removes an app's series.
func (f *family[S]) forget(app string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	app = appLabel(app)
	f.known.Range(func(key, _ any) bool {
		if key.(seriesKey).app == app {
			f.known.Delete(key)
		}
		return true
	})
	f.DeletePartialMatch(prometheus.Labels{labelApp: app})
}

// appLabel is the value of the label for an app: the client library panics at one that is not UTF-8.
func appLabel(id string) string { return strings.ToValidUTF8(id, "\uFFFD") }
