package bolt_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// smallObjects is how many objects BenchmarkSmall creates.
const smallObjects = 300_000

// BenchmarkSmall measures what small objects cost on disk, for each byte of their content: the bytes
// that are written to meta.db, and its length.
func BenchmarkSmall(b *testing.B) {
	for _, how := range []struct {
		order    string
		creators int
		batch    int // versions' objects in a Batch; 0: Create
	}{
		{"random", 1, 0}, {"random", 16, 0}, {"random", 64, 0}, {"modules", 1, 0}, {"modules", 64, 0},
		{"random", 1, 3}, {"random", 16, 3},
	} {
		b.Run(fmt.Sprintf("%s/x%d/batch%d", how.order, how.creators, how.batch), func(b *testing.B) {
			for b.Loop() {
				measureSmall(b, how.order == "random", how.creators, max(1, how.batch))
			}
		})
	}
}

func measureSmall(b *testing.B, random bool, creators, batch int) {
	dir := b.TempDir()
	db := openDB(b, dir)
	defer db.Close()
	order := rand.New(rand.NewPCG(1, 2)).Perm(smallObjects / batch)
	var next, content, inFrames atomic.Int64
	var running sync.WaitGroup
	for range creators {
		running.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(order) {
					return
				}
				n := i
				if random {
					n = order[i]
				}
				var group []storage.Small
				for k := range batch {
					group = append(group, smallObject(n*batch+k))
					content.Add(int64(len(group[k].Content)))
					inFrames.Add(int64(bolt.InFrame(group[k])))
				}
				if err := createSmall(b.Context(), db, group); err != nil {
					b.Error(err)
				}
			}
		})
	}
	running.Wait()
	w, err := db.WrittenToMeta()
	if err != nil {
		b.Fatal(err)
	}
	bytes := float64(content.Load())
	frames := float64(inFrames.Load() + w.Frames*bolt.FrameHeader)
	b.ReportMetric(bytes/float64(smallObjects), "content/object")
	b.ReportMetric(float64(w.Commits), "commits")
	b.ReportMetric(float64(w.Pages)/float64(w.Commits), "pages/commit")
	b.ReportMetric(float64(w.Freelist), "freelist-bytes")
	b.ReportMetric((float64(w.Pages)*4096+frames)/bytes, "written/content")
	b.ReportMetric((float64(w.Pages)*4096+frames+float64(w.Frames)*4096)/bytes, "device/content")
	b.ReportMetric(float64(w.Length)/bytes, "length/content")
	b.ReportMetric(float64(w.Length-w.Unused)/bytes, "used/content")
	b.ReportMetric(float64(w.Depth), "depth")
}

func createSmall(ctx context.Context, db *bolt.DB, group []storage.Small) error {
	if len(group) > 1 {
		return db.Apply(ctx, storage.Batch{Create: group})
	}
	info := group[0].Info
	info.Size = int64(len(group[0].Content))
	return db.Create(ctx, info, strings.NewReader(string(group[0].Content)))
}

// smallObject returns the object n of those of versions, each of which has four: a tile, the record,
// the go.mod and the .info.
func smallObject(n int) storage.Small {
	version, r := n/4, rand.New(rand.NewPCG(uint64(n), 3))
	path := fmt.Sprintf("github.com/organisation-%d/module-%d", version/1000, version/20%50)
	name := fmt.Sprintf("v1.%d.0", version%20)
	const database, hash = "sum.golang.org", "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	var info storage.Info
	size := 0
	switch n % 4 {
	case 0:
		info.Key, size = fmt.Sprintf("sumdb/%s/tile/8/0/x%03d/%03d", database, version*37%120000/1000, version*37%1000), 8<<10
		info.Key += fmt.Sprintf("-%d", version)
	case 1:
		info.Key, size = fmt.Sprintf("sumdb/%s/lookup/%s@%s", database, path, name), 300+r.IntN(300)
	case 2:
		info.Key, size = fmt.Sprintf("proved/%s/%s/@v/%s.mod", database, path, name), 200+r.IntN(800)*(1+r.IntN(3))
		info.Hash, info.Proof = hash, database
	case 3:
		info.Key, size = fmt.Sprintf("upstream/%s/@v/%s.info", path, name), 100+r.IntN(150)
	}
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	return storage.Small{Info: info, Content: content}
}
