package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"
)

// startProfile has a child write profiles of CPU, allocations, mutexes and blocking if BENCH_PROFILES in the
// environment names a directory for them. To take them costs time, so figures measured meanwhile are of no use. The
// function that it returns ends the profiles.
func startProfile(kind string) (stop func() error, err error) {
	dir := os.Getenv("BENCH_PROFILES")
	if dir == "" {
		return func() error { return nil }, nil
	}
	create := func(profile string) (*os.File, error) {
		return os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.%s.prof", kind, os.Getpid(), profile)))
	}
	cpu, err := create("cpu")
	if err != nil {
		return nil, err
	}
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(int(time.Microsecond))
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		err := cpu.Close()
		for _, name := range []string{"allocs", "mutex", "block"} {
			file, createErr := create(name)
			if err = errors.Join(err, createErr); createErr == nil {
				err = errors.Join(err, pprof.Lookup(name).WriteTo(file, 0), file.Close())
			}
		}
		return err
	}, nil
}
