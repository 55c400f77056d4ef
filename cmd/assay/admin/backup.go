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
// whole and on disk. What an interrupted attempt has left is removed.
func SaveDirectory(backup io.Reader, dir string) (Manifest, error) {
	dir = filepath.Clean(dir)
	if err := checkFree(dir); err != nil {
		return Manifest{}, err
	}
	unfinished := dir + Unfinished
	if err := os.RemoveAll(unfinished); err != nil {
		return Manifest{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return Manifest{}, err
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil { // a directory of another user could be read by that user
		return Manifest{}, err
	}
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
	unfinished := name + Unfinished
	if err := os.RemoveAll(unfinished); err != nil {
		return Manifest{}, err
	}
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // see SaveDirectory
	if err != nil {
		return Manifest{}, err
	}
	defer f.Close() // again, after an error
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

func publish(unfinished, name string) error {
	if err := os.Rename(unfinished, name); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(name))
}
