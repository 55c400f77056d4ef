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
	"sync"
	"time"
)

// clones are the directories of repositories, one for each. Each is the GOMODCACHE of its
// commands, of which only the git directories outlive a command.
type clones struct {
	dir   string
	limit int64 // bytes
	locks keyedLock

	mu    sync.Mutex
	sizes map[string]int64 // by name of the directory
}

// cloneName returns the name of the clone for a target. The go command answers from a
// clone without asking the host, so a clone is used only with the same reach and the same
// credential as the fetches that made it.
func cloneName(t target) string {
	id := ""
	if t.auth != nil {
		id = t.auth.ID
	}
	key := fmt.Sprintf("%d %q %q %q", t.job.reach, t.repo.system, t.repo.url, id)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(key)))[:40]
}

// take returns the directory called name, clean, for one command at a time. If nothing was
// fetched into it, release removes it. Directories with names of older versions of this
// program are never taken; they are the first to be evicted.
func (c *clones) take(ctx context.Context, name string) (dir string, release func(), err error) {
	unlocked, err := c.locks.lock(ctx, name)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(c.dir, name)
	release = func() {
		if hasNothing(dir) && os.RemoveAll(dir) == nil {
			c.forget(name)
		}
		unlocked()
	}
	if err = os.MkdirAll(filepath.Join(dir, cachePart), 0o700); err == nil {
		err = errors.Join(clear(dir), unlock(dir)) // a killed process may have left something
	}
	if err != nil {
		release()
		return "", nil, fmt.Errorf("directory of a repository: %w", err)
	}
	return dir, release, nil
}

// tidy ends the use of dir: it removes all but the git directories, notes the time, and removes the
// least recently used clones if all are too large. It returns how many it removed.
func (c *clones) tidy(dir string) (evicted int) {
	_ = clear(dir) // the next use tries again
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
	name := filepath.Base(dir)
	size := sizeOf(dir)
	c.mu.Lock()
	c.sizes[name] = size
	c.mu.Unlock()
	if c.size() <= c.limit {
		return 0
	}
	c.forgetRemoved()
	for _, old := range c.byAge() {
		if c.size() <= c.limit {
			break
		}
		if old != name && c.remove(old) {
			evicted++
		}
	}
	if c.size() > c.limit { // it alone is too large; its lock is held
		if os.RemoveAll(dir) == nil {
			c.forget(name)
			evicted++
		}
	}
	return evicted
}

// remove removes a clone that is not in use.
func (c *clones) remove(name string) bool {
	unlock, ok := c.locks.tryLock(name)
	if !ok {
		return false
	}
	defer unlock()
	if os.RemoveAll(filepath.Join(c.dir, name)) != nil {
		return false
	}
	c.forget(name)
	return true
}

func (c *clones) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sizes, name)
}

// forgetRemoved forgets the sizes of directories that were removed from outside.
func (c *clones) forgetRemoved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.sizes {
		if _, err := os.Stat(filepath.Join(c.dir, name)); errors.Is(err, fs.ErrNotExist) {
			delete(c.sizes, name)
		}
	}
}

// byAge returns the names of the directories, the least recently used one first.
func (c *clones) byAge() []string {
	entries, err := os.ReadDir(c.dir)
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

// measure measures the clones of earlier processes.
func (c *clones) measure() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = map[string]int64{}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		c.sizes[entry.Name()] = sizeOf(filepath.Join(c.dir, entry.Name()))
	}
}

// size returns the size of all clones, in bytes.
func (c *clones) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var total int64
	for _, size := range c.sizes {
		total += size
	}
	return total
}
