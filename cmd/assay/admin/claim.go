package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// claim creates path for a backup or a restore, and excludes other commands until release is
// called. It first clears the leftovers of an interrupted one. create returns what it has created.
func claim(path string, clear func() error, create func() (fs.FileInfo, error)) (release func(), err error) {
	if err := clearLeft(path, clear); err != nil {
		return nil, err
	}
	created, err := create()
	if errors.Is(err, fs.ErrExist) {
		return nil, held(path)
	}
	if err != nil {
		return nil, err
	}
	release, err = hold(path)
	if errors.Is(err, errHeld) || errors.Is(err, fs.ErrNotExist) {
		return nil, held(path)
	}
	if err != nil {
		return func() {}, nil // without locks, clearLeft of another command clears nothing
	}
	// Before the lock, another command may have cleared path and created it for itself.
	if now, err := os.Lstat(path); err != nil || !os.SameFile(created, now) {
		release()
		return nil, held(path)
	}
	return release, nil
}

// makeDir makes a directory for claim, that only its owner can enter.
func makeDir(path string) (fs.FileInfo, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// clearLeft clears path, if no other process holds it.
func clearLeft(path string, clear func() error) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return clear() // it belongs to no running command
	}
	release, err := hold(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errHeld):
		return held(path)
	case err != nil:
		return fmt.Errorf("%s was left by an interrupted command, or is of one that is running; if none is running, remove it: %w", path, err)
	}
	defer release()
	return clear()
}

func held(path string) error { return &fs.PathError{Op: "write", Path: path, Err: errHeld} }
