package vcs

import (
	"context"
	"errors"
	"fmt"
	"go/version"
	"os"
	"strings"
	"syscall"

	"golang.org/x/mod/modfile"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// git and the go command report failures in texts for people, which change with version
// and language. So the cause is found out in another way: git's trace (GIT_TRACE2_EVENT,
// JSON) says whether the last of its processes that used the network failed, and if so we
// ask the host once more.

// explain returns the meaning of an error of the go command.
func (r *run) explain(ctx context.Context, err error) error {
	var (
		said   *reported
		status *exited
	)
	if errors.As(err, &status) {
		said = &reported{text: status.stderr}
	}
	if said == nil && !errors.As(err, &said) || ctx.Err() != nil {
		return newError(ctx, r.log, r.target.job.what, r.target.host(), err)
	}
	detail := r.clone.redact.clean(said.text)
	r.log.Info("go command failed", "module", r.target.job.what, "host", r.target.host(), "said", detail)
	err = r.cause(ctx)
	if err == nil {
		err = notfound.Stated
	} else if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCredential) {
		detail = "" // git's text says no more
	}
	e := newError(ctx, r.log, r.target.job.what, r.target.host(), err)
	var known *Error
	if errors.As(e, &known) {
		known.Detail = detail
	}
	return e
}

// cause returns why the go command failed, nil if the repository does not have what was
// requested.
func (r *run) cause(ctx context.Context) error {
	if err := roomLeft(r.clone.dir); err != nil {
		return err
	}
	if err := localFailure(r.trace()); err != nil {
		return err
	}
	isGit := r.target.repo.system == "git"
	if isGit && lastTransfer(r.trace()) == transferWorked {
		return nil
	}
	if err := r.probe(ctx); err != nil {
		return err
	}
	if isGit && lastTransfer(r.trace()) == transferFailed {
		return fmt.Errorf("%w: the transfer was interrupted", ErrUnavailable)
	}
	return nil
}

// probe asks the host about the repository: nil if it exists.
func (r *run) probe(ctx context.Context) error {
	if r.target.usesSSH() {
		return r.ssh.probe(ctx, r.target, r.clone.dir)
	}
	u := *r.target.repo.url
	u.Path = strings.TrimSuffix(u.Path, "/")
	if r.target.repo.system == "git" {
		u.Path, u.RawPath, u.RawQuery = u.Path+"/info/refs", "", "service=git-upload-pack"
	}
	resp, err := r.asker.ask(ctx, r.target.job, &u)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if to := resp.Request.URL.Host; to != u.Host {
		return &guard.HostError{Host: u.Host, Err: fmt.Errorf("%w: the repository redirects to %.100q; the go-import page must name that host", ErrForbidden, to)}
	}
	if err := guard.StatusError(resp.StatusCode); err != nil {
		if r.target.auth == nil && errors.Is(err, ErrCredential) {
			err = fmt.Errorf("%w: no credential is configured for this host", err)
		}
		return &guard.HostError{Host: r.target.host(), Err: fmt.Errorf("status %d: %w", resp.StatusCode, err)}
	}
	return nil
}

// roomLeft returns the error of writing a little file.
func roomLeft(dir string) error {
	f, err := os.CreateTemp(dir, "room")
	if err != nil {
		return fmt.Errorf("directory of a repository: %w", err)
	}
	_, err = f.Write(make([]byte, 256<<10))
	err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return nil
}

// maxParsed is the largest go.mod that is parsed, which takes ten times its size.
const maxParsed = 1 << 20

// downloadError returns the meaning of an error of go mod download, as far as the go.mod
// file that it got shows it: the module may need a newer go command than goVersion.
func downloadError(goVersion, text, goMod string, origin *Origin) error {
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
	if needs := "go" + f.Go.Version; version.Compare(needs, goVersion) > 0 {
		return fmt.Errorf("%w: the module needs %s, but the proxy has %s; update the go command", ErrTools, needs, goVersion)
	}
	return said
}
