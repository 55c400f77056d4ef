package modzip_test

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/assay-proxy/assay/proxy/modzip"
)

// packings returns text packed with each level of Go's writer, and as a writer that flushes
// packs it.
func packings(t testing.TB, text []byte) (all [][]byte) {
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		for _, step := range []int{len(text) + 1, 700} {
			var b bytes.Buffer
			w, err := flate.NewWriter(&b, level)
			if err != nil {
				t.Fatal(err)
			}
			for rest := text; len(rest) > 0; {
				n := min(step, len(rest))
				if _, err := w.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				if rest = rest[n:]; len(rest) > 0 {
					if err := w.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			all = append(all, b.Bytes())
		}
	}
	return all
}

// texts are contents of several kinds.
func texts(t testing.TB) [][]byte {
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 9000)
	_, _ = random.Read(noise) // it never fails
	skewed := make([]byte, 30_000)
	for i := range skewed { // rare bytes have long codes
		for skewed[i] = 0; random.Uint64()%2 == 0; {
			skewed[i]++
		}
	}
	source := goSource(t)
	return [][]byte{nil, []byte("a"), []byte("module m\n"), bytes.Repeat([]byte("ab"), 9000), noise, skewed, source[:40<<10], source[100<<10 : 102<<10]}
}

// unpackers unpack one content after the other: ours, and that of compress/flate.
type unpackers struct {
	ours   func(dst, src []byte) bool
	theirs io.ReadCloser // a flate.Resetter
}

func newUnpackers() unpackers { return unpackers{modzip.NewInflate(), flate.NewReader(nil)} }

// compare compares our result with that of compress/flate, and reports whether src can be unpacked and
// nothing follows it.
func (u unpackers) compare(t *testing.T, src []byte) bool {
	t.Helper()
	const limit = 1 << 16
	in := bytes.NewReader(src)
	if err := u.theirs.(flate.Resetter).Reset(in, nil); err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(io.LimitReader(u.theirs, limit+1))
	ok := err == nil && in.Len() == 0 && len(want) <= limit
	got := make([]byte, min(len(want), limit))
	if fits := u.ours(got, src); fits != ok || ok && !bytes.Equal(got, want) {
		t.Errorf("%x: unpacked: %t, compress/flate %t", src, fits, ok)
	}
	return ok
}

// What Go's writer packs is unpacked, and nothing that is cut off, longer, or has another
// length.
func TestInflate(t *testing.T) {
	t.Parallel()
	inflate := modzip.NewInflate()
	for _, text := range texts(t) {
		for i, src := range packings(t, text) {
			dst := make([]byte, len(text))
			if !inflate(dst, src) || !bytes.Equal(dst, text) {
				t.Errorf("%.20q, packing %d: wrong", text, i)
			}
			if inflate(make([]byte, len(text)+1), src) || len(text) > 0 && inflate(dst[1:], src) {
				t.Errorf("%.20q, packing %d: another length is accepted", text, i)
			}
			if inflate(dst, src[:len(src)-1]) || inflate(dst, append(src, 0)) {
				t.Errorf("%.20q, packing %d: a part, or more, is accepted", text, i)
			}
		}
	}
}

// A damaged stream is unpacked as compress/flate unpacks it, or not at all.
func TestInflateDamaged(t *testing.T) {
	t.Parallel()
	random, u := rand.New(rand.NewPCG(1, 2)), newUnpackers()
	for _, text := range texts(t) {
		for _, src := range packings(t, text[:min(len(text), 2000)]) {
			for range 50 {
				damaged := bytes.Clone(src)
				for range 1 + random.IntN(3) {
					damaged[random.IntN(len(damaged))] ^= 1 << random.IntN(8)
				}
				u.compare(t, damaged)
			}
		}
	}
}

func FuzzInflate(f *testing.F) {
	for _, text := range texts(f) {
		for i, src := range packings(f, text[:min(len(text), 300)]) {
			if i%5 == 0 {
				f.Add(src)
			}
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) { newUnpackers().compare(t, src) })
}
