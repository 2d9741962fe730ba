// Goreceiver is a backend that verifies webhooks with Pusher's official Go library. It prints its address,
// then a line of JSON for every request: the webhook as the library understood it, or why it was refused.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/pusher/pusher-http-go/v5"
)

type line struct {
	ID     string                `json:"id"`
	Events []pusher.WebhookEvent `json:"events,omitempty"`
	Error  string                `json:"error,omitempty"`
}

func main() {
	key := flag.String("key", "", "of the app")
	secret := flag.String("secret", "", "of the app")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	server := &http.Server{Handler: handler(&pusher.Client{Key: *key, Secret: *secret}), ReadTimeout: 10 * time.Second}
	go func() { // whoever started this program ends it by closing its input
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}

func handler(client *pusher.Client) http.HandlerFunc {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	return func(w http.ResponseWriter, r *http.Request) {
		l := line{ID: r.Header.Get("Webhook-Id")}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var webhook *pusher.Webhook
			if webhook, err = client.Webhook(r.Header, body); err == nil {
				l.Events = webhook.Events
			}
		}
		if err != nil {
			l.Error = err.Error()
			w.WriteHeader(http.StatusUnauthorized)
		}
		mu.Lock()
		defer mu.Unlock()
		if err := out.Encode(l); err != nil {
			log.Fatal(err)
		}
	}
}
