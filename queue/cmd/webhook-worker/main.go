// Webhook-worker delivers the webhooks of a queue: as many of them as there are share its partitions. Its subcommands look
// after what was given up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `webhook-worker delivers the webhooks of a queue on NATS JetStream. Start as many as you like.

  webhook-worker -nats URL [flags]                  deliver until SIGTERM, then hand over
  webhook-worker partitions -nats URL               who delivers what, and how much waits
  webhook-worker dead ls -nats URL [filters]        what was given up
  webhook-worker dead replay -nats URL [filters]    put it back into the queue
  webhook-worker dead purge -nats URL [filters]     delete it

Each has its flags: webhook-worker dead ls -h. Those of webhook-worker are
`

// Exit codes, as the flag package has them.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitFailed)
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command, args := commandOf(args)
	err := command(ctx, args, stdout, stderr)
	wrong, misused := errors.AsType[usageError](err)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case misused:
		fmt.Fprintf(stderr, "%s: %s\nsee %s -h\n", wrong.command, wrong.text, wrong.command)
		return exitUsage
	}
	fmt.Fprintln(stderr, "webhook-worker:", err)
	return exitFailed
}

// A command is what the program does for some first arguments.
type command func(ctx context.Context, args []string, stdout, stderr io.Writer) error

// commandOf tells a command from its arguments.
func commandOf(args []string) (command, []string) {
	switch {
	case len(args) == 0 || args[0] != "dead" && args[0] != "partitions":
		return work, args
	case args[0] == "partitions":
		return partitions, args[1:]
	case len(args) > 1 && args[1] == "ls":
		return deadList, args[2:]
	case len(args) > 1 && args[1] == "replay":
		return deadReplay, args[2:]
	case len(args) > 1 && args[1] == "purge":
		return deadPurge, args[2:]
	}
	return func(context.Context, []string, io.Writer, io.Writer) error {
		return usageError{"webhook-worker", "dead: say what to do: dead ls, dead replay or dead purge"}
	}, nil
}

// A usageError says what is wrong with the arguments.
type usageError struct{ command, text string }

func (e usageError) Error() string { return e.text }

// arguments are a command's flags. Its checks run when they are parsed.
type arguments struct {
	*flag.FlagSet
	about  string // goes before the flags in the help
	checks []func() error
}

func newArguments(name, about string) *arguments {
	a := &arguments{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), about: about}
	a.SetOutput(io.Discard) // errors are told once, by run
	a.Usage = func() {}
	return a
}

// check has parse return an error, which names the flag and the fix.
func (a *arguments) check(f func() error) { a.checks = append(a.checks, f) }

func (a *arguments) parse(args []string, stdout io.Writer) error {
	err := a.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, a.about, "\n")
		a.SetOutput(stdout)
		a.PrintDefaults()
		return err
	}
	if err == nil && a.NArg() > 0 { // which is not shown: it may be a URL with a password
		err = fmt.Errorf("argument %d belongs to no flag; subcommands come first, and flags behind them", len(args)-a.NArg()+1)
	}
	for i := 0; err == nil && i < len(a.checks); i++ {
		err = a.checks[i]()
	}
	if err != nil {
		return usageError{a.Name(), err.Error()}
	}
	return nil
}
