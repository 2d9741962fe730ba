//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package embedded

import (
	"errors"
	"os"
)

// lock fails: two processes on one directory would destroy it, and nothing here keeps them apart.
func lock(string) (*os.File, error) {
	return nil, errors.New("directories cannot be locked on this platform; connect to a nats-server with queue.Open")
}
