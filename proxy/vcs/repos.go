package vcs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs/credential"
)

// repositories are the directories with what was fetched, one for each repository.
// Each is the GOMODCACHE of its runs, of which only the copies of repositories
// outlive a run.
type repositories struct {
	dir   string
	limit int64 // bytes
	locks keyedLock

	mu    sync.Mutex
	sizes map[string]int64 // by name of the directory
}

// cachePart is what stays in a GOMODCACHE: copies of repositories.
const cachePart = "cache/vcs"

// copyName returns the name of the directory with the copy of a repository. The go
// command answers from a copy without asking the host, so a copy serves only those who
// reach as far, and with the same credential, as the fetches that made it.
func copyName(repo *repository, reach Reach, auth *credential.Auth) string {
	id := ""
	if auth != nil {
		id = auth.ID
	}
	key := fmt.Sprintf("%d %q %q %q", reach, repo.system, repo.url, id)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(key)))[:40]
}

// take returns the directory called name, clean, for one run at a time. If nothing was
// fetched into it, release removes it. Directories with the names of older versions are
// never taken; they are the first to be evicted.
func (r *repositories) take(ctx context.Context, name string) (dir string, release func(), err error) {
	unlocked, err := r.locks.lock(ctx, name)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(r.dir, name)
	release = func() {
		if hasNothing(dir) && os.RemoveAll(dir) == nil {
			r.forget(name)
		}
		unlocked()
	}
	if err = os.MkdirAll(filepath.Join(dir, cachePart), 0o700); err == nil {
		err = errors.Join(clear(dir), unlock(dir)) // a killed process may have left something
	}
	if err != nil {
		release()
		return "", nil, ownTrouble("directory of a repository", err)
	}
	return dir, release, nil
}

// clear removes all but the copies of repositories.
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

// removeAll is os.RemoveAll for a directory into which a git of a process that was
// killed still writes: the next try finds what came meanwhile. That git ends soon.
func removeAll(name string) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := os.RemoveAll(name)
		if !errors.Is(err, syscall.ENOTEMPTY) || pause > 500*time.Millisecond {
			return err
		}
		time.Sleep(pause)
	}
}

// unlock removes the locks, and the halves of transfers, that a git left in the copies
// which was killed in the middle. Every later one would refuse to work there.
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

// tidy ends the use of dir: it removes what is not kept, notes when it was used,
// and makes room by removing those that were not used for longest. It returns how
// many it has removed.
func (r *repositories) tidy(dir string) (evicted int) {
	_ = clear(dir) // the next use tries again
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
	name := filepath.Base(dir)
	size := sizeOf(dir)
	r.mu.Lock()
	r.sizes[name] = size
	r.mu.Unlock()
	if r.size() <= r.limit {
		return 0
	}
	r.forgetRemoved()
	for _, old := range r.byAge() {
		if r.size() <= r.limit {
			break
		}
		if old != name && r.remove(old) {
			evicted++
		}
	}
	if r.size() > r.limit { // it alone is too large; its lock is held
		if os.RemoveAll(dir) == nil {
			r.forget(name)
			evicted++
		}
	}
	return evicted
}

// hasNothing reports whether nothing was fetched into dir: the repository does not exist, or
// does not answer. Clients choose what is asked for, so such a directory must not stay: it
// has hardly any bytes to be evicted for, and some ten kilobytes in blocks.
func hasNothing(dir string) bool {
	copies, err := os.ReadDir(filepath.Join(dir, filepath.FromSlash(cachePart)))
	if err != nil {
		return isAbsence(err)
	}
	return !slices.ContainsFunc(copies, func(c fs.DirEntry) bool {
		return c.IsDir() && hasObjects(filepath.Join(dir, filepath.FromSlash(cachePart), c.Name()))
	})
}

// hasObjects reports whether a git directory has an object, and true for what is none.
func hasObjects(copied string) bool {
	objects := filepath.Join(copied, "objects")
	kinds, err := os.ReadDir(objects)
	if err != nil {
		return true
	}
	packs, err := os.ReadDir(filepath.Join(objects, "pack"))
	return err == nil && len(packs) > 0 || slices.ContainsFunc(kinds, func(k fs.DirEntry) bool { return len(k.Name()) == 2 })
}

// remove removes a repository that is not in use.
func (r *repositories) remove(name string) bool {
	unlock, ok := r.locks.tryLock(name)
	if !ok {
		return false
	}
	defer unlock()
	if os.RemoveAll(filepath.Join(r.dir, name)) != nil {
		return false
	}
	r.forget(name)
	return true
}

func (r *repositories) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sizes, name)
}

// forgetRemoved forgets the sizes of directories that were removed from outside.
func (r *repositories) forgetRemoved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.sizes {
		if _, err := os.Stat(filepath.Join(r.dir, name)); isAbsence(err) {
			delete(r.sizes, name)
		}
	}
}

// byAge returns the names of the directories, the one that was not used for longest
// first.
func (r *repositories) byAge() []string {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil
	}
	used := map[string]time.Time{}
	var names []string
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && entry.IsDir() {
			used[entry.Name()] = info.ModTime()
			names = append(names, entry.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int { return used[a].Compare(used[b]) })
	return names
}

// measure finds out what is there at the start.
func (r *repositories) measure() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes = map[string]int64{}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		r.sizes[entry.Name()] = sizeOf(filepath.Join(r.dir, entry.Name()))
	}
}

// size returns what all repositories take, in bytes.
func (r *repositories) size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var total int64
	for _, size := range r.sizes {
		total += size
	}
	return total
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

// keyedLock is a lock for each key that can be waited for with a context.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[key]
		if !ok {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			l.held[key] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock is lock for who does not wait.
func (l *keyedLock) tryLock(key string) (unlock func(), ok bool) {
	l.mu.Lock()
	_, busy := l.held[key]
	l.mu.Unlock()
	if busy {
		return nil, false
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := l.lock(ctx, key)
	return unlock, err == nil
}
