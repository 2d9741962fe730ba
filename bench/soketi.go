package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// soketi's published sender is measured as npm has it, without the rest of its server: what its module needs
// to be loaded is installed, at the versions that its own package asks for. The whole server would need a
// binary that npm does not have.

const soketiPackage = "@soketi/soketi@1.6.1"

//go:embed soketi.js
var soketiScript []byte

// soketi is where the package was installed.
type soketi struct{ dir string }

// prepareSoketi installs the package into the user's cache, once. The error says what is missing.
func prepareSoketi(ctx context.Context) (*soketi, error) {
	for _, tool := range []string{"node", "npm", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not installed", tool)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	s := &soketi{filepath.Join(cache, "webhook-bench", "soketi-1.6.1")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "soketi.js"), soketiScript, 0o644); err != nil {
		return nil, err
	}
	installed := filepath.Join(s.dir, "installed")
	if _, err := os.Stat(installed); err == nil {
		return s, nil
	}
	if err := s.install(ctx); err != nil {
		return nil, err
	}
	return s, os.WriteFile(installed, nil, 0o644)
}

func (s *soketi) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.run(ctx, "npm", "pack", "--silent", soketiPackage); err != nil {
		return err
	}
	if err := s.run(ctx, "tar", "-xzf", "soketi-soketi-1.6.1.tgz"); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(s.dir, "package", "package.json"))
	if err != nil {
		return err
	}
	var wants struct{ Dependencies map[string]string }
	if err := json.Unmarshal(manifest, &wants); err != nil {
		return err
	}
	args := []string{"install", "--prefix", ".", "--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"}
	for _, name := range []string{"async", "aws-sdk", "axios", "colors", "pusher", "uuid"} { // what webhook-sender.js leads to
		args = append(args, name+"@"+wants.Dependencies[name])
	}
	return s.run(ctx, "npm", args...)
}

func (s *soketi) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.dir
	if _, err := cmd.Output(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
			return fmt.Errorf("%s %s failed: %s", name, args[0], exit.ProcessState)
		}
		return fmt.Errorf("%s %s: %w", name, args[0], errors.Join(err, ctx.Err()))
	}
	return nil
}

// send has node send the events of spec.
func (s *soketi) send(ctx context.Context, spec sendSpec) (sendResult, error) {
	input, err := json.Marshal(struct {
		sendSpec
		Key, Secret, Type string
		Names             int
	}{spec, appKey, appSecret, eventType, eventNames})
	if err != nil {
		return sendResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--no-warnings", "soketi.js", string(input))
	cmd.Dir = s.dir
	cmd.Env = append(withoutProxies(os.Environ()), "AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE=1")
	return decodeOutput[sendResult](cmd, "soketi")
}
