package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/pusherhooks/webhook"
)

// receive is the backend of all tenants. It verifies every webhook and keeps a tally, which it tells at /tally.
func receive(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	t := newTally()
	apps := make(map[string]webhook.App)
	for i := range tenants {
		apps[appID(i)] = appOf(i, "")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhooks", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			return // whoever sent it has gone
		}
		app := apps[r.Header.Get("X-Pusher-Key")]
		if err = webhook.Verify(app.Key, app.Secret, r.Header, body); err == nil {
			err = t.take(app.ID, body)
		}
		if err != nil {
			logger().Error("refused", "app", app.ID, "error", err)
			http.Error(w, err.Error(), http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("GET /tally", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(t.sum()) })
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = web.Close()
	}()
	ready("http://" + listener.Addr().String())
	if err := web.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}
