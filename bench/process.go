package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used of the cores, in user and in kernel mode.
func cpuTime() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// threadTime is what this thread has used of the cores. A goroutine that asks twice has to be locked to its thread.
func threadTime() (time.Duration, error) {
	var used unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used)
	return time.Duration(used.Nano()), err
}

// peakMemory is the most that this process has had resident, in bytes. The kernel's status file is asked
// first, for getrusage's figure may be the parent's, inherited when the process was started.
func peakMemory() (int64, error) {
	peak, err := statusBytes("VmHWM")
	if err == nil {
		return peak, nil
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return usage.Maxrss << 10, nil
}

// residentMemory is what this process has resident now, in bytes.
func residentMemory() (int64, error) { return statusBytes("VmRSS") }

// statusBytes reads a field of the kernel's status file.
func statusBytes(field string) (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, field+": %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no %s", field)
}

// held is the memory in use after a collection, stacks included.
func held() float64 {
	runtime.GC()
	runtime.GC() // the first empties the pools, the second frees what they held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
