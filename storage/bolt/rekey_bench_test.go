package bolt_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// BenchmarkRekey measures moving the keys of a million objects.
func BenchmarkRekey(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		db := openDB(b, dir)
		create := storage.Info{Key: "sumdb/sum.golang.org/lookup/m@v1.0.0", Size: 1}
		if err := db.Create(b.Context(), create, strings.NewReader("x")); err != nil {
			b.Fatal(err)
		}
		if err := db.AddVersions(333_333); err != nil {
			b.Fatal(err)
		}
		if err := db.Outdate(); err != nil {
			b.Fatal(err)
		}
		db.Close()
		before, err := os.Stat(filepath.Join(dir, "meta.db"))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		begin := time.Now()
		db, err = bolt.Open(dir, &bolt.Options{Outdated: func(o *bolt.Outdated) error {
			return o.Rekey(b.Context(), func(r bolt.Rekeyed) { b.Logf("%v %+v", time.Since(begin), r) })
		}})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		after, err := os.Stat(filepath.Join(dir, "meta.db"))
		if err != nil {
			b.Fatal(err)
		}
		db.Close()
		b.ReportMetric(float64(before.Size()), "before-B")
		b.ReportMetric(100*float64(after.Size()-before.Size())/float64(before.Size()), "%more")
		b.StartTimer()
	}
}
