package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// startProfile has a child write a CPU profile if BENCH_PROFILES in the environment names a directory for it.
// The function that it returns ends the profile.
func startProfile(kind string) (stop func() error, err error) {
	dir := os.Getenv("BENCH_PROFILES")
	if dir == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.cpu.prof", kind, os.Getpid())))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}
