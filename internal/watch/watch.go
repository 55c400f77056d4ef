// Package watch keeps what is made of files up to date.
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

// Every is how often files in use are looked at for changes.
const Every = time.Second

// settled is the age at which a file's time tells its content apart from the
// next. File systems keep times in steps, so a younger file is read once more.
const settled = 2 * time.Second

// Files is how a Value is made of files.
type Files[T any] struct {
	// Names are the files. Without any, the Value is the zero T.
	Names []string

	// Load reads them. Its sum tells what it makes of them apart from anything else.
	Load func() (made T, sum string, err error)

	// Changed is called when there is something else than before.
	Changed func()

	// Failed is called when what has changed cannot be used: once for each error.
	Failed func(error)
}

// A Value is what was made of files. It is made again when they have changed. While that
// fails, for instance because only one of two files is written yet, it stays what it was.
type Value[T any] struct {
	files Files[T]

	looked  atomic.Int64 // when the files were looked at, in Unix nanoseconds
	content atomic.Pointer[T]

	mu     sync.Mutex    // guards the rest; held while Get reads the files
	seen   []fs.FileInfo // the files that content is from, nil for one that was missing
	sum    string        // of the content
	failed string        // the error of newer files
}

// New returns a Value that is the zero T until it is prepared and committed.
func New[T any](files Files[T]) *Value[T] { return &Value[T]{files: files} }

// Get returns the value, after a look at the files if the last one is a while ago. While
// one caller looks, others get the value of before.
func (v *Value[T]) Get() T {
	if len(v.files.Names) > 0 {
		now, last := time.Now().UnixNano(), v.looked.Load()
		due := now-last >= int64(Every) || now < last // or the clock was set back
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

// refresh reads the files if they may be others than those that the content is from.
// Files that cannot be used are tried again each time.
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

// Prepare makes the value again, also of files that look unchanged. It is in force once
// commit is called; until then, and on an error, everything stays as it was.
func (v *Value[T]) Prepare() (commit func(), err error) {
	if len(v.files.Names) == 0 {
		return func() {}, nil
	}
	found, _ := v.stat() // an error comes back from Load
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

// put puts into force what was made of files, and reports whether it is something else.
// If not, the old one stays with what it has learned, the keys of an issuer for instance.
// It needs mu.
func (v *Value[T]) put(found []fs.FileInfo, made T, sum string) (changed bool) {
	changed = v.content.Load() == nil || sum != v.sum
	if changed {
		v.content.Store(&made)
	}
	v.seen, v.sum, v.failed = found, sum, ""
	return changed
}

// stat looks at the files. It comes before they are read: if one changes meanwhile, the
// next look sees another.
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
