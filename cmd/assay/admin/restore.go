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

// restoring is the directory in a data directory in which a backup is unpacked. It exists until the
// restore is complete.
const restoring = "restore" + unfinishedSuffix

// CheckRestored returns an error if a restore into a data directory was interrupted.
func CheckRestored(data string) error {
	if _, err := os.Lstat(filepath.Join(data, restoring)); err == nil {
		return fmt.Errorf("a restore into %s was interrupted; run assay restore again, or empty the directory", data)
	}
	return nil
}

// OpenBackup opens a backup, a directory or a file, as an archive.
func OpenBackup(name string) (io.ReadCloser, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return os.Open(name)
	}
	in, out := io.Pipe()
	go func() { out.CloseWithError(pack(name, out)) }() // in.Close ends it
	return in, nil
}

// Restore restores a backup into a data directory, which it creates, or which must be empty. from
// is an archive. What root restores belongs to the owner of the data directory.
//
// Restore unpacks all files and compares them with the manifest before it moves them to their
// places. After an interruption, the next Restore starts over, and a server refuses the directory
// until then.
func Restore(from io.Reader, data string) (Manifest, error) {
	release, err := prepare(data)
	if err != nil {
		return Manifest{}, err
	}
	defer release()
	unfinished := filepath.Join(data, restoring)
	m, err := unpack(from, unfinished)
	if err == nil {
		err = syncDirs(unfinished)
	}
	if err == nil {
		err = moveUp(unfinished, data)
	}
	if err != nil {
		return m, errors.Join(err, removeRestored(data))
	}
	return m, nil
}

// prepare prepares the data directory for a restore, or returns why that is not possible. No other
// restore begins there until release is called.
func prepare(data string) (release func(), err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	mark := filepath.Join(data, restoring)
	release, err = claim(mark,
		func() error { return removeRestored(data) },
		func() (fs.FileInfo, error) {
			// Otherwise a kill at this moment would leave the mark in a directory in use.
			if err := checkEmpty(data); err != nil {
				return nil, err
			}
			if err := durable.CreateDir(mark, 0o700); err != nil {
				return nil, err
			}
			return os.Lstat(mark)
		})
	if err != nil {
		return nil, err
	}
	err = checkEmpty(data) // another restore may have ended since then
	if err != nil {
		err = errors.Join(err, os.Remove(mark))
	} else {
		err = durable.SyncDir(data)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// checkEmpty returns an error if the data directory has more than the mark of a restore.
func checkEmpty(data string) error {
	entries, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != restoring && e.Name() != "lost+found" { // every ext4 file system has a lost+found
			return fmt.Errorf("%s is not empty: it has %s; stop its server, and move what is there away, or name another directory with --data", data, e.Name())
		}
	}
	return nil
}

// removeRestored removes the files that a restore has put into the data directory, which was empty
// before. It removes the mark last.
func removeRestored(data string) error {
	entries, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !ofBackup(e.Name(), e.IsDir()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(data, e.Name())); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(data); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(data, restoring)); err != nil {
		return err
	}
	return durable.SyncDir(data)
}

// moveUp moves the content of a directory into its parent, and removes it.
func moveUp(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(to); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil {
		return err
	}
	return durable.SyncDir(to)
}
