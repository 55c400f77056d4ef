package admin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/assay-proxy/assay/internal/durable"
)

// SaveDirectory writes a backup to a new directory, which appears under its name when it is
// complete and on disk. It removes the leftovers of an interrupted attempt.
func SaveDirectory(backup io.Reader, dir string) (Manifest, error) {
	dir = filepath.Clean(dir)
	if err := checkFree(dir); err != nil {
		return Manifest{}, err
	}
	unfinished := dir + unfinishedSuffix
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return Manifest{}, err
	}
	release, err := claim(unfinished,
		func() error { return os.RemoveAll(unfinished) },
		func() (fs.FileInfo, error) { return makeDir(unfinished) }) // a directory of another user could be read by that user
	if err != nil {
		return Manifest{}, err
	}
	defer release()
	m, err := unpack(backup, unfinished)
	if err == nil {
		err = m.write(unfinished)
	}
	if err == nil {
		err = syncDirs(unfinished)
	}
	if err != nil {
		return m, errors.Join(err, os.RemoveAll(unfinished))
	}
	return m, publish(unfinished, dir)
}

// SaveFile is SaveDirectory for a file.
func SaveFile(backup io.Reader, name string) (Manifest, error) {
	if err := checkFree(name); err != nil {
		return Manifest{}, err
	}
	unfinished := name + unfinishedSuffix
	var f *os.File
	release, err := claim(unfinished,
		func() error { return os.RemoveAll(unfinished) },
		func() (_ fs.FileInfo, err error) {
			f, err = os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // see SaveDirectory
			if err != nil {
				return nil, err
			}
			return f.Stat()
		})
	if f != nil {
		defer f.Close() // again, after an error
	}
	if err != nil {
		return Manifest{}, err
	}
	defer release()
	m, err := SaveTo(backup, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return m, errors.Join(err, os.Remove(unfinished))
	}
	return m, publish(unfinished, name)
}

// SaveTo writes a backup to out.
func SaveTo(backup io.Reader, out io.Writer) (Manifest, error) {
	return unpack(io.TeeReader(backup, out), "")
}

// CheckTarget returns an error if a backup called name would be in the data directory, where its
// name, or its name during the write, may have a meaning.
func CheckTarget(data, name string) error {
	of, err := os.Stat(data)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	for last := ""; dir != last; last, dir = dir, filepath.Dir(dir) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real // from here on, the real path shows what is above
		}
		if info, err := os.Stat(dir); err == nil && os.SameFile(info, of) {
			return fmt.Errorf("the backup %s would be in the data directory %s; name a place outside it, best on another disk", name, data)
		}
	}
	return nil
}

func checkFree(name string) error {
	_, err := os.Lstat(name)
	if err == nil {
		return fmt.Errorf("%s: %w; name a backup that does not exist yet", name, fs.ErrExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// publish gives a backup its name, which another command may have used since checkFree.
func publish(unfinished, name string) error {
	if err := checkFree(name); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, name); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(name))
}
