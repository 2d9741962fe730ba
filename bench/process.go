package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used of the cores, in user and in kernel mode, and others with it.
func cpuTime(others ...int) (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	sum := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	for _, pid := range others {
		used, err := cpuTimeOf(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// cpuTimeOf is another process's, as the kernel counts it: in hundredths of a second.
func cpuTimeOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, behind, _ := strings.Cut(string(stat), ") ") // the name, which may hold anything
	var ticks int64
	for _, field := range strings.Fields(behind)[11:13] { // user and system
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
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
