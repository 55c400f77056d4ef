// Package notfound distinguishes the statement that something does not exist from a missing file of
// this program. Both are fs.ErrNotExist, but only a statement becomes a 404: a client that gets a
// 404 requests the module elsewhere.
package notfound

import (
	"errors"
	"io/fs"
)

// Stated is the error for something that does not exist according to an upstream, a
// repository or a checksum database. Only a package that has read their answer returns it.
// It matches fs.ErrNotExist.
var Stated error = stated{}

type stated struct{}

func (stated) Error() string { return fs.ErrNotExist.Error() }

func (stated) Is(target error) bool { return target == fs.ErrNotExist }

// Is reports whether err is Stated.
func Is(err error) bool { return errors.Is(err, Stated) }

// Only returns err, without its match of fs.ErrNotExist unless it is Stated. A package
// whose callers take fs.ErrNotExist for a statement returns its errors through it.
func Only(err error) error {
	if Is(err) || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return missing{err}
}

// OfPart returns err, which may be Stated, without its match of fs.ErrNotExist and Stated: a server
// lacks a part that it needs for its answer, such as a tile of its own tree, and says nothing about
// what the client has requested.
func OfPart(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return missing{err}
}

// missing is the error of something that is missing, and not what a client has requested.
type missing struct{ err error }

func (m missing) Error() string { return m.err.Error() }

func (m missing) Is(target error) bool {
	return target != fs.ErrNotExist && target != Stated && errors.Is(m.err, target)
}

func (m missing) As(target any) bool { return errors.As(m.err, target) }
