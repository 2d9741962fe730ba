package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A job is what a process of the fleet is told.
type job struct {
	Role string
	Name string
	Dir  string // for a log and a store of its own

	Ports      [2]int // of a server: for clients and for the cluster
	Routes     string // of a server: those of the cluster
	SyncAlways bool

	NATS string  // of nodes and workers: where the servers are
	Apps []int   // of a node: those whose sockets it has
	Run  int     // of a node: how often it was started before
	Rate float64 // of a node: rounds a second
}

const jobVariable = "FLEET_JOB"

// play does the job of a process, until SIGTERM.
func play(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	signal.Ignore(os.Interrupt) // a terminal sends it to all; the first process ends the others
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the first process is gone, however it went
		os.Exit(1)
	}()
	switch j.Role {
	case "server":
		return serve(ctx, j)
	case "node":
		return emit(ctx, j)
	case "worker":
		return work(ctx, j)
	case "receiver":
		return receive(ctx)
	}
	return fmt.Errorf("no such role: %q", j.Role)
}

// ready tells the first process that this one does its job; where says where.
func ready(where string) { fmt.Println("ready", where) }

// A process of the fleet.
type process struct {
	job   job
	where string // as ready has it
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when it has ended
}

// patience is how long a process may take to do what it is asked.
const patience = 40 * time.Second

// start starts a process and returns when it is ready. said gets what it prints then, line by line.
func start(ctx context.Context, j job, said func(line string)) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(j.Dir, j.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{job: j, cmd: exec.Command(self), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		p.stdin, err = p.cmd.StdinPipe()
	}
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	readied := make(chan string, 1)
	go p.follow(stdout, readied, said)
	select {
	case p.where = <-readied:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("%s has ended: %v", j.Name, p.cmd.ProcessState)
	case <-time.After(patience):
		err = fmt.Errorf("%s is not ready after %v", j.Name, patience)
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.kill()
	return nil, err
}

// follow reads what a process prints until it ends.
func (p *process) follow(stdout io.Reader, readied chan<- string, said func(string)) {
	defer close(p.done)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if where, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			readied <- where
		} else if said != nil {
			said(lines.Text())
		}
	}
	_ = p.cmd.Wait() // see ProcessState
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// end has a process end by itself, with SIGTERM.
func (p *process) end() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", p.job.Name, err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // which writes into the log what it is doing
		<-p.done
		return fmt.Errorf("%s has not ended %v after SIGTERM", p.job.Name, patience)
	}
	if !p.cmd.ProcessState.Success() {
		return errors.New(p.job.Name + " has ended with " + p.cmd.ProcessState.String())
	}
	return nil
}
