package main

import (
	"testing"

	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/storage"
)

// The shares are all of the budget and no more, and the least budget has room for the
// largest single thing that is taken from each of them.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, mebibytes := range []int{leastMemory, 256, 1000, 16 << 10} {
		s := divide(mebibytes)
		sum := s.hot + s.indexes
		for _, b := range s.named() {
			sum += b.Size()
		}
		if total := int64(mebibytes) << 20; sum > total || sum < total-1<<10 {
			t.Errorf("the shares of %d MiB are %d bytes, not %d", mebibytes, sum, total)
		}
	}
	s := divide(leastMemory)
	const largestMod = 16 << 20
	if s.store.Size() < storage.WriterMemory || s.proofs.Size() < modzip.Memory || s.fetches.Size() <= largestMod || s.answers.Size() < 4<<20 {
		t.Errorf("%+v is not enough", s.named())
	}
}
