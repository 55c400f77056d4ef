package modzip_test

import (
	"archive/zip"
	"bufio"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/proxy/modzip"
)

var benchModule = module.Version{Path: "example.com/large", Version: "v1.0.0"}

// writeLarge writes the zip of a module with n files of Go source.
func writeLarge(t testing.TB, name string, n int) {
	source := goSource(t)
	random := rand.New(rand.NewPCG(7, 8))
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	z := zip.NewWriter(out)
	for i := range n {
		w, err := z.Create(fmt.Sprintf("%s/services/part%03d/v%d/resource_manager_%06d_types.go", benchModule, i/500, i/100%5, i))
		if err != nil {
			t.Fatal(err)
		}
		length := 500 + random.IntN(3600)
		at := random.IntN(len(source) - length)
		if _, err := w.Write(source[at : at+length]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}

// goSource returns some hundred kilobytes of Go source.
func goSource(t testing.TB) []byte {
	var all []byte
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, data...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// BenchmarkLarge measures what is done with a zip of 160 MB with 135,561 files, beside a
// plain pass of x/mod.
func BenchmarkLarge(b *testing.B) {
	name := filepath.Join(b.TempDir(), "large.zip")
	writeLarge(b, name, 135_561)
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	want, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("x", func(b *testing.B) {
		b.SetBytes(stat.Size())
		for b.Loop() {
			if got, err := dirhash.HashZip(name, dirhash.Hash1); err != nil || got != want {
				b.Fatal(got, err)
			}
		}
	})
	z, err := modzip.Open(f, stat.Size())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("hash", func(b *testing.B) {
		b.SetBytes(stat.Size())
		scratch := scratchIn(b)
		for b.Loop() {
			if got, err := z.Hash(b.Context(), scratch); err != nil || got != want {
				b.Fatal(got, err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		b.SetBytes(stat.Size())
		scratch := scratchIn(b)
		for b.Loop() {
			if err := z.Check(benchModule, scratch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("shape", func(b *testing.B) {
		b.SetBytes(stat.Size())
		for b.Loop() {
			if err := modzip.CheckShape(f, stat.Size()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
