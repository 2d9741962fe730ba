package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"
)

// partitions prints who has which partition of the queue, and how far it is.
func partitions(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s natsServer
	a := newArguments("webhook-worker partitions", `Lists the partitions of the queue:
  OWNER     the worker that delivers them; - if none does
  EPOCH     how often they have changed hands
  MESSAGES  groups of events that wait
  RECORDED  when the owner last noted how far it is
  PENDING   endpoints with unfinished events
  HELD      events that timing rules hold back
`)
	s.flags(a)
	if err := a.parse(args, stdout); err != nil {
		return err
	}
	nc, q, err := openExisting(ctx, &s, slog.New(slog.NewTextHandler(stderr, nil)))
	if err != nil {
		return err
	}
	defer nc.Close()
	all, err := q.Partitions(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "PARTITION\tOWNER\tEPOCH\tMESSAGES\tRECORDED\tPENDING\tHELD\t")
	for _, p := range all {
		recorded := "-"
		if !p.Recorded.IsZero() {
			recorded = p.Recorded.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%s\t%d\t%d\t\n", p.Partition, printable(p.Owner), p.Epoch, p.Messages, recorded, p.Pending, p.Held)
	}
	return table.Flush()
}
