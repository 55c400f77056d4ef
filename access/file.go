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
	"sync"
	"sync/atomic"
	"time"
)

const (
	// statEvery is how often a file in use is looked at for changes.
	statEvery = time.Second
	// settled is the age at which a file's time tells its content apart from the
	// next. File systems keep times in steps, so a younger file is read once more.
	settled = 2 * time.Second
	// maxFile bounds what is read. A hundred thousand users have 8 MB.
	maxFile = 64 << 20
)

// What others may not be allowed to do with a file.
const (
	othersAny   fs.FileMode = 0o007
	othersWrite fs.FileMode = 0o002
)

// watched is the parsed content of a file, which is read again when the file has
// changed. What cannot be read or parsed leaves the last good content in place.
type watched[T any] struct {
	name      string // "" = none: the content is the zero T
	what      string // for messages
	forbidden fs.FileMode
	optional  bool // it may be missing, which is the same as empty
	parse     func([]byte) (T, error)
	log       *slog.Logger

	checked atomic.Int64 // when the file was looked at, in Unix nanoseconds
	content atomic.Pointer[T]

	mu     sync.Mutex        // guards the rest; held while get reads the file
	seen   fs.FileInfo       // the file that content is from, nil = there was none
	sum    [sha256.Size]byte // of its bytes
	failed string            // what was logged about a newer file
}

// version is one state of a file.
type version[T any] struct {
	content T
	info    fs.FileInfo
	sum     [sha256.Size]byte
}

// get returns the content, after a look at the file if the last one is a while
// ago. Who comes while another looks has the content of before.
func (w *watched[T]) get() T {
	if w.name != "" {
		now, last := time.Now().UnixNano(), w.checked.Load()
		due := now-last >= int64(statEvery) || now < last // or the clock was set back
		if due && w.checked.CompareAndSwap(last, now) {
			w.refresh()
		}
	}
	content := w.content.Load()
	if content == nil {
		var zero T
		return zero
	}
	return *content
}

// refresh reads the file if it may be another than the one that content is from.
// A file that cannot be read or parsed is tried again each time, and logged once.
func (w *watched[T]) refresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if info, err := os.Stat(w.name); (err == nil || errors.Is(err, fs.ErrNotExist)) && sameVersion(w.seen, info) {
		w.failed = ""
		return
	}
	v, err := w.read()
	if err != nil {
		if err.Error() != w.failed {
			w.failed = err.Error()
			w.log.Error("changed file is invalid; its last valid version stays in force", "err", err)
		}
		return
	}
	if v.sum != w.sum {
		w.log.Info("read the "+w.what+" again, it has changed", "file", w.name)
		w.content.Store(&v.content)
	}
	w.seen, w.sum, w.failed = v.info, v.sum, ""
}

// sameVersion reports whether the content of both files must be the same.
func sameVersion(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode() &&
		time.Since(b.ModTime()) > settled
}

// prepare reads the file and returns a function that puts the content in force.
func (w *watched[T]) prepare() (commit func(), err error) {
	if w.name == "" {
		return func() {}, nil
	}
	v, err := w.read()
	if err != nil {
		return nil, err
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.content.Load() == nil || v.sum != w.sum { // else what it has learned stays, an issuer's keys for instance
			w.content.Store(&v.content)
		}
		w.seen, w.sum, w.failed = v.info, v.sum, ""
	}, nil
}

// read returns the file's content, with the file as it was before it was read: if
// it changes meanwhile, the next look sees another.
func (w *watched[T]) read() (v version[T], err error) {
	data, info, err := readFile(w.name, w.forbidden)
	if w.optional && errors.Is(err, fs.ErrNotExist) {
		data, info, err = nil, nil, nil
	}
	if err == nil {
		v.info, v.sum = info, sha256.Sum256(data)
		v.content, err = w.parse(data)
	}
	if err != nil {
		return v, fmt.Errorf("%s %s: %w", w.what, w.name, err)
	}
	return v, nil
}

// readFile returns the content of a regular file with which others cannot do what
// is forbidden.
func readFile(name string, forbidden fs.FileMode) ([]byte, fs.FileInfo, error) {
	// Before it is opened: to open a pipe can take for ever.
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

// withoutName takes the name off an error of package os that the caller says.
func withoutName(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// checkMode refuses a file that others on the machine can read or change.
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

// eachLine calls visit with each line that is neither empty nor a comment, and
// adds the number of the line to its error.
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
