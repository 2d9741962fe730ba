package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/pusherhooks/webhook"
)

// unbatchedInFlight is the number of requests under way where every event is a request of its own. It is
// webhook's default; contenders that can be told get the same.
const unbatchedInFlight = 16

// sendSpec is what a sending process is asked for.
type sendSpec struct {
	Sender string // see senders
	URL    string
	Batch  int // events in a request
	Warm   int // events before the clock starts
	Events int

	Apps  int       // 0: one
	Queue queueSpec // where the sender is durable
}

// sendResult is what a sending process tells about itself.
type sendResult struct {
	ElapsedNS, CPUNS int64
	PeakBytes        int64
}

// An eventSender sends n events and returns when each has been answered or given up.
type eventSender struct {
	send  func(n int) error
	close func() error
}

var senders = map[string]func(sendSpec) (eventSender, error){
	"webhook":   openWebhookSender,
	"loop":      openLoop,
	"post":      openPosts,
	"livekit":   openLiveKitSender,
	"segmentio": openSegmentioSender,
	"durable":   openDurableSender,
}

// measureSend is the sending process.
func measureSend(spec sendSpec) (sendResult, error) {
	open, ok := senders[spec.Sender]
	if !ok {
		return sendResult{}, fmt.Errorf("unknown sender %q", spec.Sender)
	}
	s, err := open(spec)
	if err != nil {
		return sendResult{}, err
	}
	if err := s.send(spec.Warm); err != nil {
		return sendResult{}, err
	}
	cpuBefore, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return sendResult{}, err
	}
	started := time.Now()
	if err := s.send(spec.Events); err != nil {
		return sendResult{}, err
	}
	elapsed := time.Since(started)
	cpuAfter, err := cpuTime(spec.Queue.PIDs...)
	if err != nil {
		return sendResult{}, err
	}
	peak, err := peakMemory()
	if err != nil {
		return sendResult{}, err
	}
	return sendResult{int64(elapsed), int64(cpuAfter - cpuBefore), peak}, s.close()
}

// openWebhookSender opens this library as it comes, but for the batch size.
func openWebhookSender(spec sendSpec) (eventSender, error) {
	d, err := webhook.New(webhook.Config{
		Apps:           benchApps(1, spec.URL),
		MaxBatchEvents: spec.Batch,
	})
	if err != nil {
		return eventSender{}, err
	}
	events, app := newSource(), appID(0)
	look, room := max(spec.Batch, 64), uint64(max(16*spec.Batch, 2048)) // not at every event: Stats costs as much as one
	return eventSender{
		send: func(n int) error {
			for i := range n {
				if i%look == 0 {
					waitForRoom(d, room)
				}
				if err := d.Emit(app, webhook.MemberAdded(events.event(i))); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), childTime)
			defer cancel()
			return d.Flush(ctx)
		},
		close: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return d.Close(ctx)
		},
	}, nil
}

// waitForRoom keeps the queue as short as on a server whose endpoint keeps up: enough that the next batch is
// always there, and not so much that it measures cold memory, or ErrQueueFull.
func waitForRoom(d *webhook.Dispatcher, events uint64) {
	for d.Stats().Pending > events {
		time.Sleep(100 * time.Microsecond)
	}
}

// tunedTransport is net/http's, with what a sender of webhooks wants.
func tunedTransport(connections int) *http.Transport {
	return &http.Transport{
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
}

// A signer makes Pusher's signature.
type signer struct{ mac hash.Hash }

func newSigner() signer { return signer{hmac.New(sha256.New, []byte(appSecret))} }

func (s signer) sign(body []byte) string {
	s.mac.Reset()
	s.mac.Write(body)
	return hex.EncodeToString(s.mac.Sum(nil))
}

// post sends a signed body and reads the answer, so that the connection is used again.
func post(client *http.Client, url string, body []byte, signature string) error {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Pusher-Key", appKey)
	req.Header.Set("X-Pusher-Signature", signature)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// openLoop opens the upper bound: encode, sign and post in a loop, on as many connections as webhook uses,
// without anything that a library is for: no queue, no routing, no retries, no limits.
func openLoop(spec sendSpec) (eventSender, error) {
	loops := 1
	if spec.Batch == 1 {
		loops = unbatchedInFlight
	}
	transport := tunedTransport(loops)
	transport.MaxConnsPerHost = loops // or a first request that is slow to connect makes one more
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	events := newSource()
	loop := func(n int) error {
		s := newSigner()
		var body []byte
		for i := 0; i < n; i += spec.Batch {
			body = appendBatch(body[:0], events, i, min(spec.Batch, n-i))
			if err := post(client, spec.URL, body, s.sign(body)); err != nil {
				return err
			}
		}
		return nil
	}
	return eventSender{
		send: func(n int) error {
			errs := make([]error, loops)
			var done sync.WaitGroup
			for l := range loops {
				done.Go(func() { errs[l] = loop((n + l) / loops) }) // the shares add up to n
			}
			done.Wait()
			return errors.Join(errs...)
		},
		close: func() error { client.CloseIdleConnections(); return nil },
	}, nil
}

// plainEvent and plainBody are what a program of a few lines would marshal.
type plainEvent struct {
	Name    string `json:"name"`
	Channel string `json:"channel"`
	UserID  string `json:"user_id"`
}

type plainBody struct {
	TimeMS int64        `json:"time_ms"`
	Events []plainEvent `json:"events"`
}

// openPosts opens what many servers do: a goroutine and a POST for every event, here at most 64 at once.
func openPosts(spec sendSpec) (eventSender, error) {
	const atOnce = 64
	client := &http.Client{Transport: tunedTransport(atOnce), Timeout: time.Minute}
	events := newSource()
	one := func(i int) error {
		channel, user := events.event(i)
		body, err := json.Marshal(plainBody{time.Now().UnixMilli(), []plainEvent{{eventType, channel, user}}})
		if err != nil {
			return err
		}
		return post(client, spec.URL, body, newSigner().sign(body))
	}
	return eventSender{
		send: func(n int) error {
			room := make(chan struct{}, atOnce)
			var done sync.WaitGroup
			var mu sync.Mutex
			var failed error
			for i := range n {
				room <- struct{}{}
				done.Go(func() {
					if err := one(i); err != nil {
						mu.Lock()
						failed = err
						mu.Unlock()
					}
					<-room
				})
			}
			done.Wait()
			return failed
		},
		close: func() error { client.CloseIdleConnections(); return nil },
	}, nil
}
