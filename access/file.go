package access

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"

	"github.com/assay-proxy/assay/internal/watch"
)

// maxFile bounds what is read. A hundred thousand users have 8 MB.
const maxFile = 64 << 20

// Permissions that others must not have for a file.
const (
	othersAny   fs.FileMode = 0o007
	othersWrite fs.FileMode = 0o002
)

// watched is a file that is parsed again when it changes.
type watched[T any] struct {
	name      string // "" = none: the content is the zero T
	what      string // its name in messages
	forbidden fs.FileMode
	optional  bool // it may be missing, which means empty
	parse     func([]byte) (T, error)
}

// watch returns the content of the file, and follows its changes. An unreadable or malformed file
// leaves the last good content in force.
func (w watched[T]) watch(log *slog.Logger) *watch.Value[T] {
	files := watch.Files[T]{
		Load:    w.load,
		Changed: func() { log.Info("read the "+w.what+" again, it has changed", "file", w.name) },
		Failed: func(err error) {
			log.Error("changed file is invalid; its last valid version stays in force", "err", err)
		},
	}
	if w.name != "" {
		files.Names = []string{w.name}
	}
	return watch.New(files)
}

// load returns the file's content, and a checksum of its bytes, which may contain secrets.
func (w watched[T]) load() (content T, sum string, err error) {
	data, _, err := readFile(w.name, w.forbidden)
	if w.optional && errors.Is(err, fs.ErrNotExist) {
		data, err = nil, nil
	}
	if err == nil {
		content, err = w.parse(data)
	}
	if err != nil {
		return content, "", fmt.Errorf("%s %s: %w", w.what, w.name, err)
	}
	hash := sha256.Sum256(data)
	return content, string(hash[:]), nil
}

// readFile returns the content of a regular file for which others do not have the forbidden
// permissions.
func readFile(name string, forbidden fs.FileMode) ([]byte, fs.FileInfo, error) {
	// Before opening it: opening a pipe can block forever.
	if info, err := os.Stat(name); err != nil {
		return nil, nil, withoutName(err)
	} else if !info.Mode().IsRegular() {
		return nil, nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, withoutName(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, withoutName(err)
	}
	if err := checkMode(name, info, forbidden); err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, withoutName(err)
	}
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("it has more than %d MiB", maxFile>>20)
	}
	return data, info, nil
}

// withoutName removes the name from an error of package os, because the caller adds it.
func withoutName(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// checkMode refuses a file that other users of the machine can read or change.
func checkMode(name string, info fs.FileInfo, forbidden fs.FileMode) error {
	switch bits := info.Mode() & forbidden; {
	case runtime.GOOS == "windows" || bits == 0:
		return nil
	case forbidden == othersWrite:
		return fmt.Errorf("all users of this machine can change it (mode %04o); run: chmod o-w %s", info.Mode().Perm(), name)
	default:
		return fmt.Errorf("all users of this machine can read or change it (mode %04o); run: chmod o-rwx %s", info.Mode().Perm(), name)
	}
}

// eachLine calls visit with each line that is neither empty nor a comment, and adds the number of
// the line to its error.
func eachLine(data []byte, visit func(line string) error) error {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		text := string(bytes.TrimSpace(line))
		if text == "" || text[0] == '#' {
			continue
		}
		if err := visit(text); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}
