package sumdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// identity tells a file from a copy of it. Zero is what the system cannot tell.
// Times are nanoseconds of Unix time.
type identity struct {
	inode uint64
	born  int64

	// changed is when its content, owner, mode or links changed. It is no part of
	// what the file is.
	changed int64
}

// differs says whether a and b are certainly two files.
func (a identity) differs(b identity) bool {
	return a.inode != 0 && b.inode != 0 && a.inode != b.inode ||
		a.born != 0 && b.born != 0 && a.born != b.born
}

// replaceFile makes data the content of the file at path, durably: whenever the
// machine stops, the file has its old or its new content. Its directory exists.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	return replaceFileWith(path, mode, func(*os.File) ([]byte, error) { return data, nil })
}

// replaceFileWith is replaceFile for a content that says something of its own file.
func replaceFileWith(path string, mode os.FileMode, content func(*os.File) ([]byte, error)) error {
	temporary := path + newSuffix // one writer at a time: the log is locked
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	data, err := content(f)
	if err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes the names in dir durable. On Windows a directory cannot be
// synced.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeFolder makes dir, and its name durable.
func makeFolder(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(filepath.Clean(dir)))
}

// inside says whether path is below dir.
func inside(dir, path string) (bool, error) {
	dir, err1 := filepath.Abs(dir)
	path, err2 := filepath.Abs(path)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel), nil
}

// diskError adds the next step to an error of writing.
func diskError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; what is in the log stays readable, nothing is signed that is not on disk", err)
}
