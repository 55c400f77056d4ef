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
	// MaxKey is the maximum length of a key in bytes. A bucket allows 1,024, of which 128 are left
	// for the prefix of a store in it.
	MaxKey = 1024 - 128

	// MaxComponent is the maximum number of bytes between two slashes of a key. File systems allow
	// no more, and neither do servers that store a bucket in one.
	MaxComponent = 255

	// maxDir is the maximum length of the directory of a key, so that there is room for any name.
	maxDir = MaxKey - MaxComponent - 1

	// MaxState is the maximum size of a state.
	MaxState = 16 << 20

	// MaxSmall is the maximum size of an object of a Batch.
	MaxSmall = 32 << 10

	// MaxBatch is the maximum size of all objects of a Batch together.
	MaxBatch = 1 << 20

	maxText = 1 << 10 // of Hash and of Proof
)

// CheckKey checks a key, or the name of a state, as Store documents.
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

// CheckState checks a state before it is stored.
func CheckState(name string, value []byte) error {
	if err := CheckKey(name); err != nil {
		return err
	}
	if len(value) > MaxState {
		return fmt.Errorf("value of %d bytes is larger than 16 MiB", len(value))
	}
	return nil
}

// Check checks the Info of an object for Create.
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

// Key returns the key for a path. It is the path itself unless that is too long: a directory of
// more than 640 bytes, or a component of more than 255, is cut and ends with a hash of all of it.
// The hash has upper-case letters, which the protocol escapes in its paths, so that no path equals
// such a key.
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

// Prefix returns the prefix of the keys of objects directly in the directory dir: Prefix(dir) plus
// a name of at most 255 bytes is Key(dir + "/" + name).
func Prefix(dir string) string {
	if dir == "" {
		return ""
	}
	return cutDir(dir) + "/"
}

// cutDir cuts a directory, and its components, to the maximum lengths.
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

// cutName cuts a component to the maximum length. Its extension stays.
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
