package sumdb_test

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// BenchmarkHeld measures the answers from held objects.
func BenchmarkHeld(b *testing.B) {
	_, _, m := mirrored(b, 5000)
	lookup(b, m, sumdbtest.Filler(100))
	b.Run("lookup", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Reply(b.Context(), lookup(b, m, sumdbtest.Filler(100))); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, tile := range map[string]tlog.Tile{
		"full tile": {H: 8, L: 0, N: 0, W: 256}, "edge": {H: 8, L: 0, N: 19, W: 100},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := m.Tile(b.Context(), tile); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAdvance measures accepting a new head that completes one tile, including all writes.
func BenchmarkAdvance(b *testing.B) {
	log, _, m := mirrored(b, 5000)
	for b.Loop() {
		b.StopTimer()
		log.Fill(log.Size() + 256)
		b.StartTimer()
		if err := m.Refresh(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookup measures fetching, proving and storing one record.
func BenchmarkLookup(b *testing.B) {
	_, _, m := mirrored(b, 100_000)
	id := int64(0)
	for b.Loop() {
		lookup(b, m, sumdbtest.Filler(id))
		id = (id + 1) % 100_000
	}
}
