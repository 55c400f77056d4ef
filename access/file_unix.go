//go:build !windows

package access

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// lockFile waits for the lock of a file, which is released when the file is closed or the process
// ends. The file stays: if it were removed, a third process could lock a new file beside a second
// process that waits for the old one.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = inherit(f, filepath.Dir(name), nil)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	for err == syscall.EINTR {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// inherit gives f the mode and owner of the file that it will replace. A new file that root creates
// gets the owner of the directory: that is the server's user.
func inherit(f *os.File, dir string, old fs.FileInfo) error {
	from := old
	if old != nil {
		if err := f.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	} else {
		if os.Geteuid() != 0 {
			return nil
		}
		var err error
		if from, err = os.Stat(dir); err != nil {
			return err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	want, ok := from.Sys().(*syscall.Stat_t)
	have, ok2 := info.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || want.Uid == have.Uid && want.Gid == have.Gid {
		return nil
	}
	if err := f.Chown(int(want.Uid), int(want.Gid)); err != nil {
		return fmt.Errorf("it belongs to another user; run this as that user or as root: %w", err)
	}
	return nil
}
