package vcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/vcs/credential"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// job is one go command about one module.
type job struct {
	module string // path
	what   string // the module with what is asked of it, for errors
	reach  Reach
	args   []string // of the go command; what comes from outside stands behind --
}

const (
	maxOutput = 4 << 20 // of a command: a list of 100,000 versions
	maxStderr = 64 << 10

	// More output than smallOutput is taken from Config.Memory, outputCopies times:
	// its buffer, which is copied when it grows, and what is made of it.
	smallOutput  = 64 << 10
	outputCopies = 4

	// watchEvery is how often the size of a repository that is being fetched is
	// looked at.
	watchEvery = 2 * time.Second
)

// errOutput says that a command printed more than can be meant.
var errOutput = errors.New("too much output")

// run runs the go command for j, and use on what it printed while the files it has
// made are there.
func (s *Source) run(ctx context.Context, j job, use func(out []byte, place Place) error) error {
	if s.tools != nil {
		return &Error{Module: j.what, Err: s.tools}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.Timeout, context.DeadlineExceeded)
	defer cancel()
	held := s.config.Memory.HoldFor(ctx)
	defer held.Free()
	ctx = held.Context(ctx)
	begin := time.Now()
	err := s.runResolved(ctx, j, use)
	s.metrics.observe(j.args[0], err, time.Since(begin))
	return err
}

// runResolved finds the repository and waits for its turn. What it says of a failure
// says too where the module is.
func (s *Source) runResolved(ctx context.Context, j job, use func(out []byte, place Place) error) error {
	repo, err := s.resolve(ctx, j)
	if err != nil {
		return s.explain(ctx, j, nil, err)
	}
	place := s.placeOf(j, repo)
	leave, err := s.running.enter(ctx, repo.url.Hostname())
	if err != nil {
		return at(place, s.explain(ctx, j, repo, err))
	}
	defer leave()
	auth, err := s.credentials.Find(ctx, j.module, j.reach, repo.url)
	if err != nil {
		return at(place, s.explain(ctx, j, repo, err))
	}
	place.Credential = place.Credential || auth != nil // its file may have changed just now
	err = s.runAt(ctx, &goRun{source: s, job: j, repo: repo, auth: auth}, func(out []byte, redirected string) error {
		place.Redirected = redirected
		return use(out, place)
	})
	return at(place, err)
}

// at says in err, from explain, where the module is.
func at(place Place, err error) error {
	var told *Error
	if errors.As(err, &told) {
		told.Place = place
	}
	return err
}

// runAt is runResolved of a run whose repository is known.
func (s *Source) runAt(ctx context.Context, r *goRun, use func(out []byte, redirected string) error) (err error) {
	j, repo, auth := r.job, r.repo, r.auth
	if r.keyless() {
		s.found.forget(j)
		return s.explain(ctx, j, repo, fmt.Errorf("%w: no ssh_key is configured for this host", ErrCredential))
	}
	if err := s.network.Check(ctx, r.remote(), j.reach); err != nil {
		s.found.forget(j) // perhaps its page gets better
		return s.explain(ctx, j, repo, err)
	}
	// Commands for one repository would wait for each other's locks anyway, and
	// take places meanwhile.
	var unlock func()
	r.dir, unlock, err = r.takeCopy(ctx, copyName(repo, j.reach, auth))
	if err != nil {
		return s.explain(ctx, j, repo, err)
	}
	defer unlock()
	release, err := r.takePlace(ctx)
	if err != nil {
		return s.explain(ctx, j, repo, err)
	}
	defer release()
	return r.inPlace(ctx, use)
}

// inPlace runs the command, in the directory of the repository, and tidies up.
func (r *goRun) inPlace(ctx context.Context, use func(out []byte, redirected string) error) error {
	s := r.source
	s.metrics.running.Inc()
	defer s.metrics.running.Dec()
	err := r.do(ctx, use)
	if r.mend(ctx, err) {
		err = r.do(ctx, use)
	}
	if err != nil {
		s.found.forget(r.job) // perhaps it has moved
		err = r.explain(ctx, err)
		if errors.Is(err, ErrCredential) {
			r.auth.Rejected()
		}
	}
	s.metrics.evicted.Add(float64(s.repos.tidy(r.dir)))
	s.metrics.cacheBytes.Set(float64(s.repos.size()))
	return err
}

// goRun is one run of the go command, in the directory of a repository.
type goRun struct {
	source *Source
	job    job
	repo   *repository
	auth   *credential.Auth
	dir    string // GOMODCACHE
}

// do runs the command once; use may be called again when mend has made a second try
// worth while.
func (r *goRun) do(ctx context.Context, use func(out []byte, redirected string) error) error {
	if err := r.source.prepareHome(); err != nil { // its files may have been removed
		return err
	}
	if err := os.MkdirAll(r.temp(), 0o700); err != nil {
		return ownTrouble("directory of a repository", err)
	}
	env, done, err := r.environment(ctx)
	if err != nil {
		return err
	}
	defer done()
	r.update(ctx, env)
	out, err := r.source.exec(ctx, r.source.goCommand, r.job.args, env, r.dir)
	if len(bytes.TrimSpace(out)) == 0 && err == nil {
		err = &reported{text: "no output"}
	}
	if len(bytes.TrimSpace(out)) == 0 || ctx.Err() != nil || errors.Is(err, ErrTooLarge) {
		return err
	}
	return use(out, redirected(r.trace())) // with -json the output says what went wrong
}

// trace is the file to which each git of the run adds its events.
func (r *goRun) trace() string { return filepath.Join(r.dir, "trace") }
func (r *goRun) temp() string  { return filepath.Join(r.dir, "tmp") }

// environment returns all that the go command sees of ours, and what must be called
// when it has ended.
func (r *goRun) environment(ctx context.Context) (env []string, done func(), err error) {
	s := r.source
	host := r.repo.url.Host
	if r.repo.url.Port() == "" {
		host += ":443"
	}
	forGo, revokeGo := s.door.admit(pass{repo: r.repo, reach: r.job.reach})
	forGit, revokeGit := s.door.admit(pass{repo: r.repo, reach: r.job.reach, git: true, host: host})
	done = func() { revokeGo(); revokeGit() }
	env = append(s.baseEnvironment(),
		"GOMODCACHE="+r.dir, "GOPATH="+r.temp(), "TMPDIR="+r.temp(), "TMP="+r.temp(), "TEMP="+r.temp(),
		"GOCACHE="+filepath.Join(s.home(), "gocache"), "GOENV=off", "GOFLAGS=-mod=mod -modcacherw", "GO111MODULE=on",
		"GOWORK=off", "GOPROXY=direct", "GOSUMDB=off", "GOTOOLCHAIN=local", "GOAUTH=off",
		"GOVCS=*:"+strings.Join(s.config.Systems, "|"),
		"HTTP_PROXY="+forGo, "HTTPS_PROXY="+forGo,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never",
		"GIT_TRACE2_EVENT="+r.trace())
	if !r.repo.static {
		// The page that says where the repository is comes from our door, which
		// has no certificate.
		env = append(env, "GOINSECURE="+r.repo.root)
	}
	settings := gitSettings(r.remote().Scheme, forGit)
	if s.roots != "" {
		// The file has all of them: in a directory git would look for more.
		settings = append(settings, [2]string{"http.sslCAInfo", s.roots}, [2]string{"http.sslCAPath", s.emptyDir()})
	}
	switch {
	case r.remote().Scheme == "ssh":
		command, err := s.sshCommand(ctx, r)
		if err != nil {
			done()
			return nil, nil, err
		}
		env = append(env, "GIT_SSH_COMMAND="+command, "GIT_SSH_VARIANT=ssh")
		if remote := r.remote().String(); remote != r.repo.url.String() {
			settings = append(settings, [2]string{"url." + remote + ".insteadOf", r.repo.url.String()})
			if short, ok := strings.CutSuffix(r.repo.url.String(), "."+r.repo.system); ok && r.repo.static {
				// Of a path with .git in it the go command makes a URL without.
				settings = append(settings, [2]string{"url." + remote + ".insteadOf", short})
			}
		}
	case r.auth != nil && r.auth.Header != "":
		settings = append(settings, [2]string{"http." + r.repo.url.Scheme + "://" + r.repo.url.Host + "/.extraHeader", "Authorization: " + r.auth.Header})
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, setting := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, setting[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, setting[1]))
	}
	return env, done, nil
}

// baseEnvironment is what any program needs to run at all.
func (s *Source) baseEnvironment() []string {
	env := []string{"HOME=" + s.home(), "XDG_CONFIG_HOME=" + filepath.Join(s.home(), ".config"), "LANG=C", "LC_ALL=C"}
	names := []string{"PATH"}
	if runtime.GOOS == "windows" {
		names = append(names, "SYSTEMROOT", "PATHEXT", "COMSPEC")
	}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// gitSettings are git's whole configuration. It speaks the one protocol of the remote:
// where https fails, the go command would try ssh, as the user of this machine and to
// whatever address the name then has.
func gitSettings(scheme, proxy string) [][2]string {
	return [][2]string{
		{"protocol.allow", "never"}, {"protocol." + scheme + ".allow", "always"},
		{"http.proxy", proxy}, {"http.proxyAuthMethod", "basic"}, {"http.followRedirects", "initial"},
		{"http.lowSpeedLimit", "1"}, {"http.lowSpeedTime", "60"},
		{"credential.helper", ""}, {"core.askPass", ""}, {"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"},
		{"fetch.recurseSubmodules", "false"}, {"submodule.recurse", "false"}, {"transfer.bundleURI", "false"},
		{"init.templateDir", ""}, // examples of hooks, in each copy
		// What is left running would be ended in the middle of it.
		{"gc.autoDetach", "false"}, {"maintenance.autoDetach", "false"},
	}
}

// exec runs a program and returns what it printed. It ends with its whole process
// group when ctx does, or when dir outgrows the space for all repositories.
func (s *Source) exec(ctx context.Context, program string, args, env []string, dir string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, program, args...)
	out, errOut := &limited{limit: maxOutput, over: cancel, held: memory.HoldOf(ctx)}, &limited{limit: maxStderr}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, s.emptyDir(), out, errOut
	cmd.WaitDelay = 5 * time.Second // for pipes that a child keeps open
	ownGroup(cmd)
	watched := s.watch(ctx, dir, cancel)
	err := s.children.run(cmd)
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
	if guard.IsExhausted(err) {
		return out.Bytes(), err // no fault of the program
	}
	if err != nil {
		return out.Bytes(), fmt.Errorf("%w: %v", ErrTools, err) // its absence is not the module's
	}
	return out.Bytes(), nil
}

// exited is a program that ended with a status other than 0.
type exited struct {
	code   int
	stderr string
}

func (e *exited) Error() string { return e.stderr }

// watch ends what runs, through cancel, when dir takes more than the space for all
// repositories. What it returns is closed when it has ended, with ctx.
func (s *Source) watch(ctx context.Context, dir string, cancel context.CancelCauseFunc) <-chan struct{} {
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
				if size := sizeOf(dir); size > s.config.MaxBytes {
					cancel(fmt.Errorf("%w: more than %d bytes", ErrTooLarge, s.config.MaxBytes))
				}
			}
		}
	}()
	return done
}

// limited is a buffer that drops what is over its limit.
type limited struct {
	bytes.Buffer
	limit int
	over  context.CancelCauseFunc // is told errOutput or memory.ErrFull; nil: what is over is dropped in silence
	held  *memory.Hold            // with over
}

func (l *limited) Write(p []byte) (int, error) {
	room := max(0, l.limit-l.Len())
	if need := l.Len() + min(room, len(p)); l.over != nil && need > smallOutput {
		if err := l.held.Try(outputCopies * int64(need)); err != nil {
			l.over(err)
			return len(p), nil
		}
	}
	l.Buffer.Write(p[:min(room, len(p))])
	if len(p) > room && l.over != nil {
		l.over(errOutput)
	}
	return len(p), nil
}

// decodeOne decodes the one JSON value that out must be.
func decodeOne(out []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(out))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: output of the go command: %w", ErrTools, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: output of the go command: more than one value", ErrTools)
	}
	return nil
}

// askVersion returns the version of the go command, and an error if it cannot do
// what is asked of it here.
func (s *Source) askVersion() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	env := append(s.baseEnvironment(), "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=", "GOCACHE="+filepath.Join(s.home(), "gocache"))
	out, err := s.exec(ctx, s.goCommand, []string{"env", "-json", "GOVERSION"}, env, s.emptyDir())
	if err != nil {
		return "", fmt.Errorf("%w: go env: %w", ErrTools, err)
	}
	var answer struct{ GOVERSION string }
	if err := decodeOne(out, &answer); err != nil {
		return "", err
	}
	return answer.GOVERSION, nil
}
