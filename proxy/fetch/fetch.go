// Package fetch fetches one object of a module from an upstream.
//
// It knows upstream proxies (http, https), directories (file), and the list of both that the go
// command calls GOPROXY, whose separators mean the same as in the go command
// (go.dev/ref/mod#environment-variables). Unlike the go command it has time budgets for every
// phase, retries, resumption of a broken transfer, and a circuit breaker for each upstream.
//
// It does not decide which objects may be requested, and proves nothing about the content except
// that it is complete.
package fetch

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"
)

// Errors that callers decide on. Authoritative absence (404, 410, no such file,
// the end of a list that says off) is notfound.Stated. A timeout of a phase
// is context.DeadlineExceeded.
var (
	// ErrRefused means that an upstream refuses this object: 403, 451. That is neither absence nor
	// a failure: firewalls and products that curate modules answer so by design.
	ErrRefused = errors.New("refused by the upstream")

	// ErrUnavailable is any failure of an upstream that says nothing about
	// the object: no connection, 401, 407, 429, 5xx, a broken transfer, an open
	// circuit breaker.
	ErrUnavailable = errors.New("upstream unavailable")

	// ErrTooLarge means that the object is larger than the caller allowed.
	ErrTooLarge = errors.New("larger than allowed")

	// ErrDirect means that the list has reached direct: the caller must fetch the module from its
	// repository, which a Source does not do.
	ErrDirect = errors.New("direct: fetch from the repository")
)

// Error is the error of every failed fetch; it matches one of the errors above,
// or notfound.Stated, or context.DeadlineExceeded.
type Error struct {
	Source     string        // the upstream, without credentials
	Path       string        // requested
	Status     int           // HTTP status, 0 if there was none
	Detail     string        // the upstream's message, one line of printable text, at most 200 bytes
	Words      string        // for ErrRefused, the upstream's message: at most three lines and 300 bytes, with its host before each line
	RetryAfter time.Duration // how long the upstream asked us to wait, 0 if it did not
	Err        error

	late       bool // a timeout of the upstream or of a host that it redirects to
	remembered bool // the error of an earlier fetch
}

// Object is an object that a Source has opened.
type Object struct {
	Body   io.ReadCloser // ends with an error, never with a clean EOF, if the object did not arrive whole
	Size   int64         // bytes, -1 if the upstream did not say
	Source string        // the upstream it comes from, without credentials
}

// Source provides objects. Its methods may be called concurrently.
type Source interface {
	// Fetch opens the object at path, a path of the GOPROXY protocol, escaped and without a leading
	// slash. If the object is larger than limit bytes, the error is ErrTooLarge, now or when the
	// body is read.
	//
	// Fetch returns when the headers arrive; its time, retries included, is bounded. The caller
	// closes the body. Cancelling ctx ends both.
	Fetch(ctx context.Context, path string, limit int64) (*Object, error)

	// String names the source without credentials, for logs.
	String() string
}

func (e *Error) Error() string {
	text := "fetch " + e.Path + " from " + e.Source + ": " + e.Err.Error()
	if e.Status != 0 {
		text += ": status " + strconv.Itoa(e.Status)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }
