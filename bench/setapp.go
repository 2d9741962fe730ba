package main

import (
	"context"
	"fmt"
	"time"
)

type setAppSpec struct{ Apps int }

// A setAppResult holds the time of all calls, and of the first and the last tenth, an app.
type setAppResult struct{ TotalNS, FirstNS, LastNS float64 }

// measureSetApp is the child's part.
func measureSetApp(spec setAppSpec) (setAppResult, error) {
	d, err := newGrowth("")
	if err != nil {
		return setAppResult{}, err
	}
	apps := growthApps(spec.Apps, "")
	tenth := len(apps) / 10
	var first, last time.Duration // until the first tenth is in, and from the last one on
	started := time.Now()
	for i, app := range apps {
		switch i {
		case tenth:
			first = time.Since(started)
		case len(apps) - tenth:
			last = time.Since(started)
		}
		if err := d.SetApp(app); err != nil {
			return setAppResult{}, err
		}
	}
	total := time.Since(started)
	return setAppResult{float64(total), float64(first) / float64(tenth), float64(total-last) / float64(tenth)},
		d.Close(context.Background())
}

// setAppFigures are the rounds.
type setAppFigures struct {
	apps               int
	total, first, last series
}

func (f *setAppFigures) run(ctx context.Context, apps int) error {
	f.apps = apps
	r, err := measure[setAppResult](ctx, "setapp", setAppSpec{apps})
	if err != nil {
		return err
	}
	f.total = append(f.total, r.TotalNS)
	f.first = append(f.first, r.FirstNS)
	f.last = append(f.last, r.LastNS)
	return nil
}

func (f *setAppFigures) table() *table {
	t := &table{
		title:  "Growth: SetApp, one at a time",
		header: []string{"apps", "all, ms", "first tenth, µs each", "last tenth, µs each"},
	}
	t.add(fmt.Sprint(count(float64(f.apps))), f.total.cell(milliseconds), f.first.cell(microseconds), f.last.cell(microseconds))
	return t
}
