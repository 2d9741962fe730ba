package webhook_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// When an event is too old: RetryFor after it was accepted, while its endpoint fails, and not before.

// busyThenDown takes two minutes for its first Send, and fails from then on.
func busyThenDown(cfg webhook.Config) (webhook.Config, *recorder) {
	cfg.SendTimeout, cfg.RetryFor = time.Hour, time.Minute
	cfg, sent := oneEndpoint(cfg, nil)
	sent.answer = func(context.Context, *webhook.Delivery) error {
		if len(sent.deliveries()) > 1 {
			return errors.New("down")
		}
		time.Sleep(2 * time.Minute)
		return nil
	}
	return cfg, sent
}

func TestSecondFailureInARowGivesUpWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, sent := busyThenDown(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 1, RetryWaitMin: 10 * time.Second})
		d := newDispatcher(t, cfg)
		for i := range 4 {
			emit(t, d, "app", webhook.SubscriptionCount("room", i))
		}
		atTime(2 * time.Minute)
		require.Len(t, sent.deliveries(), 2)
		require.Zero(t, d.Stats().Undelivered, "one failure may be a blip")
		atTime(10 * time.Second)
		require.Len(t, sent.deliveries(), 3)
		require.EqualValues(t, 3, d.Stats().Undelivered, "tried or not")
	})
}

func TestBatchIsAsOldAsItsLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := busyThenDown(webhook.Config{RetryWaitMax: 10 * time.Second})
		d := newDispatcher(t, cfg)
		emit(t, d, "app", webhook.ChannelOccupied("first"))
		atTime(time.Second)
		emit(t, d, "app", webhook.ChannelOccupied("early"))
		atTime(2*time.Minute - time.Second)
		emit(t, d, "app", webhook.ChannelOccupied("late"))
		atTime(50 * time.Second)
		require.EqualValues(t, 2, d.Stats().Pending)
		atTime(20 * time.Second)
		require.EqualValues(t, 2, d.Stats().Undelivered)
	})
}

// While an endpoint fails, what comes in does not make what waits younger.
func TestEventsGrowOldBesideNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		oldest := time.Duration(0)
		cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		cfg.Hooks.Undelivered = func(d *webhook.Delivery, _ error) { oldest = max(oldest, time.Since(d.CreatedAt)) }
		d := newDispatcher(t, cfg)
		for range 1200 {
			emit(t, d, "app", webhook.ChannelOccupied("room"))
			atTime(time.Second)
		}
		require.Greater(t, oldest, 5*time.Minute)
		require.LessOrEqual(t, oldest, 7*time.Minute, "RetryFor, a wait, and another while its batch was open")
		d.Purge("app")
	})
}

func TestRedeliveredIsAsOldAsItsRedeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{}, func(context.Context, *webhook.Delivery) error { return errors.New("down") })
		d := newDispatcher(t, cfg)
		stored := delivery("http://localhost/")
		stored.CreatedAt = time.Now().Add(-time.Hour)
		require.NoError(t, d.Redeliver(stored))
		atTime(5 * time.Minute)
		require.EqualValues(t, 1, d.Stats().Pending)
		atTime(time.Minute)
		require.EqualValues(t, 1, d.Stats().Undelivered)
	})
}

// With a negative RetryFor each batch gets one attempt: no less, if those before it fail, and no more, if it is refused.
func TestNegativeRetryForIsOneAttempt(t *testing.T) {
	for name, err := range map[string]error{"failed": errors.New("down"), "refused": webhook.ErrRefused, "final": webhook.ErrFinal} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, sent := oneEndpoint(webhook.Config{MaxBatchEvents: 2, RetryFor: -1}, func(context.Context, *webhook.Delivery) error { return err })
				d := newDispatcher(t, cfg)
				for _, channel := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
					emit(t, d, "app", webhook.ChannelOccupied(channel))
				}
				atTime(time.Hour)
				require.Equal(t, [][]string{{"a", "b"}, {"c", "d"}, {"e", "f"}, {"g", "h"}}, sent.batches(t))
				require.EqualValues(t, 8, d.Stats().Undelivered)
			})
		})
	}
}

// During Close, what is too old is not given up before what is on the wire before it: Close hands back in order.
func TestCloseKeepsTheOrderOfWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := oneEndpoint(webhook.Config{MaxBatchEvents: 1, MaxInFlight: 2, RetryFor: time.Minute, RetryWaitMax: time.Second, SendTimeout: time.Hour},
			func(ctx context.Context, d *webhook.Delivery) error {
				if channels(t, d.Body)[0] == "slow" {
					return dead(ctx, d)
				}
				time.Sleep(time.Second)
				return errors.New("down")
			})
		d := newDispatcher(t, cfg)
		for i := range 4 {
			emit(t, d, "app", webhook.SubscriptionCount("slow", i))
		}
		atTime(2 * time.Minute)
		emit(t, d, "app", webhook.SubscriptionCount("prompt", 0)) // in the other lane
		synctest.Wait()
		require.Equal(t, 2, d.Endpoints("app")[0].InFlight)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var left *webhook.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		next := 0
		for _, delivery := range left.Deliveries {
			if e := parse(t, delivery.Body).Events[0]; e.Channel == "slow" {
				require.Equal(t, next, e.SubscriptionCount)
				next++
			}
		}
		require.Equal(t, 4, next)
	})
}
