package bolt_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// pageFile is the content of meta.db.
type pageFile []byte

func (f pageFile) page(id uint64) []byte { return f[id*4096:][:4096] }

// point makes element i of a branch refer to a page.
func (f pageFile) point(branch uint64, i int, child uint64) {
	binary.NativeEndian.PutUint64(f.page(branch)[16+i*16+8:], child)
}

// manyPages returns the directory of a closed store with many pages, the used branch of the most children, and a
// page that no bucket uses.
func manyPages(t *testing.T) (dir string, branch, free uint64) {
	t.Helper()
	dir = t.TempDir()
	db := openDB(t, dir)
	for i := range 300 {
		put(t, db, fmt.Sprintf("m.example/@v/v1.0.%d.mod", i), storagetest.Content(uint64(i), 2000))
	}
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	err = raw.View(func(tx *bbolt.Tx) error {
		children := 3
		for id := 2; int64(id)*4096 < tx.Size(); id++ {
			info, err := tx.Page(id)
			switch {
			case err != nil:
				return err
			case info.Type == "free":
				if kind := pageFile(file).page(uint64(id))[8]; kind < 4 { // not the list of free pages of the other meta page
					free = uint64(id)
				}
				continue
			case info.Type == "branch" && info.Count > children:
				children, branch = info.Count, uint64(id)
			}
			id += info.OverflowCount
		}
		return nil
	})
	if err != nil || branch == 0 || free == 0 {
		t.Fatalf("branch %d, free page %d, %v", branch, free, err)
	}
	return dir, branch, free
}

// circles are damages after which bbolt would follow pages until the stack ends.
func circles(branch, free uint64) map[string]func(f pageFile) {
	return map[string]func(f pageFile){
		"its own first child":  func(f pageFile) { f.point(branch, 0, branch) },
		"its own second child": func(f pageFile) { f.point(branch, 1, branch) },
		"the same child twice": func(f pageFile) { copy(f.page(branch)[16+8:], f.page(branch)[16+16+8:][:8]) },
		// Where a leaf should be is a branch that bbolt freed. One meta page is damaged, as it is when bbolt reads a
		// state some of whose pages were used again.
		"a branch for a leaf": func(f pageFile) {
			copy(f.page(free), f.page(branch))
			binary.NativeEndian.PutUint64(f.page(free), free)
			f.point(free, 0, free)
			f.point(branch, 3, free)
			f.page(0)[16+20] ^= 1
		},
	}
}

// Pages in a circle are damage that is found when the store is opened: bbolt would follow them until the stack
// ends, and the process with it.
func TestCircleOfPages(t *testing.T) {
	t.Parallel()
	dir, branch, free := manyPages(t)
	for name, damage := range circles(branch, free) {
		t.Run(name, func(t *testing.T) {
			left := t.TempDir()
			for _, name := range []string{"meta.db", "blobs.db"} {
				file, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				writeSparse(t, filepath.Join(left, name), file)
			}
			patch(t, left, "meta.db", func(file []byte) { damage(file) })
			db, err := bolt.Open(left, nil)
			if err == nil {
				db.Close()
			}
			if !errors.Is(err, storage.ErrDamaged) || !strings.Contains(err.Error(), "two pages refer to it") {
				t.Errorf("the store opens with %v", err)
			}
		})
	}
}

// Verify finds a circle of pages in a store that is open, and ends.
func TestVerifyCircle(t *testing.T) {
	t.Parallel()
	dir, branch, free := manyPages(t)
	db := openDB(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, "meta.db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	circles(branch, free)["a branch for a leaf"](file)
	for _, page := range []uint64{branch, free} {
		if _, err := f.WriteAt(pageFile(file).page(page), int64(page)*4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, found := verify(t, db, true); len(found) != 1 || found[0].Repaired || !strings.Contains(found[0].Err.Error(), "two pages refer to it") {
		t.Errorf("found %v", found)
	}
}
