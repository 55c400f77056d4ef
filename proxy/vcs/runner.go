package vcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// runner runs the go command: it finds the repository, waits for the clone and for a
// place, and explains failures.
type runner struct {
	config   Config
	metrics  *metrics
	network  *guard.Network
	asker    *asker
	resolver *resolver
	programs *programs
	ssh      *sshClient
	proxy    *gitProxy // nil if programs are missing
	clones   *clones

	hosts            hostLimit // current runs
	downloads, lists slots
}

// do runs the go command for j, and calls use with its output while the files that it
// created exist. use may be called again if the clone was damaged.
func (r *runner) do(ctx context.Context, j job, use func(out []byte, place Place) error) error {
	if r.programs.missing != nil {
		return &Error{Module: j.what, Err: r.programs.missing}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.config.Timeout, context.DeadlineExceeded)
	defer cancel()
	held := r.config.Memory.HoldFor(ctx)
	defer held.Free()
	ctx = held.Context(ctx)
	begin := time.Now()
	ctx, span := spans.Begin(ctx, spans.Command, j.args[0])
	err := r.resolve(ctx, j, use)
	outcome := outcomeOf(err)
	r.metrics.observe(j.args[0], outcome, time.Since(begin))
	span.End(outcome, outcome != "ok" && outcome != "not_found")
	return err
}

// resolve finds the repository and the credential, and runs the command there. Its errors
// have the place of the module.
func (r *runner) resolve(ctx context.Context, j job, use func(out []byte, place Place) error) error {
	repo, err := r.resolver.resolve(ctx, j)
	if err != nil {
		return r.error(ctx, target{job: j}, err)
	}
	t, place := target{job: j, repo: repo}, r.resolver.place(j, repo)
	leave, err := r.hosts.enter(ctx, repo.url.Hostname())
	if err != nil {
		return at(place, r.error(ctx, t, err))
	}
	defer leave()
	if t.auth, err = r.asker.credentials.Find(ctx, j.module, j.reach, repo.url); err != nil {
		return at(place, r.error(ctx, t, err))
	}
	place.Credential = place.Credential || t.auth != nil // its file may have changed just now
	err = r.enter(ctx, t, func(out []byte, redirected string) error {
		place.Redirected = redirected
		return use(out, place)
	})
	return at(place, err)
}

// enter checks the host, and waits for the clone and for a place.
func (r *runner) enter(ctx context.Context, t target, use func(out []byte, redirected string) error) error {
	if t.lacksKey() {
		r.resolver.forget(t.job)
		return r.error(ctx, t, fmt.Errorf("%w: no ssh_key is configured for this host", ErrCredential))
	}
	if err := r.network.Check(ctx, t.remote(), t.job.reach); err != nil {
		r.resolver.forget(t.job) // its page may be corrected
		return r.error(ctx, t, err)
	}
	// The clone comes first: commands for one repository would wait for each other's locks
	// anyway, and occupy places meanwhile.
	dir, unlock, err := r.takeClone(ctx, t)
	if err != nil {
		return r.error(ctx, t, err)
	}
	defer unlock()
	release, err := r.takePlace(ctx, t)
	if err != nil {
		return r.error(ctx, t, err)
	}
	defer release()
	return r.inPlace(ctx, r.newRun(t, dir), use)
}

// listPatience is how long a list waits for the clone of its repository.
const listPatience = 2 * time.Second

// errCloneBusy says that the time is over.
var errCloneBusy = errors.New("the clone is in use")

// takeClone waits for the clone of t. A list does not wait for a download, which may take
// minutes: while the clone is in use for longer, lists have a second one.
func (r *runner) takeClone(ctx context.Context, t target) (dir string, release func(), err error) {
	name := cloneName(t)
	if !t.job.isList() {
		return r.clones.take(ctx, name)
	}
	soon, cancel := context.WithTimeoutCause(ctx, listPatience, errCloneBusy)
	defer cancel()
	if dir, release, err = r.clones.take(soon, name); errors.Is(err, errCloneBusy) {
		return r.clones.take(ctx, name+"-lists")
	}
	return dir, release, err
}

// takePlace waits for a place.
func (r *runner) takePlace(ctx context.Context, t target) (release func(), err error) {
	p := &r.downloads
	if t.job.isList() {
		p = &r.lists
	}
	return p.take(ctx, bounds(t, r.config.Jobs))
}

func (r *runner) newRun(t target, dir string) *run {
	hide := &redactor{dir: r.config.Dir, proxy: r.proxy.address()}
	if t.auth != nil {
		hide.secrets = t.auth.Secrets
	}
	return &run{
		target:   t,
		clone:    &clone{programs: r.programs, dir: dir, host: t.host(), redact: hide, log: r.config.Logger},
		programs: r.programs, proxy: r.proxy, ssh: r.ssh, asker: r.asker, systems: r.config.Systems, log: r.config.Logger,
	}
}

// inPlace runs the command, a second time if the clone was damaged, and tidies up.
func (r *runner) inPlace(ctx context.Context, run *run, use func(out []byte, redirected string) error) error {
	r.metrics.running.Inc()
	defer r.metrics.running.Dec()
	err := r.once(ctx, run, use)
	if run.target.repo.system == "git" && run.clone.repair(ctx, run.target.job, err) {
		err = r.once(ctx, run, use)
	}
	if err != nil {
		r.resolver.forget(run.target.job) // the repository may have moved
		err = run.explain(ctx, err)
		if errors.Is(err, ErrCredential) {
			run.target.auth.Rejected()
		}
	}
	r.metrics.evicted.Add(float64(r.clones.tidy(run.clone.dir)))
	r.metrics.cacheBytes.Set(float64(r.clones.size()))
	return err
}

// once runs the command once.
func (r *runner) once(ctx context.Context, run *run, use func(out []byte, redirected string) error) error {
	if err := r.programs.home.prepare(); err != nil {
		return err
	}
	if err := os.MkdirAll(run.temp(), 0o700); err != nil {
		return fmt.Errorf("directory of a repository: %w", err)
	}
	env, done, err := run.environment(ctx)
	if err != nil {
		return err
	}
	defer done()
	if run.target.repo.system == "git" {
		run.clone.update(ctx, run.target.job, env)
	}
	out, err := r.programs.run(ctx, command{program: r.programs.goCommand, args: run.target.job.args, env: env, dir: run.clone.dir})
	if len(bytes.TrimSpace(out)) == 0 && err == nil {
		err = &reported{text: "no output"}
	}
	if len(bytes.TrimSpace(out)) == 0 || ctx.Err() != nil || errors.Is(err, ErrTooLarge) {
		return err
	}
	return use(out, redirected(run.trace())) // with -json the output contains the error
}

// error returns err as the Error of a fetch.
func (r *runner) error(ctx context.Context, t target, err error) error {
	host := ""
	if t.repo != nil {
		host = t.host()
	}
	return newError(ctx, r.config.Logger, t.job.what, host, err)
}
