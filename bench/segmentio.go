package main

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	analytics "gopkg.in/segmentio/analytics-go.v3"
)

// nullTransport accepts every request without sending it.
type nullTransport struct{}

func (nullTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Body.Close(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}

// analyticsCounts is segmentio's callback and its logger.
type analyticsCounts struct{ sent, failed atomic.Int64 }

func (c *analyticsCounts) Success(analytics.Message)        { c.sent.Add(1) }
func (c *analyticsCounts) Failure(analytics.Message, error) { c.failed.Add(1) }
func (c *analyticsCounts) Logf(string, ...any)              {}
func (c *analyticsCounts) Errorf(string, ...any)            {} // Failure tells as much

func newAnalytics(url string, transport http.RoundTripper, counts *analyticsCounts) (analytics.Client, error) {
	return analytics.NewWithConfig(appKey, analytics.Config{
		Endpoint:  url,
		Transport: transport,
		Interval:  50 * time.Millisecond, // as webhook's window
		BatchSize: analytics.DefaultBatchSize,
		Callback:  counts,
		Logger:    counts,
	})
}

func track(channel, user string) analytics.Track {
	return analytics.Track{Event: eventType, UserId: user, Properties: analytics.Properties{"channel": channel}}
}

func openSegmentio(c emitCase) (emitter, error) {
	counts := &analyticsCounts{}
	clients := make([][]analytics.Client, c.apps())
	for a := range clients {
		for range c.Copies {
			client, err := newAnalytics("http://127.0.0.1", nullTransport{}, counts)
			if err != nil {
				return emitter{}, err
			}
			clients[a] = append(clients[a], client)
		}
	}
	events := newSource()
	return emitter{
		emit: func(worker, i int) error {
			message := track(events.event(i))
			for _, client := range clients[c.app(worker)] {
				if err := client.Enqueue(message); err != nil {
					return err
				}
			}
			return nil
		},
		lost: func(int) int { return int(counts.failed.Load()) },
	}, nil
}

// openSegmentioSender opens segmentio's client against a real receiver. Its channel of 100 messages blocks
// Enqueue, so it needs no other back-pressure.
func openSegmentioSender(spec sendSpec) (eventSender, error) {
	counts := &analyticsCounts{}
	client, err := newAnalytics(spec.URL, tunedTransport(1000), counts) // it makes up to 1000 requests at once
	if err != nil {
		return eventSender{}, err
	}
	events := newSource()
	enqueued := int64(0)
	return eventSender{
		send: func(n int) error {
			for i := range n {
				if err := client.Enqueue(track(events.event(i))); err != nil {
					return err
				}
			}
			enqueued += int64(n)
			for deadline := time.Now().Add(childTime); counts.sent.Load()+counts.failed.Load() < enqueued; {
				if time.Now().After(deadline) {
					return errors.New("segmentio: events neither sent nor failed")
				}
				time.Sleep(100 * time.Microsecond)
			}
			return nil
		},
		close: client.Close,
	}, nil
}
