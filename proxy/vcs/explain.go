package vcs

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// What the go command and git say when something goes wrong is prose, in the words
// of the day. What it was is found out otherwise: git says in its trace
// (GIT_TRACE2_EVENT, JSON) whether the last of its processes that went to the
// network failed, and if so the host is asked once more, by us.

// explain makes err what a caller is told.
func (s *Source) explain(ctx context.Context, j job, repo *repository, err error) error {
	var (
		told *Error
		host *guard.HostError
	)
	if err == nil || errors.As(err, &told) {
		return err
	}
	e := &Error{Module: j.what, Err: err}
	if repo != nil {
		e.Host = repo.url.Host
	}
	if errors.As(err, &host) {
		e.Host, e.Err = host.Host, host.Err
	}
	if cause := context.Cause(ctx); cause != nil {
		e.Err = cause
	}
	s.logUnreachable(e.Module, e.Host, e.Err)
	return e
}

// explain finds out what an error of the go command means.
func (r *goRun) explain(ctx context.Context, err error) error {
	var (
		said   *reported
		status *exited
	)
	if errors.As(err, &status) {
		said = &reported{text: status.stderr}
	}
	if said == nil && !errors.As(err, &said) || ctx.Err() != nil {
		return r.source.explain(ctx, r.job, r.repo, err)
	}
	detail := r.clean(said.text)
	r.source.log.Info("go command failed", "module", r.job.what, "host", r.repo.url.Host, "said", detail)
	err = r.meaning(ctx)
	if err == nil {
		err = fs.ErrNotExist
	} else if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCredential) {
		detail = "" // it says no more, in words of git
	}
	e := r.source.explain(ctx, r.job, r.repo, err)
	var told *Error
	if errors.As(e, &told) {
		told.Detail = detail
	}
	return e
}

// meaning returns what was wrong, nil if nothing was but that the repository does
// not have what was asked for.
func (r *goRun) meaning(ctx context.Context) error {
	if err := roomLeft(r.dir); err != nil {
		return err
	}
	if err := localFailure(r.trace()); err != nil {
		return err
	}
	if r.repo.system == "git" && lastTransfer(r.trace()) == transferWorked {
		return nil
	}
	if err := r.probe(ctx); err != nil {
		return err
	}
	if r.repo.system == "git" && lastTransfer(r.trace()) == transferFailed {
		return fmt.Errorf("%w: the transfer was interrupted", ErrUnavailable)
	}
	return nil
}

// roomLeft returns the error of writing a little file.
func roomLeft(dir string) error {
	f, err := os.CreateTemp(dir, "room")
	if err != nil {
		return ownTrouble("directory of a repository", err)
	}
	_, err = f.Write(make([]byte, 256<<10))
	err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return nil
}

// probe asks the host itself about the repository: nil if it is there.
func (r *goRun) probe(ctx context.Context) error {
	if r.remote().Scheme == "ssh" {
		return r.source.probeSSH(ctx, r)
	}
	u := *r.repo.url
	u.Path = strings.TrimSuffix(u.Path, "/")
	if r.repo.system == "git" {
		u.Path, u.RawPath, u.RawQuery = u.Path+"/info/refs", "", "service=git-upload-pack"
	}
	resp, err := r.source.ask(ctx, r.job, &u)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if to := resp.Request.URL.Host; to != u.Host {
		return &guard.HostError{Host: u.Host, Err: fmt.Errorf("%w: the repository redirects to %.100q; the go-import page must name that host", ErrForbidden, to)}
	}
	if err := guard.StatusError(resp.StatusCode); err != nil {
		if r.auth == nil && errors.Is(err, ErrCredential) {
			err = fmt.Errorf("%w: no credential is configured for this host", err)
		}
		return &guard.HostError{Host: r.repo.url.Host, Err: fmt.Errorf("status %d: %w", resp.StatusCode, err)}
	}
	return nil
}

// transfer is how the last git process ended that went to the network.
type transfer uint8

const (
	transferNone transfer = iota
	transferWorked
	transferFailed
)

// lastTransfer reads git's trace.
func lastTransfer(trace string) transfer {
	all := slices.DeleteFunc(gitProcesses(trace), func(p gitProcess) bool { return !p.transfers() })
	if len(all) == 0 {
		return transferNone
	}
	last := slices.MaxFunc(all, func(a, b gitProcess) int { return cmp.Compare(a.start, b.start) })
	if last.code == 0 {
		return transferWorked
	}
	return transferFailed
}

// localFailure returns the error of a git process that did not go to the network, and
// was killed, as the kernel does for want of memory, or could not make a zip of a commit
// that is there.
func localFailure(trace string) error {
	for _, p := range gitProcesses(trace) {
		switch {
		case p.command == "" || p.transfers():
		case p.code == killed:
			return fmt.Errorf("%w: git %s was killed", ErrTools, p.command)
		case p.code != 0 && p.command == "archive" && !p.noFiles:
			return fmt.Errorf("%w: git archive failed", ErrTools)
		}
	}
	return nil
}

// gitProcess is a git process that no other git process has started.
type gitProcess struct {
	command string
	start   string // time, RFC 3339
	code    int    // exit status, or killed
	noFiles bool   // the commit has none where they were looked for
}

// killed is the status of a process that has not written the end of its trace.
const killed = -1

// transfers reports whether the process went to the network.
func (p gitProcess) transfers() bool { return p.command == "fetch" || p.command == "ls-remote" }

// gitProcesses returns the processes of a trace (git's technical/api-trace2) as they
// began.
func gitProcesses(trace string) (all []gitProcess) {
	index := map[string]int{} // by what the trace calls a process
	for event := range traceEvents(trace) {
		if strings.Contains(event.Sid, "/") { // another one has started it
			continue
		}
		i, ok := index[event.Sid]
		if !ok {
			i = len(all)
			index[event.Sid], all = i, append(all, gitProcess{code: killed})
		}
		switch p := &all[i]; event.Event {
		case "start":
			p.start = event.Time
		case "cmd_name":
			p.command = event.Name
		case "error":
			p.noFiles = p.noFiles || event.Fmt == "pathspec '%s' did not match any files"
		case "exit":
			p.code = event.Code
		}
	}
	return all
}

// traceEvent is what we read of an event of git's trace.
type traceEvent struct {
	Event, Sid, Time, Name, Msg, Fmt string
	Code                             int
}

// maxTrace is how much of a trace is read. A run has some thirty processes, of some
// kilobytes each.
const maxTrace = 32 << 20

// traceEvents yields the events in the trace of a run, those of its processes mixed.
func traceEvents(trace string) iter.Seq[traceEvent] {
	return func(yield func(traceEvent) bool) {
		f, err := os.Open(trace)
		if err != nil {
			return
		}
		defer f.Close()
		scanner := bufio.NewScanner(io.LimitReader(f, maxTrace))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			var event traceEvent
			if json.Unmarshal(scanner.Bytes(), &event) == nil && !yield(event) {
				return
			}
		}
	}
}

// reported is an error that the go command reports. Its text is for people.
type reported struct {
	text   string
	commit string // of the version, if it got as far as that
}

func (r *reported) Error() string { return r.text }

// maxParsed is the largest go.mod that is taken apart, which takes ten times its size.
const maxParsed = 1 << 20

// explainDownload returns what an error of go mod download means if the go.mod file
// it got tells: that the module is for a newer go command.
func (s *Source) explainDownload(text, goMod string, origin *Origin) error {
	said := &reported{text: text}
	if origin != nil {
		said.commit = origin.Hash
	}
	data, err := readFile(context.Background(), goMod, maxParsed)
	if goMod == "" || err != nil {
		return said
	}
	f, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil || f.Go == nil {
		return said
	}
	if needs := "go" + f.Go.Version; version.Compare(needs, s.goVersion) > 0 {
		return fmt.Errorf("%w: the module needs %s, but the proxy has %s; update the go command", ErrTools, needs, s.goVersion)
	}
	return said
}

// maxDetail is the length of what is passed on of a text.
const maxDetail = 300

// clean returns text in one line, without directories of ours and without what
// opens our door.
func (r *goRun) clean(text string) string {
	text = strings.ReplaceAll(text, r.source.config.Dir, "$DIR")
	text = strings.ReplaceAll(text, r.source.door.listener.Addr().String(), "$DOOR")
	if r.auth != nil {
		for _, secret := range r.auth.Secrets {
			text = strings.ReplaceAll(text, secret, "xxxxx")
		}
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return text
}

// probeTime is how long a question of our own to a host may take.
const probeTime = 20 * time.Second

// logUnreachable logs what err keeps from clients, if anything.
func (s *Source) logUnreachable(what, host string, err error) {
	if cause := guard.Hidden(err); cause != nil {
		s.log.Warn("no connection to a version control host", "module", what, "host", host, "err", cause)
	}
}
