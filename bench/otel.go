package main

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
)

// nullExporter counts what OpenTelemetry's batcher exports.
type nullExporter struct{ records atomic.Int64 }

func (e *nullExporter) Export(_ context.Context, records []sdklog.Record) error {
	e.records.Add(int64(len(records)))
	return nil
}
func (e *nullExporter) Shutdown(context.Context) error   { return nil }
func (e *nullExporter) ForceFlush(context.Context) error { return nil }

// recordKeeper is a processor that keeps a record: the package makes them for its loggers only.
type recordKeeper struct{ record sdklog.Record }

func (k *recordKeeper) OnEmit(_ context.Context, r *sdklog.Record) error {
	k.record = r.Clone()
	return nil
}
func (k *recordKeeper) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (k *recordKeeper) Shutdown(context.Context) error                         { return nil }
func (k *recordKeeper) ForceFlush(context.Context) error                       { return nil }

// openOTel opens the batch processor alone, without the logger before it: that is kindest to it.
func openOTel(c emitCase) (emitter, error) {
	var keeper recordKeeper
	var first log.Record
	first.SetEventName(eventType)
	sdklog.NewLoggerProvider(sdklog.WithProcessor(&keeper)).Logger("bench").Emit(context.Background(), first)
	exporter := &nullExporter{}
	processors := make([][]*sdklog.BatchProcessor, c.apps())
	for a := range processors {
		for range c.Copies {
			processors[a] = append(processors[a], sdklog.NewBatchProcessor(exporter, sdklog.WithMaxQueueSize(chunk)))
		}
	}
	events := newSource()
	return emitter{
		emit: func(worker, i int) error {
			channel, user := events.event(i)
			record := keeper.record
			record.AddAttributes(attribute.String("channel", channel), attribute.String("user_id", user))
			for _, p := range processors[c.app(worker)] {
				if err := p.OnEmit(context.Background(), &record); err != nil {
					return err
				}
			}
			return nil
		},
		settle: func() error {
			var errs []error
			for _, p := range processors {
				for _, q := range p {
					errs = append(errs, q.ForceFlush(context.Background()))
				}
			}
			return errors.Join(errs...)
		},
		lost: func(emitted int) int { return emitted*c.Copies - int(exporter.records.Load()) },
	}, nil
}
