package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fileSystems are those that a directory is likely to be on, by the kernel's numbers for them.
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.TMPFS_MAGIC: "tmpfs, which is no disk",
}

// A disk is what a directory is on.
type disk struct {
	fileSystem string
	sync       series // ns to write 4 KiB to the end of a file and sync it, one after the other
}

func measureDisk(dir string) (d disk, err error) {
	var about unix.Statfs_t
	if err := unix.Statfs(dir, &about); err != nil {
		return d, fmt.Errorf("%s: %w", dir, err)
	}
	d.fileSystem = fileSystems[about.Type]
	if d.fileSystem == "" {
		d.fileSystem = fmt.Sprintf("a file system of type %#x", about.Type)
	}
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return d, err
	}
	defer func() { _ = f.Close() }()
	defer func() { _ = os.Remove(f.Name()) }()
	page := make([]byte, 4<<10)
	for range 200 {
		started := time.Now()
		if _, err := f.Write(page); err != nil {
			return d, err
		}
		if err := f.Sync(); err != nil {
			return d, err
		}
		d.sync = append(d.sync, float64(time.Since(started)))
	}
	return d, nil
}

func (d disk) String() string {
	return fmt.Sprintf("%s, which takes %s µs to write and sync 4 KiB", d.fileSystem, microseconds(d.sync.median()))
}
