package vcs

import (
	"context"
	"errors"
	"log/slog"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Errors that callers decide on. An unknown repository, module or version is
// notfound.Stated. A timeout is context.DeadlineExceeded.
var (
	// ErrCredential says that a host rejected our credential, requires one that is
	// not configured, or has another host key than the known one.
	ErrCredential = guard.ErrCredential

	// ErrUnavailable is a failure of a host that says nothing about the module.
	ErrUnavailable = guard.ErrUnavailable

	// ErrForbidden says that a module path or a page leads to a place that is
	// not allowed: another scheme, an internal address, a version control
	// system that is not configured.
	ErrForbidden = guard.ErrForbidden

	// ErrTools says that the go command, or a program that it needs, is missing or
	// too old for the module.
	ErrTools = errors.New("cannot fetch from version control on this machine")

	// ErrTooLarge says that a repository does not fit into the space for all.
	ErrTooLarge = errors.New("repository is too large")
)

// Error is the error of every failed fetch. It matches one of the errors above,
// or notfound.Stated, or context.DeadlineExceeded. A missing file of this program never
// matches fs.ErrNotExist.
type Error struct {
	Module string // path, with @ and the version or query
	Host   string // that failed, if any: of the repository, of a page, of GitHub's API
	Detail string // what is known, one line, without credentials and local paths
	Place  Place  // of the module, as far as it was found
	Err    error
}

func (e *Error) Error() string {
	text := "fetch " + e.Module + " from version control"
	if e.Host != "" {
		text += " at " + e.Host
	}
	text += ": " + e.Err.Error()
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// newError returns err as the Error of a fetch of what. host is that of the repository, ""
// if it is not known.
func newError(ctx context.Context, log *slog.Logger, what, host string, err error) error {
	var (
		known  *Error
		atHost *guard.HostError
	)
	if err == nil || errors.As(err, &known) {
		return err
	}
	e := &Error{Module: what, Host: host, Err: err}
	if errors.As(err, &atHost) {
		e.Host, e.Err = atHost.Host, atHost.Err
	}
	if cause := context.Cause(ctx); cause != nil {
		e.Err = cause
	}
	e.Err = notfound.Only(e.Err)
	if cause := guard.Hidden(e.Err); cause != nil {
		log.Warn("no connection to a version control host", "module", what, "host", e.Host, "err", cause)
	}
	return e
}

// at sets the place of an Error.
func at(place Place, err error) error {
	var known *Error
	if errors.As(err, &known) {
		known.Place = place
	}
	return err
}

// reported is an error that the go command reports. Its text is for people.
type reported struct {
	text   string
	commit string // of the version, if the go command found it
}

func (r *reported) Error() string { return r.text }

// exited is a program that ended with a status other than 0.
type exited struct {
	code   int
	stderr string
}

func (e *exited) Error() string { return e.stderr }
