package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// disk measures how much is written for what is stored.
type disk struct{ b *bench }

func (d disk) measures() []measure {
	return []measure{
		{"bytes written to disk, 32 zips of 8 MB filled", "their content", "≤ 1.15", d.zips},
		{"bytes written to disk, 300,000 small objects in random order", "their content", "≤ 4; file ≤ 1.3", d.small},
	}
}

// zips measures what a server writes while clients fill zips, four at a time.
func (d disk) zips() (result, error) {
	u, err := d.b.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	paths, err := u.addMany(32, 8_000_000)
	if err != nil {
		return result{}, err
	}
	p, err := d.b.filled(false, u)
	if err != nil {
		return result{}, err
	}
	defer p.stop()
	before, err := written(d.b.dir)
	if err != nil {
		return result{}, err
	}
	content, err := d.b.getAll(4, p.url, paths)
	if err != nil {
		return result{}, err
	}
	after, err := written(d.b.dir)
	if err != nil {
		return result{}, err
	}
	ratio := float64(after-before) / float64(content)
	return result{text: fmt.Sprintf("%.2f", ratio), met: ratio <= 1.15}, nil
}

// small measures what a store of this process writes. 50 goroutines create objects, as that many
// clients would, so that commits are shared.
func (d disk) small() (result, error) {
	dir, err := d.b.newDir()
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	before, err := written(dir)
	if err != nil {
		return result{}, err
	}
	const objects = 300_000
	order := rand.New(rand.NewPCG(1, 2)).Perm(objects)
	content, err := d.b.createAll(dir, objects, func(i int) int { return order[i] })
	if err != nil {
		return result{}, err
	}
	after, err := written(dir)
	if err != nil {
		return result{}, err
	}
	size, err := sizeOf(dir)
	if err != nil {
		return result{}, err
	}
	wrote, kept := float64(after-before)/float64(content), float64(size)/float64(content)
	return result{text: fmt.Sprintf("%.1f; file %.2f", wrote, kept), met: wrote <= 4 && kept <= 1.3}, nil
}

// createAll creates a store with objects like those of a server: infos, go.mod files, lookups; in
// this order of their numbers. It returns the bytes of their keys and contents.
func (m *machine) createAll(dir string, objects int, order func(i int) int) (content int64, err error) {
	db, err := bolt.Open(dir, nil)
	if err != nil {
		return 0, err
	}
	const creators = 50
	errs := make([]error, creators)
	sizes := make([]int64, creators)
	var wg sync.WaitGroup
	for c := range creators {
		wg.Go(func() {
			for i := c; i < objects && errs[c] == nil; i += creators {
				info, text := smallObject(order(i))
				sizes[c] += int64(len(info.Key) + len(text))
				errs[c] = db.Create(m.ctx, info, strings.NewReader(text))
			}
		})
	}
	wg.Wait()
	for _, n := range sizes {
		content += n
	}
	return content, errors.Join(errors.Join(errs...), db.Close())
}

// smallObject returns a small object, a different one for each number, with neighbours as modules
// have them: 20 versions of three files.
func smallObject(n int) (storage.Info, string) {
	module := fmt.Sprintf("github.com/organisation-%d/module-%d", n/20_000, n/60)
	file := fmt.Sprintf("%s/@v/v1.%d.0.%s", module, n/3%20, []string{"info", "mod", "zip.small"}[n%3])
	key := storage.ProvedBy("sum.golang.org").Key(file)
	content := strings.Repeat(key+"\n", 4)
	return storage.Info{Key: key, Size: int64(len(content)), Hash: "h1:" + content[:40], Proof: "sum.golang.org"}, content
}

// written returns the bytes that have been written to the disk of a directory, by all processes: what the
// kernel counts for one process is whole folios of the page cache, of which a disk gets a part.
func written(dir string) (int64, error) {
	device, err := deviceOf(dir)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/sys/dev/block/" + device + "/stat")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, absent("a disk below the directory for temporary files")
	}
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text)) // Documentation/block/stat.rst
	if len(fields) < 7 {
		return 0, fmt.Errorf("statistics of a disk: %q", text)
	}
	sectors, err := strconv.ParseInt(fields[6], 10, 64)
	return sectors * 512, err
}

// deviceOf returns the numbers of the device that a directory is on, as in /sys/dev/block.
func deviceOf(dir string) (device string, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	longest := 0
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // proc_pid_mountinfo(5)
		if len(fields) < 5 {
			continue
		}
		point := strings.TrimSuffix(fields[4], "/") + "/"
		if strings.HasPrefix(dir+"/", point) && len(point) >= longest {
			device, longest = fields[2], len(point)
		}
	}
	return device, err
}

// sizeOf returns the bytes of the files in a directory.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
