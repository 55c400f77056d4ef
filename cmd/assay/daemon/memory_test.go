package daemon

import (
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/storage/bolt"
)

// The shares add up to the budget, and the smallest budget has room for the largest single use of
// each of them.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, mebibytes := range []int{config.LeastMemory, 256, 1000, 16 << 10} {
		for _, bucket := range []bool{false, true} {
			s := divide(mebibytes, bucket)
			sum := s.hot + s.indexes
			for _, b := range s.named() {
				sum += b.Size()
			}
			if total := int64(mebibytes) << 20; sum > total || sum < total-1<<10 {
				t.Errorf("with a bucket %t, the shares of %d MiB are %d bytes, not %d", bucket, mebibytes, sum, total)
			}
		}
	}
	s := divide(config.LeastMemory, true)
	const largestMod, largestList = 16 << 20, 4 << 20
	for _, needs := range []struct {
		what  string
		bytes int64
		share *memory.Budget
	}{
		{"to write an object", bolt.WriterMemory, s.store},
		{"to hash a zip", modzip.Memory, s.proofs},
		{"a go.mod whose length is not known, with the half that it is copied from", largestMod + 1 + largestMod/2, s.fetches},
		{"a list", content.ListMemory, s.fetches},
		{"a webhook", maxHook + 1, s.fetches},
		{"a list that is kept and answered", 2*largestList + 64, s.answers},
	} {
		if needs.share.Size() < needs.bytes {
			t.Errorf("%s: %d bytes, of %d", needs.what, needs.bytes, needs.share.Size())
		}
	}
}
