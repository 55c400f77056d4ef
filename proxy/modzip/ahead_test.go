package modzip_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/assay-proxy/assay/proxy/modzip"
)

// arriving is a zip of which only the first bytes can be read.
type arriving struct {
	t    testing.TB
	data []byte
	size int
}

func (a *arriving) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(a.data[:a.size]).ReadAt(p, at)
}

// hashAhead hashes a zip while it arrives in the given steps, and reports whether the
// entries that were found before the end counted.
func hashAhead(t testing.TB, data []byte, scratch func() (*os.File, error), steps ...int) (string, bool, error) {
	file := &arriving{t: t, data: data}
	a := modzip.NewAhead(file, scratch)
	defer a.Close()
	for _, file.size = range steps {
		if !a.Advance(t.Context(), int64(file.size)) {
			break
		}
	}
	file.size = len(data)
	z, err := modzip.Open(file, int64(len(data)))
	if err != nil {
		return "", false, err
	}
	hash, err := z.HashAhead(t.Context(), a)
	return hash, modzip.Counted(a), err
}

// compareAhead compares the hash of a zip that arrives in steps with that of the complete zip.
func compareAhead(t testing.TB, data []byte, scratch func() (*os.File, error), steps ...int) (counted bool) {
	t.Helper()
	want, wantErr := hash(t, data)
	got, counted, err := hashAhead(t, data, scratch, steps...)
	if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("steps %v: %s, %v, want %s, %v", steps, got, err, want, wantErr)
	}
	if counted && wantErr != nil {
		t.Errorf("steps %v: a zip that cannot be hashed counts: %v", steps, wantErr)
	}
	return counted
}

// Zips that Go writes are hashed while they arrive, wherever the arrival stops.
func TestAhead(t *testing.T) {
	t.Parallel()
	scratch := scratchIn(t)
	data := makeZip(t, "", honest...)
	for at := range data {
		if !compareAhead(t, data, scratch, at) || at%7 == 0 && !compareAhead(t, data, scratch, at/3, at/2, at) {
			t.Errorf("the entries before byte %d do not count", at)
		}
	}
	random := rand.New(rand.NewPCG(11, 12))
	for i := range 60 {
		data := randomZip(t, random, random.IntN(60))
		steps := make([]int, random.IntN(9))
		for i := range steps {
			steps[i] = random.IntN(len(data))
		}
		slices.Sort(steps)
		if !compareAhead(t, data, scratch, steps...) {
			t.Errorf("zip %d does not count", i)
		}
	}
}

// contradictions are zips whose entries cannot be found by their local headers alone. Some
// are zips for other programs.
func contradictions(t testing.TB) map[string][]byte {
	base := makeZip(t, "", honest...)
	change := func(at int, value byte) []byte {
		b := bytes.Clone(base)
		b[at] ^= value
		return b
	}
	size := len(base)
	dir := int(base[size-6]) | int(base[size-5])<<8
	descriptor := func(text string) file {
		return file{header: zip.FileHeader{Name: "m@v1/x", Method: zip.Store}, content: text}
	}
	inner := bytes.Index(base, []byte("PK\x07\x08"))
	fake := "abcd" + "PK\x07\x08\x11\xcd\x82\xed\x04\x00\x00\x00\x04\x00\x00\x00" + "PK\x03\x04 and more"
	return map[string][]byte{
		"name":                  change(dir+46, 1),
		"flags":                 change(dir+8, 2),
		"method":                change(dir+10, 8),
		"CRC-32":                change(dir+16, 1),
		"packed size":           change(dir+20, 1),
		"size":                  change(dir+24, 1),
		"offset":                change(dir+46+11+42, 1),
		"local name":            change(30, 1),
		"local flag":            change(6, 8),
		"local method":          change(8, 8),
		"descriptor, CRC-32":    change(inner+4, 1),
		"descriptor, packed":    change(inner+8, 1),
		"descriptor, size":      change(inner+12, 1),
		"descriptor, signature": change(inner, 1),
		"prefix":                insert(base, 0, "#!/bin/sh", 0),
		"prefix, not counted":   append([]byte("#!/bin/sh"), base...),
		"gap":                   insert(base, bytes.Index(base[1:], []byte("PK\x03\x04"))+1, "gap", 1),
		"content looks like it": makeZip(t, "", descriptor(fake), file{header: deflate("m@v1/y"), content: "y"}),
		"more than one":         append(bytes.Clone(base), base...),
	}
}

// What the directory contradicts does not count: the zip is hashed as a whole.
func TestAheadContradiction(t *testing.T) {
	t.Parallel()
	scratch := scratchIn(t)
	for name, data := range contradictions(t) {
		for _, steps := range [][]int{nil, {len(data) / 2}, {len(data)}, {10, 200, len(data) - 1}} {
			if compareAhead(t, data, scratch, steps...) {
				t.Errorf("%s: it counts", name)
			}
		}
	}
	reversed := makeZip(t, "", honest...)
	if !compareAhead(t, reversed, scratch, len(reversed)) {
		t.Error("the honest one does not count")
	}
}

// Bytes that no hash covers are the business of CheckShape; where they do not move an entry,
// the entries count.
func TestAheadComment(t *testing.T) {
	t.Parallel()
	scratch := scratchIn(t)
	data := makeZip(t, "a comment", honest...)
	plain := makeZip(t, "", honest...)
	dir := int(plain[len(plain)-6]) | int(plain[len(plain)-5])<<8
	for _, data := range [][]byte{data, insert(plain, dir, "gap", 99), append(plain, "behind"...)} {
		if compareAhead(t, data, scratch, len(data)/2) == (check(data) == nil) {
			t.Error("it does not count, or CheckShape accepts it")
		}
	}
}

// Names and sizes that Hash refuses are refused, and a content is unpacked to no more bytes
// than its descriptor says.
func TestAheadRefused(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z := zip.NewWriter(&bomb)
	for i := range 9 { // 576 MiB
		h := &zip.FileHeader{Name: fmt.Sprintf("m@v1/%d", i), Method: zip.Deflate, UncompressedSize64: 64 << 20}
		if _, err := z.CreateRaw(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"newline":    makeZip(t, "", file{header: deflate("m@v1/a\nb"), content: "x"}),
		"bomb":       bomb.Bytes(),
		"encryption": makeZip(t, "", file{header: zip.FileHeader{Name: "m@v1/a", Method: 99}, content: "x", raw: true}),
	} {
		if compareAhead(t, data, scratchIn(t), len(data)) {
			t.Errorf("%s: it counts", name)
		}
	}
}

// The names and hashes of a zip with many files are in a scratch file between two steps, in which
// they are sorted with all others, and repeated names stay in their order.
func TestAheadLarge(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := range 15_000 {
		h := &zip.FileHeader{Name: fmt.Sprintf("m@v1/services/part%03d/v%d/resource_manager_%06d_types.go", i/500, i/100%5, i)}
		if i%50 == 0 {
			h.Name, h.Method = "m@v1/again.go", zip.Deflate
		}
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = fmt.Fprintf(w, "package m // %0100d", i)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	scratch := scratchIn(t)
	want, err := theirs(t, data)
	if err != nil {
		t.Fatal(err)
	}
	var steps []int
	for at := 512 << 10; at < len(data); at += 512 << 10 {
		steps = append(steps, at)
	}
	var got string
	var counted bool
	grown := peak(func() { got, counted, err = hashAhead(t, data, scratch, steps...) })
	if err != nil || got != want || !counted {
		t.Errorf("%s, %v, want %s; it counts: %t", got, err, want, counted)
	}
	if limit := int64(modzip.Memory * 3 / 2); grown > limit {
		t.Errorf("it took %d MB, more than %d", grown>>20, limit>>20)
	}
}

// A full disk or a file that cannot be read while the zip arrives costs what was hashed, and
// is no error of the zip.
func TestAheadDisk(t *testing.T) {
	t.Parallel()
	data := makeZip(t, "", honest...)
	want, err := hash(t, data)
	if err != nil {
		t.Fatal(err)
	}
	full := true
	scratch := scratchIn(t)
	a := modzip.NewAhead(bytes.NewReader(data), func() (*os.File, error) {
		if full {
			return nil, errors.New("no room")
		}
		return scratch()
	})
	defer a.Close()
	if a.Advance(t.Context(), int64(len(data)/2)) {
		t.Error("Advance continues without a scratch file")
	}
	full = false
	z, err := modzip.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := z.HashAhead(t.Context(), a); err != nil || got != want || modzip.Counted(a) {
		t.Errorf("%s, %v, want %s", got, err, want)
	}

	b := modzip.NewAhead(failing{}, scratch)
	defer b.Close()
	if b.Advance(t.Context(), int64(len(data))) {
		t.Error("Advance continues with a file that cannot be read")
	}
	if got, err := z.HashAhead(t.Context(), b); err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

// FuzzAhead changes zips that arrive in two steps. The hash or the error is that of the
// complete zip.
func FuzzAhead(f *testing.F) {
	random := rand.New(rand.NewPCG(13, 14))
	for i := range 8 {
		f.Add(randomZip(f, random, i), uint16(0), byte(0), uint16(100))
	}
	for _, data := range contradictions(f) {
		f.Add(data, uint16(30), byte(1), uint16(200))
	}
	f.Fuzz(func(t *testing.T, data []byte, at uint16, value byte, step uint16) {
		if len(data) == 0 {
			return
		}
		data = bytes.Clone(data)
		data[int(at)%len(data)] ^= value
		compareAhead(t, data, scratchIn(t), int(step)%len(data))
	})
}
