package bolt_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// Deleted objects give their space back at once, whatever the sizes are; the others stay whole, and so does the
// file.
func TestReturnSpace(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	db, err := bolt.Open(dir, &bolt.Options{ReturnSpace: true, Journal: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	empty := onDisk(t, dir)
	random := rand.New(rand.NewPCG(1, 2))
	live, total := map[int]int{}, int64(0)
	for i := range 150 {
		size := 33<<10 + random.IntN(3<<20)
		if i%10 == 0 {
			size += 4 << 20
		}
		content := storagetest.Content(uint64(i), size)
		if err := db.Create(ctx, storage.Info{Key: fmt.Sprint(i), Size: int64(size)}, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		live[i], total = size, total+int64(size)
		for total > 20<<20 {
			for victim, size := range live {
				if err := db.Delete(ctx, fmt.Sprint(victim)); err != nil {
					t.Fatal(err)
				}
				delete(live, victim)
				total -= int64(size)
				break
			}
		}
		if err := db.Deleted(ctx); err != nil {
			t.Fatal(err)
		}
		// An object takes at most a page more for each chunk, and bbolt some pages for each commit.
		if got, most := onDisk(t, dir)-empty, total+total/16+int64(len(live))*(32<<10)+1<<20; got > most {
			t.Fatalf("after %d objects: %d bytes on disk for %d bytes in %d objects, want at most %d", i+1, got, total, len(live), most)
		}
		use, err := db.DiskUse()
		if err != nil || use.Allocated != onDisk(t, dir) || use.Arriving != 0 {
			t.Fatalf("%+v, %v; on disk are %d", use, err, onDisk(t, dir))
		}
	}
	for i, size := range live {
		o, err := db.Open(ctx, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o)
		if err != nil || !bytes.Equal(got, storagetest.Content(uint64(i), size)) {
			t.Errorf("object %d has other bytes, or %v", i, err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
	damaged := func(d storage.Damage) { t.Errorf("%s: %v", d.Key, d.Err) }
	if _, err := db.Verify(ctx, storage.VerifyOptions{Damage: damaged}); err != nil {
		t.Error(err)
	}
	if _, err := db.Compact(ctx); err != nil { // it checks all pages
		t.Error(err)
	}
}

// An object that is deleted while it is read keeps its bytes until Close, and its space is free after that. While a
// backup reads the file nothing becomes a hole, and Compact makes up for it.
func TestReturnSpaceLater(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	db, err := bolt.Open(dir, &bolt.Options{ReturnSpace: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const size = 6 << 20
	content := storagetest.Content(1, size)
	create := func(key string) {
		t.Helper()
		other := append([]byte(key), content...) // otherwise both share a blob
		if err := db.Create(ctx, storage.Info{Key: key, Size: int64(len(other))}, bytes.NewReader(other)); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(key string) {
		t.Helper()
		if err := db.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
		if err := db.Deleted(ctx); err != nil {
			t.Fatal(err)
		}
	}
	empty := onDisk(t, dir)
	create("open")
	o, err := db.Open(ctx, "open")
	if err != nil {
		t.Fatal(err)
	}
	remove("open")
	if got := onDisk(t, dir) - empty; got < size {
		t.Errorf("the open object takes %d bytes of disk, want at least %d", got, size)
	}
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got[len("open"):], content) {
		t.Errorf("the open object has other bytes, or %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Deleted(ctx); err != nil {
		t.Fatal(err)
	}
	if got := onDisk(t, dir) - empty; got > size/4 {
		t.Errorf("%d bytes more than empty are on disk after Close", got)
	}
	create("copied")
	err = db.Backup(ctx, func(storage.BackupFile) error {
		if _, err := db.Stat(ctx, "copied"); err == nil {
			remove("copied")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	use, err := db.DiskUse()
	if err != nil || use.Dead < size*3/4 {
		t.Errorf("after a backup %+v, %v, want Dead to be some %d", use, err, size)
	}
	if freed, err := db.Compact(context.WithoutCancel(ctx)); err != nil || freed < size*3/4 {
		t.Errorf("Compact returned %d, %v", freed, err)
	}
}
