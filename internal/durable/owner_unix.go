//go:build unix

package durable

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// own gives f, which this process has created, the owner of its directory if root runs this process. The
// server runs as that owner, and must be able to use what a command of an administrator makes.
func own(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	dir, err := os.Stat(filepath.Dir(filepath.Clean(f.Name())))
	if err != nil {
		return err
	}
	return chown(f, dir)
}

// ownDir is own for a directory, which it does not follow if it is a link.
func ownDir(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return own(d)
}

// Inherit gives f the mode and owner of old, the file that f will replace.
func Inherit(f *os.File, old fs.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()); err != nil {
		return err
	}
	if err := chown(f, old); err != nil {
		return fmt.Errorf("it belongs to another user; run this as that user or as root: %w", err)
	}
	return nil
}

// chown gives f the owner of from, if it has another one.
func chown(f *os.File, from fs.FileInfo) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	want, ok := from.Sys().(*syscall.Stat_t)
	have, ok2 := info.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || want.Uid == have.Uid && want.Gid == have.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}
