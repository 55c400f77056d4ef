package budget_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/budget"
)

// The files of an engine in a directory below that of the limit count once, and files of the same names that are not
// its own count, too.
func TestEngineBelow(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(w.dir, "blobs.db"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(w.dir, "tier"), &bolt.Options{ReturnSpace: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	data := content("m", 3<<20)
	if err := db.Create(t.Context(), storage.Info{Key: zipKey("m"), Size: int64(len(data))}, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	want := w.du()
	store, err := budget.New(t.Context(), db, budget.Config{Limit: 64 << 20, Dir: w.dir})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := store.Report(); err != nil || r.Taken < want || r.Taken > want+1<<20/2 {
		t.Errorf("%d bytes are counted, %v; on disk are %d", r.Taken, err, want)
	}
}

// A directory that the server may not read, such as lost+found, stops nothing.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(dir, &bolt.Options{ReturnSpace: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with its lower privileges
		if err := dropCapabilities(); err != nil {
			result <- err
			return
		}
		if _, err := os.ReadDir(filepath.Join(dir, "lost+found")); !errors.Is(err, os.ErrPermission) {
			result <- errors.New("the directory can be read")
			return
		}
		_, err := budget.New(t.Context(), db, budget.Config{Limit: 64 << 20, Dir: dir})
		result <- err
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// dropCapabilities makes the calling thread obey the modes of files also if it is of root.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}
