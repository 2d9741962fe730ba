//go:build darwin || dragonfly || freebsd || linux

package embedded

import "syscall"

// freeBytes is how much may still be written where dir is, or -1 where that is unknown.
func freeBytes(dir string) int64 {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
