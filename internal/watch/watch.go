// Package watch reloads values that are made from files when the files change.
package watch

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Every is how often files in use are checked for changes.
const Every = time.Second

// settled is the age from which a file's modification time identifies its content. File
// systems store times in steps, so a younger file is read once more.
const settled = 2 * time.Second

// Files says how a Value is made from files.
type Files[T any] struct {
	// Names are the files. Without any, the Value is the zero T.
	Names []string

	// Load reads them. Two results of Load are equal if their sums are equal.
	Load func() (made T, sum string, err error)

	// Changed is called when the value has changed.
	Changed func()

	// Failed is called when changed files cannot be used: once for each error.
	Failed func(error)
}

// A Value is made from files, and made again when they have changed. While that fails,
// for instance because only one of two files has been written yet, it keeps the old
// value.
type Value[T any] struct {
	files Files[T]

	looked  atomic.Int64 // when the files were last checked, in Unix nanoseconds
	content atomic.Pointer[T]

	mu     sync.Mutex    // guards the fields below; held while Get reads the files
	seen   []fs.FileInfo // the files from which the value was made, nil for a missing one
	sum    string        // of the content
	failed string        // the error of the newer files
}

// New returns a Value that is the zero T until Prepare and its commit.
func New[T any](files Files[T]) *Value[T] { return &Value[T]{files: files} }

// Get returns the value. If the last check was a while ago, it checks the files first;
// meanwhile other callers get the old value.
func (v *Value[T]) Get() T {
	if len(v.files.Names) > 0 {
		now, last := time.Now().UnixNano(), v.looked.Load()
		due := now-last >= int64(Every) || now < last // the clock was set back
		if due && v.looked.CompareAndSwap(last, now) {
			v.refresh()
		}
	}
	content := v.content.Load()
	if content == nil {
		var zero T
		return zero
	}
	return *content
}

// refresh reads the files if they may have changed. It tries unusable files again each
// time.
func (v *Value[T]) refresh() {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, err := v.stat()
	if err == nil && slices.EqualFunc(v.seen, found, sameVersion) {
		v.failed = ""
		return
	}
	made, sum, err := v.files.Load()
	if err != nil {
		if err.Error() != v.failed {
			v.failed = err.Error()
			v.files.Failed(err)
		}
		return
	}
	if v.put(found, made, sum) {
		v.files.Changed()
	}
}

// Prepare makes the value again, also from files that look unchanged. The value is in
// force once commit is called; until then, and on an error, nothing changes.
func (v *Value[T]) Prepare() (commit func(), err error) {
	if len(v.files.Names) == 0 {
		return func() {}, nil
	}
	found, _ := v.stat() // Load returns the error again
	made, sum, err := v.files.Load()
	if err != nil {
		return nil, err
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.put(found, made, sum)
	}, nil
}

// put puts a value into force, and reports whether it has changed. If not, the old value
// stays, with its own state, for instance the keys of an issuer. The caller holds mu.
func (v *Value[T]) put(found []fs.FileInfo, made T, sum string) (changed bool) {
	changed = v.content.Load() == nil || sum != v.sum
	if changed {
		v.content.Store(&made)
	}
	v.seen, v.sum, v.failed = found, sum, ""
	return changed
}

// stat returns the state of the files. Call it before they are read: if one changes
// meanwhile, the next check sees a difference.
func (v *Value[T]) stat() (found []fs.FileInfo, err error) {
	for _, name := range v.files.Names {
		info, err := os.Stat(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		found = append(found, info)
	}
	return found, nil
}

// sameVersion reports whether the content of both files must be the same.
func sameVersion(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode() &&
		time.Since(b.ModTime()) > settled
}
