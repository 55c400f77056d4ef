package modzip_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	xmodzip "golang.org/x/mod/zip"

	"github.com/assay-proxy/assay/proxy/modzip"
)

// file is one entry of a test's zip.
type file struct {
	header  zip.FileHeader
	content string
	raw     bool // the sizes stand in the header, without a data descriptor
}

func makeZip(t testing.TB, comment string, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	if err := z.SetComment(comment); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		create := z.CreateHeader
		content := f.content
		if f.raw {
			f.header.CRC32 = crc32.ChecksumIEEE([]byte(f.content))
			f.header.UncompressedSize64 = uint64(len(f.content))
			if f.header.Method == zip.Deflate {
				content = deflated(t, content)
			}
			f.header.CompressedSize64 = uint64(len(content))
			create = z.CreateRaw
		}
		w, err := create(&f.header)
		if err == nil {
			_, err = io.WriteString(w, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func deflated(t testing.TB, s string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = io.WriteString(w, s)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func deflate(name string) zip.FileHeader { return zip.FileHeader{Name: name, Method: zip.Deflate} }

var honest = []file{
	{header: deflate("m@v1/go.mod"), content: "module m\n"},
	{header: deflate("m@v1/a.go"), content: "package m // " + string(make([]byte, 1000))},
	{header: zip.FileHeader{Name: "m@v1/é/stored"}, content: "as it is"},
	{header: deflate("m@v1/empty")},
	{header: zip.FileHeader{Name: "m@v1/time", Method: zip.Deflate, Modified: time.Unix(1e9, 0)}, content: "x"},
	{header: zip.FileHeader{Name: "m@v1/dir/"}},
	{header: deflate("m@v1/raw"), content: "sizes in the header", raw: true},
}

func check(b []byte) error { return modzip.CheckShape(bytes.NewReader(b), int64(len(b))) }

func TestHonest(t *testing.T) {
	many := make([]file, 1<<16+5) // needs zip64 records
	for i := range many {
		many[i] = file{header: zip.FileHeader{Name: fmt.Sprint("m@v1/", i)}}
	}
	for name, b := range map[string][]byte{
		"all forms": makeZip(t, "", honest...), "no entry": makeZip(t, ""), "zip64": makeZip(t, "", many...),
		"65535": makeZip(t, "", many[:1<<16-1]...), "65534": makeZip(t, "", many[:1<<16-2]...),
	} {
		if err := check(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The go command's zip of a directory.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := xmodzip.CreateFromDir(&b, module.Version{Path: "example.com/m", Version: "v1.0.0"}, dir); err != nil {
		t.Fatal(err)
	}
	if err := check(b.Bytes()); err != nil {
		t.Errorf("zip of x/mod/zip: %v", err)
	}
}

// end is the length of the end record.
const end = 22

// insert inserts text into a zip at byte at and adjusts offsets behind it, so that every
// reader of zips accepts the result, also those of entries from moved on.
func insert(b []byte, at int, text string, moved int) []byte {
	le := binary.LittleEndian
	b = append(append(append([]byte(nil), b[:at]...), text...), b[at:]...)
	last := b[len(b)-end:]
	dir := int(le.Uint32(last[16:])) + len(text)
	le.PutUint32(last[16:], uint32(dir))
	for p, i := dir, 0; p < len(b)-end; i++ {
		if i >= moved {
			le.PutUint32(b[p+42:], le.Uint32(b[p+42:])+uint32(len(text)))
		}
		p += 46 + int(le.Uint16(b[p+28:])) + int(le.Uint16(b[p+30:])) + int(le.Uint16(b[p+32:]))
	}
	return b
}

// Each of these has the h1 hash of the original zip, and is refused.
func TestHidden(t *testing.T) {
	plain := makeZip(t, "", honest...)
	le := binary.LittleEndian
	dir := int(le.Uint32(plain[len(plain)-end+16:]))
	second := int(le.Uint32(plain[dir+46+len("m@v1/go.mod")+42:]))
	changed := func(at int, b ...byte) []byte {
		c := bytes.Clone(plain)
		copy(c[at:], b)
		return c
	}
	longer := func() []byte { // the directory has room behind its entries
		c := append(append(bytes.Clone(plain[:len(plain)-end]), "hidden"...), plain[len(plain)-end:]...)
		last := c[len(c)-end:]
		le.PutUint32(last[12:], le.Uint32(last[12:])+6)
		return c
	}
	commented := honest[0]
	commented.header.Comment = "hidden"
	raw := bytes.Index(plain, []byte("m@v1/raw")) - 30
	for name, b := range map[string][]byte{
		"prefix":                        insert(plain, 0, "hidden", 0),
		"prefix, offsets as they were":  append([]byte("hidden"), plain...),
		"between entries":               insert(plain, second, "hidden", 1),
		"before the directory":          insert(plain, dir, "hidden", len(honest)),
		"in the directory":              longer(),
		"behind the end":                append(bytes.Clone(plain), "hidden"...),
		"archive comment":               makeZip(t, "hidden", honest...),
		"entry comment":                 makeZip(t, "", append([]file{commented}, honest[1:]...)...),
		"local name":                    changed(30, 'M'),
		"local method":                  changed(8, 0),
		"local time":                    changed(10, 1),
		"local size":                    changed(22, 1),
		"local size without descriptor": changed(raw+22, 0xff),
		"local extra":                   changed(bytes.Index(plain, []byte("m@v1/time"))+len("m@v1/time")+5, 0xff),
		"disk of an entry":              changed(dir+34, 1),
		"attributes of an entry":        changed(dir+36, 1),
		"disk in the end record":        changed(len(plain)-end+4, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if bytes.Equal(b, plain) {
				t.Fatal("nothing is changed")
			}
			if err := check(b); !errors.Is(err, modzip.ErrShape) {
				t.Errorf("CheckShape = %v, want ErrShape", err)
			}
			sameHash(t, plain, b)
		})
	}
}

// Bytes behind compressed content are inside of an entry: Hash finds them.
func TestHiddenBehindContent(t *testing.T) {
	t.Parallel()
	plain := makeZip(t, "", honest...)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range honest {
		content := []byte(f.content)
		if f.header.Method == zip.Deflate {
			content = []byte(deflated(t, f.content) + "hidden")
		}
		h := zip.FileHeader{Name: f.header.Name, Method: f.header.Method, CRC32: crc32.ChecksumIEEE([]byte(f.content)),
			UncompressedSize64: uint64(len(f.content)), CompressedSize64: uint64(len(content))}
		w, err := z.CreateRaw(&h)
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sameHash(t, plain, b.Bytes())
	if got, err := hashOf(t, plain); err != nil {
		t.Errorf("Hash of the honest zip = %s, %v", got, err)
	}
	if got, err := hashOf(t, b.Bytes()); !errors.Is(err, modzip.ErrShape) {
		t.Errorf("Hash = %s, %v, want ErrShape", got, err)
	}
}

func hashOf(t *testing.T, b []byte) (string, error) {
	z, err := modzip.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return z.Hash(t.Context(), func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "") })
}

// twoDirectories returns a zip whose end record leads to a directory with the entry
// "hidden", while archive/zip finds the directory of the real files: it looks for a zip64
// end record if the directory has 65,535 bytes.
func twoDirectories(t testing.TB) []byte {
	t.Helper()
	le := binary.LittleEndian
	const name = "hidden"
	inner := int64(30 + len(name)) // where the content of the first entry begins
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	z.SetOffset(inner)
	for _, f := range honest {
		w, err := z.CreateHeader(&f.header)
		if err == nil {
			_, err = io.WriteString(w, f.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	last := b.Bytes()[b.Len()-end:]
	at := inner + int64(b.Len()-end) // of the zip64 end record
	end64 := le.AppendUint64(le.AppendUint32(nil, 0x06064b50), 44)
	end64 = append(end64, 45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, n := range []uint64{uint64(len(honest)), uint64(len(honest)), uint64(le.Uint32(last[12:])), uint64(le.Uint32(last[16:]))} {
		end64 = le.AppendUint64(end64, n)
	}
	locator := le.AppendUint32(nil, 0x07064b50)
	locator = le.AppendUint64(le.AppendUint32(locator, 0), uint64(at))
	locator = le.AppendUint32(locator, 1)

	content := string(b.Bytes()[:b.Len()-end]) + string(end64)
	plain := makeZip(t, "", file{header: zip.FileHeader{Name: name}, content: content, raw: true})
	dir := int(le.Uint32(plain[len(plain)-end+16:]))
	// More entries fill the directory up. The locator is in the name of the last one.
	const longest = 1 << 10
	files := []file{{header: zip.FileHeader{Name: name}, content: content, raw: true}}
	for left := 1<<16 - 1 - (len(plain) - end - dir); left > 0; {
		n := min(left-46, longest)
		if rest := left - 46 - n; rest > 0 && rest < 46+len(locator) {
			n -= 46 + len(locator)
		}
		left -= 46 + n
		filler := string(bytes.Repeat([]byte("x"), n))
		if left == 0 {
			filler = filler[:n-len(locator)] + string(locator)
		}
		files = append(files, file{header: zip.FileHeader{Name: filler}, raw: true})
	}
	return makeZip(t, "", files...)
}

// A zip in which other readers find other files, or that contains another whole zip, is
// refused.
func TestTwoDirectories(t *testing.T) {
	t.Parallel()
	b := twoDirectories(t)
	sameHash(t, makeZip(t, "", honest...), b)
	if got, err := hashOf(t, b); err != nil {
		t.Errorf("Hash = %s, %v: this does not show what it should", got, err)
	}
	if err := check(b); !errors.Is(err, modzip.ErrShape) {
		t.Errorf("CheckShape = %v, want ErrShape", err)
	}
}

// Compressed content can have any length: empty blocks have room for any bytes.
func TestHiddenInBlocks(t *testing.T) {
	t.Parallel()
	stored := string([]byte{0, 0, 0, 0xff, 0xff}) // an empty block, with 5 unused bits
	for name, test := range map[string]struct {
		content, packed string
		want            error
	}{
		"empty blocks":       {"", strings.Repeat(stored, 1000) + deflated(t, ""), modzip.ErrShape},
		"beside content":     {strings.Repeat("x", 5000), strings.Repeat(stored, 2000) + deflated(t, strings.Repeat("x", 5000)), modzip.ErrShape},
		"flushed by writers": {"x", stored + deflated(t, "x"), nil},
	} {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.CreateRaw(&zip.FileHeader{Name: "m@v1/x", Method: zip.Deflate, CRC32: crc32.ChecksumIEEE([]byte(test.content)),
			UncompressedSize64: uint64(len(test.content)), CompressedSize64: uint64(len(test.packed))})
		if err == nil {
			_, err = io.WriteString(w, test.packed)
		}
		if err = errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		sameHash(t, makeZip(t, "", file{header: deflate("m@v1/x"), content: test.content}), b.Bytes())
		if err := check(b.Bytes()); !errors.Is(err, test.want) {
			t.Errorf("%s: CheckShape = %v, want %v", name, err, test.want)
		}
	}
}

// Extra fields have times and owners, of some ten bytes each; a whole file is refused.
func TestLongExtra(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]error{60: nil, 300: modzip.ErrShape, 1 << 15: modzip.ErrShape} {
		long := honest[0]
		long.header.Extra = binary.LittleEndian.AppendUint16([]byte{0xfe, 0xca}, uint16(size))
		long.header.Extra = append(long.header.Extra, make([]byte, size)...)
		if err := check(makeZip(t, "", long)); !errors.Is(err, want) {
			t.Errorf("extra field of %d bytes: CheckShape = %v, want %v", size, err, want)
		}
	}
}

// A folder's content is not hashed, so it has none.
func TestFolderWithContent(t *testing.T) {
	t.Parallel()
	b := makeZip(t, "", honest[0], file{header: zip.FileHeader{Name: "m@v1/dirX"}, content: "hidden", raw: true})
	b = bytes.ReplaceAll(b, []byte("dirX"), []byte("dir/"))
	if err := check(b); !errors.Is(err, modzip.ErrShape) {
		t.Errorf("CheckShape = %v, want ErrShape", err)
	}
}

// sameHash fails the test if the h1 hashes differ: then the hidden bytes are hashed.
func sameHash(t *testing.T, a, b []byte) {
	t.Helper()
	var hashes [2]string
	for i, content := range [][]byte{a, b} {
		name := filepath.Join(t.TempDir(), "x.zip")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if hashes[i], err = dirhash.HashZip(name, dirhash.Hash1); err != nil {
			t.Logf("archive/zip refuses it itself: %v", err)
			return
		}
	}
	if hashes[0] != hashes[1] {
		t.Errorf("hash %s, want that of the honest zip", hashes[1])
	}
}

// A truncated zip is refused with ErrShape.
func TestCut(t *testing.T) {
	plain := makeZip(t, "", honest...)
	for n := range plain {
		if err := check(plain[:n]); !errors.Is(err, modzip.ErrShape) {
			t.Fatalf("%d of %d bytes: %v, want ErrShape", n, len(plain), err)
		}
	}
}

// Every byte of an accepted zip counts: if any is changed, the zip is refused, or
// archive/zip sees the change in an entry's name, content or header.
func FuzzCheckShape(f *testing.F) {
	f.Add(makeZip(f, "", honest...))
	f.Add(makeZip(f, "", honest[:1]...))
	f.Add(append(makeZip(f, "", honest[:2]...), "hidden"...))
	f.Add(insert(makeZip(f, "", honest...), 0, "hidden", 0))
	f.Add(twoDirectories(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := check(b)
		if err != nil {
			if !errors.Is(err, modzip.ErrShape) {
				t.Fatalf("CheckShape = %v", err)
			}
			return
		}
		archive, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return // hashing refuses it
		}
		covered := int64(end)
		if len(archive.File) >= 1<<16-1 {
			covered += 56 + 20
		}
		for _, entry := range archive.File {
			covered += 46 + 30 + 2*int64(len(entry.Name)+len(entry.Extra)) + int64(entry.CompressedSize64)
			if entry.Flags&8 != 0 {
				covered += 16
			}
		}
		if covered != int64(len(b)) || archive.Comment != "" {
			t.Errorf("accepted %d bytes, of which %d have a place; comment %q", len(b), covered, archive.Comment)
		}
	})
}
