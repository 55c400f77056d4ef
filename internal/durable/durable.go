// Package durable writes files that are complete on disk after a crash of the machine at
// any moment: written under another name, synced, renamed, and the directory synced.
//
// On Unix, the files and directories that root makes with this package get the owner of the
// directory in which they are: an administrator's command leaves nothing that the server, which
// runs as that owner, cannot use.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// NewSuffix ends the name of a file that Replace has not renamed yet. A crash leaves
// such a file behind; the next Replace of the same path removes it.
const NewSuffix = ".new"

// Replace makes data the content of the file at path: after a crash the file has its old
// or its new content. The directory must exist, and the caller ensures that only one
// process at a time replaces the file.
func Replace(path string, data []byte, mode fs.FileMode) error {
	return ReplaceWith(path, mode, func(*os.File) ([]byte, error) { return data, nil })
}

// ReplaceBy is Replace, with the name of the temporary file, which is in the directory of path. Processes that may
// replace a file at the same time give different names.
func ReplaceBy(temporary, path string, data []byte, mode fs.FileMode) error {
	return replace(temporary, path, mode, func(*os.File) ([]byte, error) { return data, nil })
}

// ReplaceWith is Replace for content that depends on the new file itself: it calls
// content with the file while that is empty.
func ReplaceWith(path string, mode fs.FileMode, content func(*os.File) ([]byte, error)) error {
	return replace(path+NewSuffix, path, mode, content)
}

func replace(temporary, path string, mode fs.FileMode, content func(*os.File) ([]byte, error)) error {
	if info, err := os.Lstat(temporary); err == nil && !info.IsDir() {
		if err := os.Remove(temporary); err != nil {
			return err
		}
	}
	if err := create(temporary, mode, content); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return SyncDir(filepath.Dir(path))
}

// Create makes a file at path with data. The error is fs.ErrExist if there is one. A
// file that cannot be written is removed, so that it can be created later.
func Create(path string, data []byte, mode fs.FileMode) error {
	if err := create(path, mode, func(*os.File) ([]byte, error) { return data, nil }); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func create(path string, mode fs.FileMode, content func(*os.File) ([]byte, error)) error {
	f, err := CreateFile(path, mode)
	if err != nil {
		return err
	}
	data, err := content(f)
	if err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// CreateFile creates an empty file at path for reading and writing. The error is fs.ErrExist if there
// is one. Its name is durable only after SyncDir.
func CreateFile(path string, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	if err := own(f); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// OpenFile opens the file at path for reading and writing, and creates it if there is none. The owner
// of an existing file stays: in a directory of another user its name may lead to any file.
func OpenFile(path string, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	f, err = CreateFile(path, mode)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	return f, err
}

// UnknownError says that the content of a file on disk is unknown: after a failed sync
// the next one succeeds without writing anything (lwn.net/Articles/752063).
type UnknownError struct{ Err error }

// Error returns the text of the wrapped error.
func (e *UnknownError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *UnknownError) Unwrap() error { return e.Err }

// Append writes data at end, where f ends, and syncs f. After an error f ends there again,
// or the error is an *UnknownError.
func Append(f *os.File, data []byte, end int64) error {
	if _, err := f.WriteAt(data, end); err != nil {
		if cut := f.Truncate(end); cut != nil {
			return errors.Join(err, &UnknownError{cut})
		}
		return err
	}
	return Sync(f)
}

// Sync syncs f. The error is an *UnknownError.
func Sync(f *os.File) error {
	if err := f.Sync(); err != nil {
		return &UnknownError{err}
	}
	return nil
}

// SyncDir makes the names in dir durable. Windows cannot sync a directory.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MakeDir makes dir with its parents, and makes its name durable.
func MakeDir(dir string, mode fs.FileMode) error {
	dir = filepath.Clean(dir)
	if err := makeDirs(dir, mode); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// makeDirs is os.MkdirAll, with the owner of the directory that was there first.
func makeDirs(dir string, mode fs.FileMode) error {
	if _, err := os.Stat(dir); err == nil {
		return os.MkdirAll(dir, mode) // an error if it is a file
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeDirs(parent, mode); err != nil {
			return err
		}
	}
	err := CreateDir(dir, mode)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		return os.MkdirAll(dir, mode)
	}
	return err
}

// CreateDir makes dir. The error is fs.ErrExist if there is one. Its name is durable only after SyncDir.
func CreateDir(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	return ownDir(dir)
}
