package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Every measurement runs in a process of its own, this program started anew, so that its CPU time, its heap
// and its peak memory are its own. It reads what to do from standard input and writes what it measured to
// standard output, both as JSON.

// childTime bounds one measurement.
const childTime = 3 * time.Minute

// measurements are what a child can be asked for.
var measurements = map[string]func(input []byte) (any, error){
	"emit":      task(measureEmit),
	"send":      task(measureSend),
	"growth":    task(measureGrowth),
	"setapp":    task(measureSetApp),
	"subscribe": task(measureSubscribe),
	"latency":   task(measureLatency),
	"failing":   task(measureFailing),
	"waiting":   task(measureWaiting),
	"unstored":  task(measureUnstored),
	"fill":      task(measureFill),
	"start-up":  task(measureStartUp),
	"way":       task(measureWay),
}

// companions serve others' measurements: each in a process of its own that gets a line of JSON, prints a line when it is
// ready, and ends when its input does.
var companions = map[string]func(in io.Reader, out io.Writer) error{
	receiverKind: runReceiver,
	natsKind:     runNATS,
}

func task[In, Out any](measure func(In) (Out, error)) func([]byte) (any, error) {
	return func(input []byte) (any, error) {
		var in In
		if err := json.Unmarshal(input, &in); err != nil {
			return nil, err
		}
		return measure(in)
	}
}

// runChild is main in a child.
func runChild(kind string) error {
	if serve, ok := companions[kind]; ok {
		return serve(os.Stdin, os.Stdout)
	}
	measure, ok := measurements[kind]
	if !ok {
		return fmt.Errorf("unknown measurement %q", kind)
	}
	var input bytes.Buffer
	if _, err := input.ReadFrom(os.Stdin); err != nil {
		return err
	}
	stop, err := startProfile(kind)
	if err != nil {
		return err
	}
	result, err := measure(input.Bytes())
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// measure has a child make one measurement and decodes its result.
func measure[Out any](ctx context.Context, kind string, spec any) (Out, error) {
	var out Out
	input, err := json.Marshal(spec)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	cmd, err := self(ctx, kind)
	if err != nil {
		return out, err
	}
	cmd.Stdin = bytes.NewReader(input)
	return decodeOutput[Out](cmd, fmt.Sprintf("%s %s", kind, input))
}

// decodeOutput runs cmd and decodes what it prints.
func decodeOutput[Out any](cmd *exec.Cmd, what string) (Out, error) {
	var out Out
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w", what, err)
	}
	if err := json.Unmarshal(output, &out); err != nil {
		return out, fmt.Errorf("%s: %w", what, err)
	}
	return out, nil
}

// A companion is such a process as its parent sees it.
type companion struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

func startCompanion(ctx context.Context, kind string, spec any) (*companion, error) {
	cmd, err := self(ctx, kind)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	c := &companion{cmd: cmd}
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.stdout = bufio.NewReader(stdout)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(c.stdin).Encode(spec); err != nil {
		return nil, errors.Join(err, c.stop(nil))
	}
	return c, nil
}

// line is what the process says when it is ready.
func (c *companion) line() (string, error) {
	line, err := c.stdout.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// stop ends the process and decodes what it prints at last, unless result is nil.
func (c *companion) stop(result any) error {
	err := c.stdin.Close()
	if err == nil && result != nil {
		err = json.NewDecoder(c.stdout).Decode(result)
	}
	return errors.Join(err, c.cmd.Wait())
}

func self(ctx context.Context, kind string) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, childArgument, kind)
	cmd.Env = withoutProxies(os.Environ())
	return cmd, nil
}

// withoutProxies makes sure that nothing a contender does by default leads away from the loopback interface.
func withoutProxies(env []string) []string {
	var kept []string
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			kept = append(kept, variable)
		}
	}
	return append(kept, "NO_PROXY=*")
}
