package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Of a worker that is alone, as in one process with its only node, events come in order: to remember them would double
// what they cost.
func TestLatenessIsForFleets(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  WorkerConfig
		want time.Duration
	}{
		"a fleet":                   {WorkerConfig{}, 500 * time.Millisecond},
		"a worker that is alone":    {WorkerConfig{Alone: true}, 0},
		"alone, with several nodes": {func() (c WorkerConfig) { c.Alone, c.Lateness = true, time.Second; return c }(), time.Second},
	} {
		require.NoError(t, test.cfg.complete(), name)
		require.Equal(t, test.want, test.cfg.Lateness, name)
	}
}
