package embedded

import "golang.org/x/sys/windows"

// freeBytes is how much may still be written where dir is, or -1 where that is unknown.
func freeBytes(dir string) int64 {
	var free uint64
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil || windows.GetDiskFreeSpaceEx(path, &free, nil, nil) != nil {
		return -1
	}
	return int64(free)
}
