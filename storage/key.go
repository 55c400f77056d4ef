package storage

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

const (
	// MaxKey is how many bytes a key may have. A bucket allows 1,024, of which 128 are
	// left for the prefix that a store has in it.
	MaxKey = 1024 - 128

	// MaxComponent is how many bytes there may be between two slashes of a key. File
	// systems allow no more, and what keeps a bucket in one does not either.
	MaxComponent = 255

	// maxDir is how long the directory of a key may be, so that there is room for any name.
	maxDir = MaxKey - MaxComponent - 1

	// MaxRecord is the size of the largest mutable record.
	MaxRecord = 16 << 20

	// MaxSmall is how large an object of a Batch may be.
	MaxSmall = 32 << 10

	// MaxBatch is how large all objects of a Batch may be together.
	MaxBatch = 1 << 20

	maxText = 1 << 10 // of Hash and of Proof
)

// CheckKey checks a key, or the name of a mutable record, as Store documents.
func CheckKey(key string) error {
	if err := checkKey(key); err != nil {
		return fmt.Errorf("key %.100q %w", key, err)
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return errors.New("is empty")
	case len(key) > MaxKey:
		return fmt.Errorf("is longer than %d bytes", MaxKey)
	case !utf8.ValidString(key):
		return errors.New("is not UTF-8")
	case strings.IndexByte(key, 0) >= 0:
		return errors.New("contains NUL")
	}
	for component := range strings.SplitSeq(key, "/") {
		switch {
		case component == "":
			return errors.New("begins or ends with a slash, or has two in a row")
		case component == ".", component == "..":
			return fmt.Errorf("has the component %q", component)
		case len(component) > MaxComponent:
			return fmt.Errorf("has a component of more than %d bytes", MaxComponent)
		}
	}
	return nil
}

// CheckRecord checks a mutable record before it is stored.
func CheckRecord(name string, value []byte) error {
	if err := CheckKey(name); err != nil {
		return err
	}
	if len(value) > MaxRecord {
		return fmt.Errorf("value of %d bytes is larger than 16 MiB", len(value))
	}
	return nil
}

// Check checks what a caller of Create says about an object.
func (i Info) Check() error {
	if err := CheckKey(i.Key); err != nil {
		return err
	}
	switch {
	case i.Size < 0:
		return fmt.Errorf("size %d is negative", i.Size)
	case len(i.Hash) > maxText:
		return fmt.Errorf("hash of %d bytes is longer than %d", len(i.Hash), maxText)
	case len(i.Proof) > maxText:
		return fmt.Errorf("proof of %d bytes is longer than %d", len(i.Proof), maxText)
	}
	return nil
}

// Key returns the key for a path, which is the path itself unless it is too long for
// one: a directory of more than 640 bytes, or a component of more than 255, is cut and
// ends with a hash of all of it. The hash has upper-case letters, which the protocol
// escapes in its paths, so that no path has such a key as its own.
func Key(path string) string {
	if len(path) <= MaxComponent {
		return path
	}
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return cutName(path)
	}
	return cutDir(path[:slash]) + "/" + cutName(path[slash+1:])
}

// Prefix returns how the keys begin of what is in the directory dir, not deeper:
// Prefix(dir) plus a name of at most 255 bytes is Key(dir + "/" + name).
func Prefix(dir string) string {
	if dir == "" {
		return ""
	}
	return cutDir(dir) + "/"
}

// cutDir returns a directory that is not too long, and has no component that is.
func cutDir(dir string) string {
	components := strings.Split(dir, "/")
	for i, component := range components {
		components[i] = cutName(component)
	}
	cut := strings.Join(components, "/")
	if len(cut) > maxDir {
		kept := strings.LastIndexByte(cut[:maxDir-hashLen], '/')
		cut = cut[:kept+1] + hash(dir)
	}
	return cut
}

// cutName returns a component that is not too long. Its extension stays.
func cutName(name string) string {
	if len(name) <= MaxComponent {
		return name
	}
	extension := path.Ext(name)
	if len(extension) > 8 {
		extension = ""
	}
	kept := MaxComponent - hashLen - len(extension)
	for kept > 0 && !utf8.RuneStart(name[kept]) {
		kept--
	}
	return name[:kept] + hash(name) + extension
}

const hashLen = 1 + (sha256.Size*8+4)/5

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "~" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
}
