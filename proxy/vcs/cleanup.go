package vcs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// clear removes all but the git directories.
func clear(dir string) error {
	for _, level := range []string{dir, filepath.Join(dir, "cache")} {
		entries, err := os.ReadDir(level)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if name := entry.Name(); level == dir && name == "cache" || level != dir && name == "vcs" {
				continue
			}
			if err := removeAll(filepath.Join(level, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeAll is os.RemoveAll for a directory into which the git of a killed process still
// writes: the next attempt removes what it wrote meanwhile. That git ends soon.
func removeAll(name string) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := os.RemoveAll(name)
		if !errors.Is(err, syscall.ENOTEMPTY) || pause > 500*time.Millisecond {
			return err
		}
		time.Sleep(pause)
	}
}

// unlock removes the locks and the incomplete packs that a killed git left. Every later
// git would refuse to work there.
func unlock(dir string) error {
	copies := filepath.Join(dir, cachePart)
	return filepath.WalkDir(copies, func(name string, d fs.DirEntry, err error) error {
		above := filepath.Dir(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a git of a killed process is just ending
			return nil
		case err != nil:
			return err
		case d.IsDir() && filepath.Base(above) == "objects" && len(d.Name()) == 2:
			return filepath.SkipDir // objects, very many of them
		case d.IsDir() || above == copies: // the go command's own locks end with it
			return nil
		case filepath.Ext(name) == ".lock", filepath.Base(above) == "pack" && strings.HasPrefix(d.Name(), "tmp_"):
			if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// hasNothing reports whether nothing was fetched into dir: the repository does not exist, or
// its host does not answer. Clients can name any number of those, so such a directory is
// removed: it has hardly any bytes that would count for eviction, but uses some ten
// kilobytes of disk blocks.
func hasNothing(dir string) bool {
	copies, err := os.ReadDir(filepath.Join(dir, filepath.FromSlash(cachePart)))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !slices.ContainsFunc(copies, func(c fs.DirEntry) bool {
		return c.IsDir() && hasObjects(filepath.Join(dir, filepath.FromSlash(cachePart), c.Name()))
	})
}

// hasObjects reports whether a git directory has an object; it is true for any other
// directory.
func hasObjects(copied string) bool {
	objects := filepath.Join(copied, "objects")
	kinds, err := os.ReadDir(objects)
	if err != nil {
		return true
	}
	packs, err := os.ReadDir(filepath.Join(objects, "pack"))
	return err == nil && len(packs) > 0 || slices.ContainsFunc(kinds, func(k fs.DirEntry) bool { return len(k.Name()) == 2 })
}

// sizeOf returns the bytes in the files below dir; what disappears meanwhile does
// not count.
func sizeOf(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// cachePart is what stays in a GOMODCACHE: the git directories.
const cachePart = "cache/vcs"
