package main

import (
	"context"
	"io"
)

// A troubleTable says what endpoints cost that accept nothing.
type troubleTable struct {
	failing failingFigures
	waiting []*waitingFigures
}

// compareTrouble is the parent's part.
func compareTrouble(ctx context.Context, o options) (*troubleTable, error) {
	t := &troubleTable{waiting: []*waitingFigures{newWaitingFigures(false, o.quick), newWaitingFigures(true, o.quick)}}
	for round := range o.rounds {
		o.progress("trouble, round %d: failing endpoints", round+1)
		if err := t.failing.run(ctx, o.quick); err != nil {
			return nil, err
		}
		for _, row := range t.waiting {
			o.progress("trouble, round %d: waiting events", round+1)
			if err := row.run(ctx); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

func (t *troubleTable) print(w io.Writer) error {
	for _, printed := range []*table{t.failing.table(), waitingTable(t.waiting)} {
		if err := printed.print(w); err != nil {
			return err
		}
	}
	return printRatios(w, "Trouble, aims", t.failing.ratios())
}
