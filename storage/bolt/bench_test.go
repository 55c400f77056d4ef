package bolt_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// The numbers in docs/design/storage.md come from:
//
//	go test -run - -bench . ./storage
//
// and the cold ones, which need root to drop the page cache:
//
//	go test -run - -bench Cold ./storage

var benchSizes = []int{1 << 20, 20 << 20, 70 << 20}

// putFile is the yardstick: a plain file, as durable as an object of the store.
func putFile(b *testing.B, dir, name string, r io.Reader) {
	f, err := os.CreateTemp(dir, "put")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		b.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, step := range []func() error{
		f.Sync, f.Close,
		func() error { return os.Rename(f.Name(), filepath.Join(dir, name)) },
		d.Sync, d.Close,
	} {
		if err := step(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range benchSizes {
		content := storagetest.Content(1, size)
		b.Run(fmt.Sprintf("%dMB/file", size>>20), func(b *testing.B) {
			dir := b.TempDir()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				putFile(b, dir, fmt.Sprint(i%4), bytes.NewReader(content))
			}
		})
		b.Run(fmt.Sprintf("%dMB/store", size>>20), func(b *testing.B) {
			db := openDB(b, b.TempDir())
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				// Different content each time, because equal content would be shared.
				content[i%size]++
				put(b, db, fmt.Sprint(i), content)
				if i >= 4 {
					if err := db.Delete(b.Context(), fmt.Sprint(i-4)); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func put(tb testing.TB, s storage.Store, key string, content []byte) {
	tb.Helper()
	info := storage.Info{Key: key, Size: int64(len(content))}
	if err := s.Create(tb.Context(), info, bytes.NewReader(content)); err != nil {
		tb.Fatal(err)
	}
}

// onlyWriter hides all methods of w but Write.
type onlyWriter struct{ io.Writer }

// readBench measures n reads of size bytes, one after the other.
func readBench(b *testing.B, n, size int, prepare func(), open func(i int) io.ReadCloser) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	buffer := make([]byte, 256<<10)
	for i := 0; b.Loop(); i++ {
		if i%n == 0 && prepare != nil {
			b.StopTimer()
			prepare()
			b.StartTimer()
		}
		r := open(i % n)
		var err error
		if w, ok := r.(storage.Object); ok {
			_, err = w.WriteTo(onlyWriter{io.Discard})
		} else {
			_, err = io.CopyBuffer(onlyWriter{io.Discard}, struct{ io.Reader }{r}, buffer)
		}
		if err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}

func dropCaches(b *testing.B) func() {
	const control = "/proc/sys/vm/drop_caches"
	if f, err := os.OpenFile(control, os.O_WRONLY, 0); err != nil {
		b.Skipf("cannot drop the page cache: %v", err)
	} else {
		f.Close()
	}
	return func() {
		if err := os.WriteFile(control, []byte("3"), 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B)     { benchGet(b, nil) }
func BenchmarkGetCold(b *testing.B) { benchGet(b, dropCaches(b)) }

func benchGet(b *testing.B, prepare func()) {
	for _, size := range benchSizes {
		n := max(4, (200<<20)/size)
		if prepare == nil {
			n = 4
		}
		dir := b.TempDir()
		db := openDB(b, b.TempDir())
		content := storagetest.Content(1, size)
		for i := range n {
			content[i]++
			putFile(b, dir, fmt.Sprint(i), bytes.NewReader(content))
			put(b, db, fmt.Sprint(i), content)
		}
		b.Run(fmt.Sprintf("%dMB/file", size>>20), func(b *testing.B) {
			readBench(b, n, size, prepare, func(i int) io.ReadCloser {
				f, err := os.Open(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					b.Fatal(err)
				}
				return f
			})
		})
		b.Run(fmt.Sprintf("%dMB/store", size>>20), func(b *testing.B) {
			readBench(b, n, size, prepare, func(i int) io.ReadCloser {
				o, err := db.Open(b.Context(), fmt.Sprint(i))
				if err != nil {
					b.Fatal(err)
				}
				return o
			})
		})
		db.Close()
	}
}

// BenchmarkGetSmall measures the most frequent read: a go.mod, an .info, a tile.
func BenchmarkGetSmall(b *testing.B) {
	for _, size := range []int{200, 8 << 10, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			db := openDB(b, b.TempDir())
			for i := range 100 {
				put(b, db, fmt.Sprintf("example.com/module/@v/v1.0.%d.mod", i), storagetest.Content(uint64(i), size))
			}
			buffer := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				o, err := db.Open(b.Context(), "example.com/module/@v/v1.0.42.mod")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(o, buffer); err != nil {
					b.Fatal(err)
				}
				o.Close()
			}
		})
	}
}

// BenchmarkPutSmall measures 1 and 64 concurrent creators.
func BenchmarkPutSmall(b *testing.B) {
	for _, size := range []int{200, 8 << 10, 31 << 10, 40 << 10} {
		for _, creators := range []int{1, 64} {
			b.Run(fmt.Sprintf("%d/x%d", size, creators), func(b *testing.B) {
				db := openDB(b, b.TempDir())
				content := storagetest.Content(1, size)
				var next sync.Mutex
				n := 0
				b.SetParallelism(creators/2 + creators%2)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						next.Lock()
						n++
						key := fmt.Sprint(n)
						next.Unlock()
						own := append(bytes.Clone(content[:size-8]), fmt.Sprintf("%8s", key)...)
						put(b, db, key, own)
					}
				})
			})
		}
	}
}

// BenchmarkPutSmallBesideBlobs reports how long small writes take during large ones.
func BenchmarkPutSmallBesideBlobs(b *testing.B) {
	db := openDB(b, b.TempDir())
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		content := storagetest.Content(1, 20<<20)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			content[i]++
			key := fmt.Sprint("blob", i)
			info := storage.Info{Key: key, Size: int64(len(content))}
			if err := db.Create(b.Context(), info, bytes.NewReader(content)); err != nil {
				b.Error(err)
				return
			}
			if err := db.Delete(b.Context(), key); err != nil {
				b.Error(err)
			}
		}
	}()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		put(b, db, fmt.Sprint(i), []byte("small"))
		took = append(took, time.Since(start))
	}
	close(stop)
	<-done
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
