package budget

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/storage"
)

const (
	// walkEvery is how old the size of the other files in the directory may be.
	walkEvery = time.Second

	// walkShare is the share of the time that is spent on measuring them, at most: 1/walkShare.
	walkShare = 20
)

// disk measures how many bytes a directory takes on disk: the files of the store at each call, the others from
// time to time.
type disk struct {
	local storage.Occupant
	dir   string

	mu     sync.Mutex
	next   time.Time        // when the other files are measured again
	others map[string]int64 // bytes of the other files, by the first element of their paths
	total  int64            // of others
}

func newDisk(local storage.Occupant, dir string) *disk { return &disk{local: local, dir: dir} }

// use is how much of the disk is taken.
type use struct {
	storage.DiskUse
	others int64
	taken  int64 // bytes of all files
}

// use measures.
func (d *disk) use() (u use, err error) {
	if u.DiskUse, err = d.local.DiskUse(); err != nil {
		return u, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if begin := time.Now(); begin.After(d.next) {
		if err := d.walk(u.Files); err != nil {
			return u, err
		}
		d.next = time.Now().Add(max(walkEvery, walkShare*time.Since(begin)))
	}
	u.others = d.total
	u.taken = u.Allocated + u.others
	return u, nil
}

// expire makes the next use measure the other files again.
func (d *disk) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = time.Time{}
}

// parts returns the bytes of the other files, by the first element of their paths.
func (d *disk) parts() map[string]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.others)
}

// walk measures all files except those of the store, which it is given by their paths. What disappears meanwhile does
// not count, nor does what is in a directory that we may not read, such as lost+found of a file system. A file with
// several names counts once for each.
func (d *disk) walk(except []string) error {
	d.others, d.total = map[string]int64{}, 0
	skip := map[string]bool{}
	for _, name := range except {
		skip[filepath.Clean(name)] = true
	}
	root := d.dir + string(filepath.Separator) // the directory itself may be a symbolic link
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		rel, err := filepath.Rel(d.dir, name)
		if err != nil || skip[name] {
			return err
		}
		first, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		size := allocated(info)
		d.others[first] += size
		d.total += size
		return nil
	})
}
