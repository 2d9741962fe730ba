package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pusherhooks/webhook"
)

// A spool is the file that carries undelivered webhooks from one run of the server to the next.
type spool struct {
	path    string
	left    []*webhook.Delivery // of an earlier run, not taken by the dispatcher
	cancel  context.CancelFunc
	settled chan struct{} // closed when the rest of them has its result
}

// resume queues what an earlier run has left, and is called before any new event. The file stays until all of
// it has arrived or was given up: after a crash before that it is sent once more, under the same Webhook-Ids.
func resume(path string, d *webhook.Dispatcher, log *slog.Logger) (*spool, error) {
	s := &spool{path: path, settled: make(chan struct{})}
	deliveries, err := s.load()
	if err != nil {
		return nil, err
	}
	var refused *webhook.UndeliveredError
	if errors.As(d.Redeliver(deliveries...), &refused) {
		s.left = refused.Deliveries
		log.Error("webhooks of an earlier run not redelivered", "file", path, "error", refused)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.settled)
		if len(deliveries) == 0 || d.Flush(ctx) != nil {
			return // nothing to do, or close does it
		}
		if err := s.save(s.left); err != nil {
			log.Error("webhooks of an earlier run arrived, but their file stays", "error", err)
		}
	}()
	return s, nil
}

// close keeps what the dispatcher handed back when it was closed. It returns an error if there is anything to
// keep, or if that failed.
func (s *spool) close(undelivered []*webhook.Delivery) error {
	s.cancel()
	<-s.settled
	kept := append(s.left, undelivered...)
	if err := s.save(kept); err != nil || len(kept) == 0 {
		return err
	}
	return fmt.Errorf("%d deliveries are kept in %s for the next start", len(kept), s.path)
}

func (s *spool) load() ([]*webhook.Delivery, error) {
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var deliveries []*webhook.Delivery
	if err := json.Unmarshal(data, &deliveries); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return deliveries, nil
}

// save replaces the file, by one that is complete, or removes it when there is nothing to keep. It holds what
// the webhooks hold, their custom headers too, so it is for the owner alone.
func (s *spool) save(deliveries []*webhook.Delivery) error {
	if len(deliveries) == 0 {
		if err := os.Remove(s.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(deliveries)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
