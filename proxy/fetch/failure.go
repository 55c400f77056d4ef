package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// failure is the reason why one attempt failed, and its consequences.
type failure struct {
	*Error
	outcome string // for the metrics
	retry   bool   // another attempt may succeed
	once    bool   // but only one more
	blame   bool   // the upstream may be down, and is probed
	lost    bool   // there was no answer: connection, TLS or timeout
}

// final returns f as a failure that another attempt would not change.
func (f *failure) final() *failure {
	f.retry = false
	return f
}

// innocent returns f as a failure that says nothing about the upstream.
func (f *failure) innocent() *failure {
	f.blame = false
	return f
}

// counts reports whether f says anything about the upstream or the object. A missing answer does
// not if the caller left, or gave the upstream less time than our own budget.
func (f *failure) counts(hurried bool) bool {
	return f.outcome != outcomeCanceled && (f.outcome != outcomeTimeout || !hurried)
}

// Causes with which we cancel a request ourselves.
var (
	errSlow   = errors.New("no answer in time")
	errIdle   = errors.New("no byte in time")
	errClosed = fmt.Errorf("the body is closed: %w", fs.ErrClosed)
)

// Reasons for which a request is not sent.
var (
	errOpen    = errors.New("its circuit breaker is open: recent requests got no answer")
	errSpared  = errors.New("it has asked for fewer requests, and no client waits for this one")
	errCrowded = errors.New("too many requests wait for this host") // of a last attempt
)

// isOurs reports whether err, of connecting, says something about this machine, and nothing about
// the upstream.
func isOurs(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
