package content

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// Errors that a caller decides on, beside those of the packages that content comes from.
var (
	// ErrHidden says that the client may not read the module. What the client is told must
	// not depend on anything but its name.
	ErrHidden = errors.New("the client may not read it")

	// ErrNotHeld says that something is not held, and that the client asked not to fetch it.
	ErrNotHeld = errors.New("not held, and not to be fetched")

	// ErrOffline says that something is not held, and that there is no upstream.
	ErrOffline = errors.New("not held, and there is no upstream")

	// ErrTimeout says that a client has waited long enough; what it waits for goes on.
	ErrTimeout = errors.New("still in progress")

	// ErrNoDatabase says that a toolchain was asked for, and no checksum database is there
	// to verify it with.
	ErrNoDatabase = errors.New("toolchains need a checksum database, and it is off")

	// ErrUnlisted says that the checksum database does not know a version that an
	// upstream has.
	ErrUnlisted = errors.New("not in the checksum database")

	// ErrOwnLog says that it is our own log that is in trouble.
	ErrOwnLog = errors.New("private checksum log")

	// ErrGarbage says that an upstream sent something else than was asked.
	ErrGarbage = errors.New("invalid response from the upstream")

	// ErrDefect is a panic in work that clients share, which is in the log.
	ErrDefect = errors.New("internal error")

	// ErrStrays says that a client has asked for many tiles beyond the end of a checksum
	// database that do not exist.
	ErrStrays = errors.New("too many tiles beyond the end of the checksum database")
)

// errProtected says that a public name leads to a repository that a rule protects.
var errProtected = errors.New("the repository is protected by an access rule")

// Absence says that something does not exist. It is made of what an upstream, a repository
// or a checksum database has said, and of nothing else: a file of ours that is missing
// is an error like any other.
type Absence struct{ Err error }

func (a *Absence) Error() string { return a.Err.Error() }

func (a *Absence) Unwrap() error { return a.Err }

// said returns err, which was said by an upstream, a repository or a database, as an Absence
// if it is one.
func said(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &Absence{err}
	}
	return err
}

// IsAbsence reports whether an upstream, a repository or a database has said that something
// does not exist.
func IsAbsence(err error) bool {
	var a *Absence
	return errors.As(err, &a)
}

// errMiss says that something is not held here. It says nothing about whether it exists,
// so it is never given to a client.
var errMiss = errors.New("not held")

// NotFetchedError says that a private module is not held, and that version control is off.
type NotFetchedError struct{ Module, Pattern string }

func (e *NotFetchedError) Error() string {
	return e.Module + " is private (pattern " + e.Pattern + ") and version control is off"
}

// LeakError says that a public checksum database was asked for a private module.
type LeakError struct {
	Module, Pattern string
	Err             error // ErrHidden if the client may not know that it is private
}

func (e *LeakError) Error() string {
	return e.Module + " is private (pattern " + e.Pattern + "), and its name is never sent to a checksum database"
}

func (e *LeakError) Unwrap() error { return e.Err }

// MismatchError is content that is not what the checksum database says.
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

// SlowError says that a zip was given up because it would not be whole in time.
type SlowError struct {
	Key       string
	Got, Size int64
	Took      time.Duration
	Limit     time.Duration
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("given up: %s comes too slowly: %d of %d bytes in %v", e.Key, e.Got, e.Size, e.Took)
}

// OldAbsenceError says that something does not exist, by what all upstreams have said
// before: none of them can be asked now.
type OldAbsenceError struct {
	Key       string
	Upstreams string
	Age       time.Duration
}

func (e *OldAbsenceError) Error() string {
	return fmt.Sprintf("%s: %s said %v ago that it does not exist", e.Key, e.Upstreams, e.Age)
}

// decided reports whether an error says nothing of what was asked for, but was decided
// here.
func decided(err error) bool {
	var full *bindings.LimitError
	for _, rule := range []error{gate.ErrReloaded, gate.ErrNoVCS, ErrHidden, ErrNotHeld, ErrStrays, errProtected,
		places.ErrClientFull, places.ErrFull, places.ErrLate, places.ErrYielded, places.ErrLeft} {
		if errors.Is(err, rule) {
			return true
		}
	}
	return errors.As(err, &full)
}

// IsFull reports whether there is no room on a disk.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// final reports whether a client must be told err, even if there is an older answer: an
// upstream that answers is right, and what is held may be of another module now.
func final(err error) bool {
	return errors.Is(err, ErrHidden) || IsAbsence(err) || errors.Is(err, gate.ErrReloaded)
}

// urgent reports whether an answer that is made of what is held would hide what an
// administrator must see to.
func urgent(err error) bool {
	return errors.Is(err, vcs.ErrCredential) || errors.Is(err, vcs.ErrForbidden) || errors.Is(err, fetch.ErrRefused)
}
