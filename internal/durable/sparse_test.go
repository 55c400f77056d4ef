package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-proxy/assay/internal/durable"
)

// The file has all bytes, and its length, whatever the sizes of the writes.
func TestSparse(t *testing.T) {
	t.Parallel()
	data := make([]byte, 200_000)
	copy(data, "begin")
	copy(data[90_000:], "middle")
	for _, piece := range []int{1000, 16 << 10, 50_000, len(data)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s := durable.NewSparse(f)
		for rest := data; len(rest) > 0; {
			n, err := s.Write(rest[:min(piece, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, data) {
			t.Errorf("in pieces of %d: %d other bytes, or %v", piece, len(got), err)
		}
	}
}
