package modzip_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	xmodzip "golang.org/x/mod/zip"

	"github.com/assay-proxy/assay/proxy/modzip"
)

// scratchIn returns a function that creates scratch files in a folder of the test, which
// must be empty at the end.
func scratchIn(t testing.TB) func() (*os.File, error) {
	dir := t.TempDir()
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("scratch files are left: %v, %v", left, err)
		}
	})
	return func() (*os.File, error) { return os.CreateTemp(dir, "") }
}

func hash(t testing.TB, data []byte) (string, error) {
	z, err := modzip.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", err
	}
	return z.Hash(t.Context(), none)
}

// none fails: small zips need no scratch file.
func none() (*os.File, error) { return nil, errors.New("a scratch file is asked for") }

// theirs is the hash of dirhash.
func theirs(t testing.TB, data []byte) (string, error) {
	name := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dirhash.HashZip(name, dirhash.Hash1)
}

// randomZip returns a zip with entries of Go's writer and of others.
func randomZip(t testing.TB, random *rand.Rand, entries int) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for range entries {
		h := &zip.FileHeader{Method: []uint16{zip.Store, zip.Deflate}[random.IntN(2)]}
		h.Name = fmt.Sprintf("m@v1/%c%d/é %d.go", 'a'+rune(random.IntN(26)), random.IntN(5), random.IntN(max(entries, 1)))
		content := bytes.Repeat([]byte{byte(random.IntN(256))}, random.IntN(3000))
		switch random.IntN(10) {
		case 0:
			h.Name, content = strings.TrimSuffix(h.Name, ".go")+"/", nil
		case 1:
			h.Comment, h.Extra = "a comment", []byte{1, 2, 3, 0, 'x', 'y', 'z'}
		}
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if random.IntN(3) == 0 {
		if err := z.SetComment("of the archive"); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Our hash is that of x/mod, also for repeated names.
func TestHash(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		data := randomZip(t, random, random.IntN(60))
		want, err := theirs(t, data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := hash(t, data); err != nil || got != want {
			t.Errorf("zip %d: %s, %v, want %s", i, got, err, want)
		}
	}
}

// FuzzHash changes zips. If we can hash one, x/mod has the same hash.
func FuzzHash(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 8 {
		f.Add(randomZip(f, random, i), uint16(0), byte(0))
	}
	var rows bytes.Buffer
	writeZip(f, &rows, 3, "e")
	f.Add(rows.Bytes(), uint16(10), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, value byte) {
		if len(data) == 0 {
			return
		}
		data = bytes.Clone(data)
		data[len(data)-1-int(at)%len(data)] ^= value
		got, err := hash(t, data)
		if err != nil {
			return
		}
		if want, err := theirs(t, data); err != nil || got != want {
			t.Errorf("%s, x/mod has %s, %v", got, want, err)
		}
	})
}

// A change of any byte is an error, or changes nothing for x/mod either.
func TestHashTampered(t *testing.T) {
	t.Parallel()
	data := randomZip(t, rand.New(rand.NewPCG(5, 6)), 3)
	name := filepath.Join(t.TempDir(), "x.zip")
	for at := range data {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(data)
			changed[at] ^= bit
			got, err := hash(t, changed)
			if err != nil {
				if !errors.Is(err, modzip.ErrFormat) && !errors.Is(err, modzip.ErrTooLarge) && !errors.Is(err, modzip.ErrShape) {
					t.Errorf("byte %d ^ %#x: %v, which does not say what is wrong", at, bit, err)
				}
				continue
			}
			if err := os.WriteFile(name, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			if want, err := dirhash.HashZip(name, dirhash.Hash1); err != nil || got != want {
				t.Errorf("byte %d ^ %#x: %s, x/mod has %s, %v", at, bit, got, want, err)
			}
		}
	}
}

// writeZip writes a zip with n unsorted empty entries, without keeping them in memory as
// zip.Writer does.
func writeZip(t testing.TB, w io.Writer, entries int, prefix string) {
	out := bufio.NewWriterSize(w, 1<<20)
	le := binary.LittleEndian
	offset := int64(0)
	name := func(i int) string { return fmt.Sprintf("%s%07d", prefix, (i*7919)%entries) }
	for i := range entries {
		b := append(le.AppendUint32(nil, 0x04034b50), make([]byte, 26)...)
		b = append(b, name(i)...)
		le.PutUint16(b[26:], uint16(len(name(i))))
		n, _ := out.Write(b)
		offset += int64(n)
	}
	start, at := offset, int64(0)
	for i := range entries {
		b := append(le.AppendUint32(nil, 0x02014b50), make([]byte, 42)...)
		b = append(b, name(i)...)
		le.PutUint16(b[28:], uint16(len(name(i))))
		le.PutUint32(b[42:], uint32(at))
		at += 30 + int64(len(name(i)))
		n, _ := out.Write(b)
		offset += int64(n)
	}
	end64 := append(le.AppendUint32(nil, 0x06064b50), make([]byte, 52)...)
	le.PutUint64(end64[4:], 44)
	le.PutUint64(end64[24:], uint64(entries))
	le.PutUint64(end64[32:], uint64(entries))
	le.PutUint64(end64[40:], uint64(offset-start))
	le.PutUint64(end64[48:], uint64(start))
	locator := append(le.AppendUint32(nil, 0x07064b50), make([]byte, 16)...)
	le.PutUint64(locator[8:], uint64(offset))
	le.PutUint32(locator[16:], 1)
	end := append(le.AppendUint32(nil, 0x06054b50), make([]byte, 18)...)
	copy(end[8:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	for _, b := range [][]byte{end64, locator, end} {
		_, _ = out.Write(b)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}

// peak returns by how many bytes the heap grew at most while do ran.
func peak(do func()) int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 { metrics.Read(sample); return int64(sample[0].Value.Uint64()) }
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	debug.FreeOSMemory()
	before, most := read(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, read()-before)
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return most
}

// A zip of 13 MB with 120,000 empty entries would take 90 MB as archive/zip reads it.
// Its directory is sorted outside of the memory, and the hash is the same.
func TestManyEntries(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const entries = 120_000
	writeZip(t, f, entries, "example.com/m@v1.0.0/")
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	z, err := modzip.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	scratch := scratchIn(t)
	var got string
	grown := peak(func() { got, err = z.Hash(t.Context(), scratch) })
	if err != nil {
		t.Fatal(err)
	}
	if limit := int64(modzip.Memory * 3 / 2); grown > limit {
		t.Errorf("it took %d MB, more than %d", grown>>20, limit>>20)
	}
	grown = peak(func() { err = z.Check(module.Version{Path: "example.com/m", Version: "v1.0.0"}, scratch) })
	if limit := int64(modzip.Memory * 3 / 2); err != nil || grown > limit {
		t.Errorf("the check took %d MB, more than %d: %v", grown>>20, limit>>20, err)
	}
	names := make([]string, entries)
	for i := range names {
		names[i] = fmt.Sprintf("example.com/m@v1.0.0/%07d", i)
	}
	want, err := dirhash.Hash1(names, func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil })
	if err != nil || got != want {
		t.Errorf("%s, want %s, %v", got, want, err)
	}
}

// A zip that would unpack to more than a module may have is not unpacked: the directory
// declares the sizes, and no content has a byte more.
func TestBomb(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "bomb.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	for i := range 9 { // 576 MiB
		h := &zip.FileHeader{Name: fmt.Sprintf("m@v1/%d", i), Method: zip.Deflate, UncompressedSize64: 64 << 20}
		if _, err := z.CreateRaw(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := modzip.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := archive.Hash(t.Context(), none); !errors.Is(err, modzip.ErrTooLarge) || !strings.Contains(err.Error(), "unpacks to more than") {
		t.Errorf("Hash = %q, %v", got, err)
	}
}

// counted counts the bytes that are read of a file.
type counted struct {
	*bytes.Reader
	n atomic.Int64
}

func (c *counted) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.Reader.ReadAt(p, at)
	c.n.Add(int64(n))
	return n, err
}

// A zip whose directory has another order than its contents is read once all the same: a hostile
// upstream must not choose how often a piece of a file is read.
func TestHashReadsOnce(t *testing.T) {
	t.Parallel()
	files := make([]file, 1000)
	for i := range files {
		files[i] = file{header: deflate(fmt.Sprintf("m@v1/%04d", i)), content: strings.Repeat("content ", i%50)}
	}
	data := makeZip(t, "", files...)
	size := len(data) - 22
	start := int(binary.LittleEndian.Uint32(data[size+16:]))
	var entries [][]byte
	for rest := data[start:size]; len(rest) > 0; {
		n := 46 + int(binary.LittleEndian.Uint16(rest[28:])) + int(binary.LittleEndian.Uint16(rest[30:]))
		entries, rest = append(entries, rest[:n]), rest[n:]
	}
	random := rand.New(rand.NewPCG(15, 16))
	random.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	data = slices.Concat(data[:start], bytes.Join(entries, nil), data[size:])
	want, err := theirs(t, data)
	if err != nil {
		t.Fatal(err)
	}
	in := &counted{Reader: bytes.NewReader(data)}
	z, err := modzip.Open(in, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := z.Hash(t.Context(), none); err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if n := in.n.Load(); n > 3*int64(len(data)) {
		t.Errorf("%d bytes were read of a zip of %d", n, len(data))
	}
}

// Entries that have the same content, and one that takes long to unpack to nothing, are not unpacked
// once for each entry.
func TestHashOverlap(t *testing.T) {
	t.Parallel()
	empty := strings.Repeat("\x00\x00\x00\xff\xff", 2000) + "\x01\x00\x00\xff\xff" // blocks without content
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateRaw(&zip.FileHeader{Name: "m@v1/a", Method: zip.Deflate, CompressedSize64: uint64(len(empty))})
	if err == nil {
		_, err = io.WriteString(w, empty)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	size := len(data) - 22
	start := int(binary.LittleEndian.Uint32(data[size+16:]))
	entry := data[start:size]
	const n = 100
	end := bytes.Clone(data[size:])
	binary.LittleEndian.PutUint16(end[8:], n)
	binary.LittleEndian.PutUint16(end[10:], n)
	binary.LittleEndian.PutUint32(end[12:], uint32(n*len(entry)))
	data = slices.Concat(data[:start], bytes.Repeat(entry, n), end)
	if _, err := theirs(t, data); err != nil {
		t.Errorf("not even x/mod reads it: %v", err)
	}
	if _, err := hash(t, data); !errors.Is(err, modzip.ErrShape) {
		t.Errorf("Hash: %v, want ErrShape", err)
	}
}

// A full disk is not an error of the zip.
func TestScratchFull(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	writeZip(t, &b, 40_000, "example.com/m@v1.0.0/")
	z, err := modzip.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no room")
	if _, err := z.Hash(t.Context(), func() (*os.File, error) { return nil, full }); !errors.Is(err, full) {
		t.Error(err)
	}
}

// checkCases are names of entries, and whether a module may have them.
var checkCases = []struct {
	names string
	ok    bool
}{
	{"go.mod a.go b/c.go b/d.go", true},
	{"a/ a/b.go a/", true},
	{"", true},
	{"a.go A.go", false},
	{"a/b.go A/c.go", false},
	{"a a/b", false},
	{"a/b a", false},
	{"a.go a.go", false},
	{"x/ſ.go x/S.go", false},
	{"x/K.go x/k.go", false},
	{"../a", false},
	{"a//b", false},
	{"CON", false},
	{"a:b", false},
	{"sub/go.mod", false},
	{"GO.MOD", false},
	{"vendor/x/a.go", true},
}

// Names are checked as x/mod checks them.
func TestCheck(t *testing.T) {
	t.Parallel()
	mod := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	for _, test := range checkCases {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for name := range strings.FieldsSeq(test.names) {
			if _, err := z.Create("example.com/m@v1.0.0/" + name); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "x.zip")
		if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		ours, err := modzip.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			t.Fatal(err)
		}
		err = ours.Check(mod, none)
		_, theirs := xmodzip.CheckZip(mod, name)
		if (err == nil) != test.ok || (theirs == nil) != test.ok {
			t.Errorf("%s: %v, x/mod says %v", test.names, err, theirs)
		}
	}
	other := module.Version{Path: "example.com/other", Version: "v1.0.0"}
	var b bytes.Buffer
	writeZip(t, &b, 2, "example.com/m@v1.0.0/")
	if z, err := modzip.Open(bytes.NewReader(b.Bytes()), int64(b.Len())); err != nil || z.Check(other, none) == nil {
		t.Errorf("the files of another module are accepted: %v", err)
	}
}

// FuzzCheck compares the checks of two names with those of x/mod.
func FuzzCheck(f *testing.F) {
	for _, test := range checkCases {
		first, second, _ := strings.Cut(test.names, " ")
		f.Add(first, second)
	}
	mod := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	f.Fuzz(func(t *testing.T, first, second string) {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, name := range []string{first, second} {
			if len(name) > 4000 {
				t.Skip("longer than any file system has it")
			}
			if _, err := z.Create("example.com/m@v1.0.0/" + name); err != nil {
				t.Skip(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Skip(err)
		}
		ours, err := modzip.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "x.zip")
		if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		err = ours.Check(mod, none)
		if _, theirs := xmodzip.CheckZip(mod, name); (err == nil) != (theirs == nil) {
			t.Errorf("%q and %q: %v, x/mod says %v", first, second, err, theirs)
		}
	})
}
