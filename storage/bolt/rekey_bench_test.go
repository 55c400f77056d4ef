package bolt_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// BenchmarkRekey measures moving the keys of a million objects whose blobs have 100 GB: with the
// files in the page cache, and with an empty page cache, which needs root.
func BenchmarkRekey(b *testing.B) {
	dir, before := manyVersions(b, 333_333)
	for name, prepare := range map[string]func() error{
		"cached": func() error { return nil },
		"cold":   func() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				copyTo(b, filepath.Join(dir, "meta.db"), before)
				diskBefore := onDisk(b, dir)
				if err := prepare(); err != nil {
					b.Skip(err)
				}
				b.StartTimer()
				begin := time.Now()
				db, err := bolt.Open(dir, &bolt.Options{Outdated: func(o *bolt.Outdated) error {
					b.Logf("opened after %v", time.Since(begin))
					return o.Rekey(b.Context(), func(r bolt.Rekeyed) { b.Logf("%v %+v", time.Since(begin), r) })
				}})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				db.Close()
				b.Logf("%.1f MB on disk before", float64(diskBefore)/1e6)
				b.ReportMetric(float64(onDisk(b, dir)-diskBefore)/1e6, "MB-more")
				b.StartTimer()
			}
		})
	}
}

// manyVersions makes a store of schema 1 with so many versions, and a copy of its meta.db.
func manyVersions(b *testing.B, versions int) (dir, meta string) {
	b.Helper()
	dir = b.TempDir()
	db := openDB(b, dir)
	create := storage.Info{Key: "sumdb/sum.golang.org/lookup/m@v1.0.0", Size: 1}
	if err := db.Create(b.Context(), create, strings.NewReader("x")); err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(db.AddVersions(versions), db.AddBlobs(versions), db.Outdate(), db.Close()); err != nil {
		b.Fatal(err)
	}
	meta = filepath.Join(b.TempDir(), "meta.db")
	copyTo(b, meta, filepath.Join(dir, "meta.db"))
	return dir, meta
}

func copyTo(b *testing.B, to, from string) {
	b.Helper()
	in, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		b.Fatal(err)
	}
}
