package pinlog_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Three replicas make one log on a server that is not ours.
func TestReplicasVersitygw(t *testing.T) {
	t.Parallel()
	testReplicas(t, newFleetAt(t, s3test.Versitygw(t)))
}

// tally is how many requests there were, and how long they took.
type tally struct {
	mu    sync.Mutex
	count map[string]int
	took  map[string]time.Duration
}

func (s *tally) note(op string, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[op]++
	s.took[op] += time.Since(began)
}

// requests is a store that counts requests.
type requests struct {
	storage.Store
	*tally
}

func (s *requests) Open(ctx context.Context, key string) (storage.Object, error) {
	defer s.note("get", time.Now())
	return s.Store.Open(ctx, key)
}

func (s *requests) Apply(ctx context.Context, b storage.Batch) error {
	defer s.note("put", time.Now())
	return s.Store.Apply(ctx, b)
}

func (s *requests) State(ctx context.Context, name string) ([]byte, error) {
	defer s.note("get", time.Now())
	return s.Store.State(ctx, name)
}

// BenchmarkReplicas pins from three replicas into one log on versitygw, each with so many callers at a time.
// It reports the requests of one pin, and how long one takes in the mean.
func BenchmarkReplicas(b *testing.B) {
	for _, callers := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			f := newFleetAt(b, s3test.Versitygw(b))
			f.create()
			counts := &tally{count: map[string]int{}, took: map[string]time.Duration{}}
			var logs []*pinlog.Log
			for i := range 3 {
				c := f.trusting(fmt.Sprintf("r%d", i))
				c.Bucket.Store = &requests{c.Bucket.Store, counts}
				logs = append(logs, openLog(b, c))
			}
			jobs := make(chan int64)
			var group sync.WaitGroup
			b.ResetTimer()
			for _, l := range logs {
				for range callers {
					group.Go(func() {
						for n := range jobs {
							if _, err := l.Pin(context.Background(), entry(n)); err != nil {
								b.Errorf("Pin: %v", err)
							}
						}
					})
				}
			}
			for n := range b.N {
				jobs <- int64(n)
			}
			close(jobs)
			group.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pins/s")
			for op, n := range counts.count {
				b.ReportMetric(float64(n)/float64(b.N), op+"/pin")
				b.ReportMetric(counts.took[op].Seconds()*1000/float64(n), "ms/"+op)
			}
		})
	}
}
