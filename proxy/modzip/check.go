package modzip

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"unicode"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// Check returns an error if the go command could not use the zip for mod, whose path and
// version are known to be valid: it checks names and sizes as x/mod/zip.CheckZip does, and
// returns the first error. scratch is that of Hash.
func (z *Zip) Check(mod module.Version, scratch func() (*os.File, error)) error {
	if z.size > zip.MaxZipFile {
		return fmt.Errorf("%w: %d bytes; the limit is %d", ErrTooLarge, z.size, zip.MaxZipFile)
	}
	c := checker{prefix: mod.Path + "@" + mod.Version + "/", names: sorter{scratch: scratch}}
	defer c.names.done()
	if err := z.Entries(c.entry); err != nil {
		return err
	}
	return c.collisions()
}

// checker checks the entries of a zip. It sorts all paths, and those of their folders, by
// the names that a file system has for them that ignores case.
type checker struct {
	prefix string
	size   uint64
	names  sorter // folded path → kind and path
	folder string // that was added last, with those above it
}

// kinds of paths.
const (
	isFile   = 'f'
	isFolder = 'd'
)

// maxPath is the longest path that is accepted: the limit of Linux.
const maxPath = 4096

var errNames = errors.New("bad file name in a zip")

// entry checks one entry without the others.
func (c *checker) entry(e Entry) error {
	name, ok := strings.CutPrefix(e.Name, c.prefix)
	if !ok {
		return fmt.Errorf("%w: %.200q does not begin with %q", errNames, e.Name, c.prefix)
	}
	if name == "" {
		return nil
	}
	kind := byte(isFile)
	if folder, ok := strings.CutSuffix(name, "/"); ok {
		name, kind = folder, isFolder
	}
	if len(name) > maxPath {
		return fmt.Errorf("%w: %.200q… has %d bytes", errNames, name, len(name))
	}
	if path.Clean(name) != name {
		return fmt.Errorf("%w: %.200q is not clean", errNames, name)
	}
	if err := module.CheckFilePath(name); err != nil {
		return err
	}
	if err := c.add(name, kind); err != nil || kind == isFolder {
		return err
	}
	return c.file(name, e.Size)
}

// file checks the path and the size of a file.
func (c *checker) file(name string, size uint64) error {
	if strings.EqualFold(path.Base(name), "go.mod") && name != "go.mod" {
		return fmt.Errorf("%w: %.200q: a go.mod is in the root of its module, and in lower case", errNames, name)
	}
	limit := uint64(zip.MaxZipFile)
	switch name {
	case "go.mod":
		limit = zip.MaxGoMod
	case "LICENSE":
		limit = zip.MaxLICENSE
	}
	if c.size += size; size > limit || c.size > zip.MaxZipFile {
		return fmt.Errorf("%w: %.200q", ErrTooLarge, name)
	}
	return nil
}

// add adds a path, and its folders unless they are those of the path before.
func (c *checker) add(name string, kind byte) error {
	if err := c.names.add(fold(name), append([]byte{kind}, name...)); err != nil {
		return err
	}
	folder := path.Dir(name)
	if folder == c.folder {
		return nil
	}
	c.folder = folder
	for ; folder != "."; folder = path.Dir(folder) {
		if err := c.names.add(fold(folder), append([]byte{isFolder}, folder...)); err != nil {
			return err
		}
	}
	return nil
}

// collisions looks for paths that some file systems cannot distinguish. Those that fold to
// the same name are neighbours.
func (c *checker) collisions() error {
	var folded, before []byte
	return c.names.each(func(key, value []byte) error {
		if before != nil && bytes.Equal(key, folded) {
			switch {
			case !bytes.Equal(value[1:], before[1:]):
				return fmt.Errorf("%w: %.200q and %.200q differ in case alone", errNames, before[1:], value[1:])
			case value[0] != before[0]:
				return fmt.Errorf("%w: %.200q is both a file and a folder", errNames, value[1:])
			case value[0] == isFile:
				return fmt.Errorf("%w: %.200q is there twice", errNames, value[1:])
			}
			return nil
		}
		folded, before = append(folded[:0], key...), append(before[:0], value...)
		return nil
	})
}

// fold returns s with each rune replaced by a representative of all runes that differ
// only in case: the smallest, but lower case for ASCII.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if 'A' <= least && least <= 'Z' {
			return least + 'a' - 'A'
		}
		return least
	}, s)
}
