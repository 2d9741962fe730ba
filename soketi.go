package webhook

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// ConfigFromEnv reads soketi's environment: WEBHOOKS_BATCHING (true or false) and
// WEBHOOKS_BATCHING_DURATION (milliseconds). The same names with the prefix SOKETI_, as soketi 1.x has them,
// win where both are set. As in soketi, batching is off unless it is enabled there; the default Config, on the
// other hand, has it on.
func ConfigFromEnv() (Config, error) {
	var cfg Config
	var errs []error
	batching := false
	if name, value := soketiEnv("WEBHOOKS_BATCHING"); value != "" {
		var err error
		if batching, err = strconv.ParseBool(value); err != nil {
			errs = append(errs, fmt.Errorf("webhook: %s: must be true or false, got %q", name, value))
		}
	}
	if !batching {
		cfg.MaxBatchEvents = 1
	}
	if name, value := soketiEnv("WEBHOOKS_BATCHING_DURATION"); value != "" {
		ms, err := strconv.ParseFloat(value, 64)
		if err != nil || !(ms >= 0 && ms <= maxBatchingDuration) {
			errs = append(errs, fmt.Errorf("webhook: %s: must be a number of milliseconds from 0 to %d, got %q",
				name, maxBatchingDuration, value))
		}
		cfg.BatchWindow = max(time.Millisecond, time.Duration(ms*float64(time.Millisecond))) // 0 is 1, as in Node's setTimeout
	}
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	return cfg, nil
}

// maxBatchingDuration is what Node's setTimeout takes at the most, in milliseconds.
const maxBatchingDuration = 1<<31 - 1

// soketiEnv returns the variable that is set, the prefixed one first, and its value.
func soketiEnv(name string) (string, string) {
	if value := os.Getenv("SOKETI_" + name); value != "" {
		return "SOKETI_" + name, value
	}
	return name, os.Getenv(name)
}
