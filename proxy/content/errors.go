package content

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// Errors that a caller decides on, beside those of the packages that content comes from.
var (
	// ErrHidden says that the client may not read the module. The response must depend on
	// the module's name alone.
	ErrHidden = errors.New("the client may not read it")

	// ErrNotHeld says that an object is not held, and that the client asked not to fetch
	// it.
	ErrNotHeld = errors.New("not held, and not to be fetched")

	// ErrOffline says that an object is not held, and that there is no upstream.
	ErrOffline = errors.New("not held, and there is no upstream")

	// ErrTimeout says that a client has waited long enough; the work continues.
	ErrTimeout = errors.New("still in progress")

	// ErrNoDatabase says that a client requested a toolchain, and that there is no
	// checksum database to verify it with.
	ErrNoDatabase = errors.New("toolchains need a checksum database, and it is off")

	// ErrUnlisted says that the checksum database has no record of a version that an
	// upstream has.
	ErrUnlisted = errors.New("not in the checksum database")

	// ErrOwnLog says that an error is of the own log.
	ErrOwnLog = errors.New("private checksum log")

	// ErrGarbage says that an upstream sent an invalid response.
	ErrGarbage = errors.New("invalid response from the upstream")

	// errDefect is a panic in work that clients share; it was logged.
	errDefect = errors.New("internal error")

	// ErrStrays says that a client requested many tiles beyond the end of a checksum
	// database that do not exist.
	ErrStrays = errors.New("too many tiles beyond the end of the checksum database")
)

// errUnwanted ends a fill that was started ahead: it is expensive, and no client waits for it.
var errUnwanted = errors.New("too expensive for a prediction")

// errProtected says that a public name leads to a repository that a rule protects.
var errProtected = errors.New("the repository is protected by an access rule")

// Absence says that an object does not exist. Only a statement of an upstream, a
// repository or a checksum database makes one: a missing file of our own is an error like
// any other.
type Absence struct{ Err error }

func (a *Absence) Error() string { return a.Err.Error() }

func (a *Absence) Unwrap() error { return a.Err }

// said returns err, from an upstream, a repository or a database, as an Absence if it
// says that an object does not exist.
func said(err error) error {
	if notfound.Is(err) {
		return &Absence{err}
	}
	return err
}

// IsAbsence reports whether an upstream, a repository or a database stated that an object
// does not exist.
func IsAbsence(err error) bool {
	var a *Absence
	return errors.As(err, &a)
}

// errMiss says that an object is not held. It does not say whether the object exists, so
// it never reaches a client.
var errMiss = errors.New("not held")

// NotFetchedError says that a private module is not held, and that version control is off.
type NotFetchedError struct{ Module, Pattern string }

func (e *NotFetchedError) Error() string {
	return e.Module + " is private (pattern " + e.Pattern + ") and version control is off"
}

// LeakError says that a client looked up a private module in a public checksum database.
type LeakError struct {
	Module, Pattern string
	Err             error // ErrHidden if the client may not know that it is private
}

func (e *LeakError) Error() string {
	return e.Module + " is private (pattern " + e.Pattern + "), and its name is never sent to a checksum database"
}

func (e *LeakError) Unwrap() error { return e.Err }

// MismatchError is content whose hash is not that of the checksum database.
type MismatchError struct {
	Module, Version string
	File            string // go.mod or zip
	Got, Want       string // h1 hashes
	Source          string // the upstream
	Database        string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("checksum mismatch: %s of %s@%s from %s is %s, %s says %s",
		e.File, e.Module, e.Version, e.Source, e.Got, e.Database, e.Want)
}

// SlowError says that a zip was aborted because it would not be complete in time.
type SlowError struct {
	Key       string
	Got, Size int64
	Took      time.Duration
	Limit     time.Duration
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("given up: %s comes too slowly: %d of %d bytes in %v", e.Key, e.Got, e.Size, e.Took)
}

// OldAbsenceError says that an object does not exist, by an earlier statement of all
// upstreams; none of them is reachable now.
type OldAbsenceError struct {
	Key       string
	Upstreams string
	Age       time.Duration
}

func (e *OldAbsenceError) Error() string {
	return fmt.Sprintf("%s: %s said %v ago that it does not exist", e.Key, e.Upstreams, e.Age)
}

// decided reports whether an error says nothing about the object, but is a decision of
// this program.
func decided(err error) bool {
	var full *bindings.LimitError
	for _, rule := range []error{gate.ErrReloaded, gate.ErrNoVCS, ErrHidden, ErrNotHeld, ErrStrays, errProtected,
		places.ErrClientFull, places.ErrFull, places.ErrLate, places.ErrYielded, places.ErrLeft, memory.ErrFull} {
		if errors.Is(err, rule) {
			return true
		}
	}
	return errors.As(err, &full)
}

// IsFull reports whether a disk is full.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// final reports whether a client must see err, even if there is an older answer: an
// upstream that answers is right, and the older answer may be about another module.
func final(err error) bool {
	return errors.Is(err, ErrHidden) || IsAbsence(err) || errors.Is(err, gate.ErrReloaded)
}

// urgent reports whether an answer from the store would hide an error that an
// administrator must fix.
func urgent(err error) bool {
	return errors.Is(err, vcs.ErrCredential) || errors.Is(err, vcs.ErrForbidden) || errors.Is(err, fetch.ErrRefused)
}
