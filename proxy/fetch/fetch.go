// Package fetch gets one object of a module from somewhere else.
//
// It knows upstream proxies (http, https), directories (file), and the list of
// both that the go command calls GOPROXY, with the meaning the go command gives
// to its separators (go.dev/ref/mod#environment-variables). What the go command
// does not do is done here: budgets for every phase, retries, resumption of a
// broken transfer, a circuit breaker for each upstream.
//
// It does not decide what may be asked for, and proves nothing about what it
// gets, but that it got all of it.
package fetch

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"
)

// Errors that callers decide on. Authoritative absence (404, 410, no such file,
// the end of a list that says off) is fs.ErrNotExist. A phase that took too long
// is context.DeadlineExceeded.
var (
	// ErrRefused says that an upstream does not give us this object, and
	// means it: 403, 451. That is neither absence nor trouble: firewalls and
	// products that curate modules say it by design.
	ErrRefused = errors.New("refused by the upstream")

	// ErrUnavailable is any trouble of an upstream that says nothing about
	// the object: no connection, 401, 407, 429, 5xx, a broken transfer, an open
	// circuit breaker.
	ErrUnavailable = errors.New("upstream unavailable")

	// ErrTooLarge says that the object is larger than the caller allowed.
	ErrTooLarge = errors.New("larger than allowed")

	// ErrDirect says that the list has come to direct: the module is to be
	// fetched from its repository, which a Source does not do.
	ErrDirect = errors.New("direct: fetch from the repository")
)

// Error is what every failed fetch returns; it matches one of the errors above,
// or fs.ErrNotExist, or context.DeadlineExceeded.
type Error struct {
	Source     string        // the upstream, without credentials
	Path       string        // requested
	Status     int           // HTTP status, 0 if there was none
	Detail     string        // what the upstream said, one line of printable text, at most 200 bytes
	Words      string        // of ErrRefused, what the upstream said: at most three lines and 300 bytes, with its host before each line
	RetryAfter time.Duration // how long the upstream asked us to wait, 0 if it did not
	Err        error

	late       bool // time ran out, of the upstream or of a host that it redirects to
	remembered bool // it is that of an earlier fetch
}

// Object is what a Source has opened.
type Object struct {
	Body   io.ReadCloser // fails with an error, never with a clean EOF, if the object did not arrive whole
	Size   int64         // bytes, -1 if the upstream did not say
	Source string        // the upstream it comes from, without credentials
}

// Source is somewhere else. Its methods may be called at the same time.
type Source interface {
	// Fetch opens the object at path, a path of the GOPROXY protocol, escaped
	// and without a leading slash. Of an object larger than limit bytes the
	// error is ErrTooLarge, now or when its body is read.
	//
	// Fetch returns when the headers are there; the budget for that, retries
	// and all, is bounded. The caller closes the body. Cancelling ctx ends
	// both.
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
