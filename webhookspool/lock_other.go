//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package webhookspool

import (
	"os"
	"path/filepath"
)

// lockDir keeps nobody out here.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
}

// syncDir does nothing: directories cannot be synced everywhere.
func syncDir(string) error { return nil }
