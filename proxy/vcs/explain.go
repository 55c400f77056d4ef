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
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
)

// What the go command and git say when something goes wrong is prose, in the words
// of the day. What it was is found out otherwise: git says in its trace
// (GIT_TRACE2_EVENT, JSON) whether the last of its processes that went to the
// network failed, and if so the host is asked once more, by us.

// explain makes err what a caller is told.
func (s *Source) explain(ctx context.Context, j job, repo *repository, err error) error {
	var (
		told *Error
		host *hostError
	)
	if err == nil || errors.As(err, &told) {
		return err
	}
	e := &Error{Module: j.what, Err: err}
	if repo != nil {
		e.Host = repo.url.Host
	}
	if errors.As(err, &host) {
		e.Host, e.Err = host.host, host.err
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
	if err := localFailure(r.traces()); err != nil {
		return err
	}
	if r.repo.system == "git" && lastTransfer(r.traces()) == transferWorked {
		return nil
	}
	if err := r.probe(ctx); err != nil {
		return err
	}
	if r.repo.system == "git" && lastTransfer(r.traces()) == transferFailed {
		return fmt.Errorf("%w: the transfer broke off", ErrUnavailable)
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
		return &hostError{u.Host, fmt.Errorf("%w: the repository redirects to %.100q; its page has to name that host", ErrForbidden, to)}
	}
	if err := statusError(resp.StatusCode); err != nil {
		if r.auth == nil && errors.Is(err, ErrCredential) {
			err = fmt.Errorf("%w: there is no credential for this host", err)
		}
		return &hostError{r.repo.url.Host, fmt.Errorf("status %d: %w", resp.StatusCode, err)}
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

// lastTransfer reads git's traces, one file for each process.
func lastTransfer(dir string) transfer {
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	var all []gitProcess
	for _, name := range names {
		if p, ok := readTrace(name); ok {
			all = append(all, p)
		}
	}
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
func localFailure(dir string) error {
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, name := range names {
		var command string
		ended, failed, noFiles, child := false, false, false, false
		for event := range traceEvents(name) {
			child = child || strings.Contains(event.Sid, "/")
			switch event.Event {
			case "cmd_name":
				command = event.Name
			case "error":
				noFiles = noFiles || event.Fmt == "pathspec '%s' did not match any files"
			case "exit":
				ended, failed = true, event.Code != 0
			}
		}
		switch {
		case child || command == "" || command == "fetch" || command == "ls-remote":
		case !ended:
			return fmt.Errorf("%w: git %s was killed", ErrTools, command)
		case failed && command == "archive" && !noFiles:
			return fmt.Errorf("%w: git archive failed", ErrTools)
		}
	}
	return nil
}

// gitProcess is a git process that went to the network.
type gitProcess struct {
	start string // time, RFC 3339
	code  int    // exit status, -1 if it was killed
}

// readTrace reads the trace of one process (git's technical/api-trace2). It reports
// false for one that another git process has started, or that is not about the
// network.
func readTrace(name string) (p gitProcess, ok bool) {
	p.code = -1
	for event := range traceEvents(name) {
		if strings.Contains(event.Sid, "/") {
			return p, false
		}
		switch event.Event {
		case "start":
			p.start = event.Time
		case "cmd_name":
			ok = event.Name == "fetch" || event.Name == "ls-remote"
		case "exit":
			p.code = event.Code
		}
	}
	return p, ok
}

// traceEvent is what we read of an event of git's trace.
type traceEvent struct {
	Event, Sid, Time, Name, Msg, Fmt string
	Code                             int
}

// traceEvents yields the events in the trace of one process.
func traceEvents(name string) iter.Seq[traceEvent] {
	return func(yield func(traceEvent) bool) {
		f, err := os.Open(name)
		if err != nil {
			return
		}
		defer f.Close()
		scanner := bufio.NewScanner(io.LimitReader(f, 4<<20))
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
		return fmt.Errorf("%w: the module needs %s, and the go command here is %s; update it", ErrTools, needs, s.goVersion)
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
		for _, secret := range r.auth.secrets {
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
