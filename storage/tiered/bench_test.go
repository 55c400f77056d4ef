package tiered_test

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// download reads an object to its end.
func download(b *testing.B, s storage.Store, key string) {
	b.Helper()
	o, err := s.Open(b.Context(), key)
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	if _, err := o.WriteTo(io.Discard); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkHot reads what the local store has, from the local store alone and through both tiers in turn, and
// reports the time of the first divided by that of the second.
func BenchmarkHot(b *testing.B) {
	for _, size := range []int{1000, 200 << 10, 5 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			alone := local(b)
			s := open(b, tiered.Options{Local: alone, Remote: local(b)})
			create(b, s, "key", storagetest.Content(1, size))
			s.Settle(b)
			var times [2]time.Duration
			b.SetBytes(int64(size))
			b.ResetTimer()
			for i := range b.N {
				for j := range 2 {
					which := (i + j) % 2
					begin := time.Now()
					download(b, []storage.Store{alone, s}[which], "key")
					times[which] += time.Since(begin)
				}
			}
			b.ReportMetric(float64(times[0])/float64(times[1]), "ratio")
			b.ReportMetric(float64(times[1].Nanoseconds())/float64(b.N), "ns/tiered")
		})
	}
}

// BenchmarkCold reads 150 modules, each an .info, a go.mod file and a zip, with 10 readers at a time, from the bucket
// through an empty local store; and from the bucket alone, for the ratio. A request takes so long in addition.
func BenchmarkCold(b *testing.B) {
	for _, latency := range []time.Duration{0, 20 * time.Millisecond} {
		b.Run(latency.String(), func(b *testing.B) {
			server := s3test.Start(b)
			filler := bucket(b, server)
			var keys []string
			for i := range 150 {
				zip := []int{20 << 10, 60 << 10, 150 << 10, 400 << 10, 2 << 20}[i%5]
				for suffix, size := range map[string]int{"info": 100, "mod": 800, "zip": zip} {
					key := fmt.Sprintf("m%d/@v/v1.0.0.%s", i, suffix)
					create(b, filler, key, storagetest.Content(uint64(i), size))
					keys = append(keys, key)
				}
			}
			server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Wait: latency} })
			readAll := func(s storage.Store) time.Duration {
				begin := time.Now()
				work := make(chan string)
				var readers sync.WaitGroup
				for range 10 {
					readers.Go(func() {
						for key := range work {
							download(b, s, key)
						}
					})
				}
				for _, key := range keys {
					work <- key
				}
				close(work)
				readers.Wait()
				return time.Since(begin)
			}
			var direct, cold time.Duration
			b.ResetTimer()
			for range b.N {
				direct += readAll(filler)
				s := open(b, tiered.Options{Local: local(b), Remote: bucket(b, server)})
				cold += readAll(s)
				s.Settle(b)
			}
			b.ReportMetric(float64(cold)/float64(direct), "ratio")
			b.ReportMetric(cold.Seconds()/float64(b.N), "s/cold")
		})
	}
}
