package vcs

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/internal/descriptors"
	"github.com/assay-proxy/assay/internal/memory"
)

// watchEvery is how often the size of a clone is measured while a command works in it.
const watchEvery = 2 * time.Second

// programs runs the go command and the version control systems.
type programs struct {
	home     *home
	maxBytes int64 // of a clone
	children *children

	goCommand, goVersion string
	git                  string // "" if it is not among the systems
	missing              error  // why no module can be fetched on this machine, nil if modules can
}

// find looks for the go command and the systems that it needs.
func (p *programs) find(systems []string) error {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("%w: no go command in PATH", ErrTools)
	}
	for _, system := range systems {
		program, err := exec.LookPath(system)
		if err != nil {
			return fmt.Errorf("%w: no %s in PATH", ErrTools, system)
		}
		if system == "git" {
			p.git = program
		}
	}
	if p.goCommand, err = filepath.Abs(goCommand); err != nil {
		return fmt.Errorf("%w: %w", ErrTools, err)
	}
	return nil
}

// askVersion returns the version of the go command, and an error if it does not work as
// this package needs it.
func (p *programs) askVersion() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	env := append(p.home.environment(), "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=", "GOCACHE="+p.home.goCache())
	out, err := p.run(ctx, command{program: p.goCommand, args: []string{"env", "-json", "GOVERSION"}, env: env, dir: p.home.empty()})
	if err != nil {
		return "", fmt.Errorf("%w: go env: %w", ErrTools, err)
	}
	var answer struct{ GOVERSION string }
	if err := decodeOne(out, &answer); err != nil {
		return "", err
	}
	return answer.GOVERSION, nil
}

// command is one run of a program.
type command struct {
	program   string
	args, env []string
	dir       string // whose size is watched
}

// run runs a command and returns its output. It ends with its whole process group when ctx
// does, or when its dir exceeds the space for all clones.
func (p *programs) run(ctx context.Context, c command) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, c.program, c.args...)
	out, errOut := &limited{limit: maxOutput, over: cancel, held: memory.HoldOf(ctx)}, &limited{limit: maxStderr}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, p.home.empty(), out, errOut
	cmd.WaitDelay = 5 * time.Second // for pipes that a child keeps open
	ownGroup(cmd)
	watched := p.watch(ctx, c.dir, cancel)
	err := p.children.run(cmd)
	endGroup(cmd)
	cancel(nil)
	<-watched
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return out.Bytes(), cause
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return out.Bytes(), &exited{exit.ExitCode(), errOut.String()}
	}
	if descriptors.Exhausted(err) {
		return out.Bytes(), err // no fault of the program
	}
	if err != nil {
		return out.Bytes(), fmt.Errorf("%w: %w", ErrTools, err)
	}
	return out.Bytes(), nil
}

// watch ends the command, through cancel, when dir exceeds the space for all clones. The
// channel is closed when watch has ended, with ctx.
func (p *programs) watch(ctx context.Context, dir string, cancel context.CancelCauseFunc) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if size := sizeOf(dir); size > p.maxBytes {
					cancel(fmt.Errorf("%w: more than %d bytes", ErrTooLarge, p.maxBytes))
				}
			}
		}
	}()
	return done
}
