package embedded

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// streamState asks the engine itself.
func streamState(t *testing.T, l *Local, name string) jetstream.StreamState {
	t.Helper()
	js, err := jetstream.New(l.nc)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	require.NoError(t, err)
	return stream.CachedInfo().State
}
