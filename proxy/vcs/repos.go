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
	"time"
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

// take returns the directory of a repository, clean, for one run at a time.
func (r *repositories) take(ctx context.Context, repo *repository) (dir string, release func(), err error) {
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(repo.system+" "+repo.url.String())))[:40]
	release, err = r.locks.lock(ctx, name)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(r.dir, name)
	if err = os.MkdirAll(filepath.Join(dir, cachePart), 0o700); err == nil {
		err = errors.Join(clear(dir), unlock(dir)) // a killed process may have left something
	}
	if err != nil {
		release()
		return "", nil, fmt.Errorf("directory of a repository: %v", err) // its absence is not the module's
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
			if err := os.RemoveAll(filepath.Join(level, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
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
