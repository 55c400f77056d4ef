package main

import (
	"archive/zip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/dirhash"
)

// manyFiles measures a zip with as many files as the largest that are known, from an upstream that
// is 20 ms away and sends 1 Gbit/s.
type manyFiles struct {
	b     *bench
	ways  ways
	store *replay // nil until the first measure
}

const (
	manyModule = "bench.example/many"
	manyNumber = 135_561
)

func (m *manyFiles) measures() []measure {
	const name = "time to the last byte, cold 135 MB zip of 135,561 files, 20 ms, 1 Gbit/s"
	return []measure{
		{name, "direct", "≤ 2", func() (result, error) { return m.compare(m.ways.assay(true), 2) }},
		{"noise: " + name, "the same", "–", func() (result, error) { return m.compare(direct, 0) }},
	}
}

func (m *manyFiles) compare(ours way, atMost float64) (result, error) {
	if err := m.record(); err != nil {
		return result{}, err
	}
	r, err := pairs(min(3, m.b.rounds),
		func() (float64, error) { return m.fetch(ours) },
		func() (float64, error) { return m.fetch(direct) })
	if err != nil {
		return result{}, err
	}
	if atMost == 0 {
		return r.noGoal(), nil
	}
	return r.atMost(atMost), nil
}

// fetch returns the seconds until a client has the whole zip.
func (m *manyFiles) fetch(w way) (float64, error) {
	goproxy, stop, err := w(m.store)
	if err != nil {
		return 0, err
	}
	defer stop()
	begin := time.Now()
	_, err = getInto(m.b.ctx, newClient(), goproxy+"/"+manyModule+"/@v/v1.0.0.zip", io.Discard)
	return time.Since(begin).Seconds(), err
}

// record makes the zip and starts the upstream.
func (m *manyFiles) record() error {
	if m.store != nil {
		return nil
	}
	files, err := m.b.newDir()
	if err != nil {
		return err
	}
	base := filepath.Join(files, filepath.FromSlash(manyModule), "@v", "v1.0.0")
	if err := writeManyFiles(base, manyNumber); err != nil {
		return err
	}
	m.store, err = newReplay(&host{dir: m.b.dir}, files)
	if err != nil {
		return err
	}
	m.store.rtt.Store(int64(20 * time.Millisecond))
	m.store.link.perSecond = 1e9 / 8
	return nil
}

// writeManyFiles writes the files of the module: a zip with n files of about 1 KB each in the zip,
// its hash, and the others.
func writeManyFiles(base string, n int) error {
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(base+".mod", []byte("module "+manyModule+"\n"), 0o644),
		os.WriteFile(base+".info", []byte(`{"Version":"v1.0.0","Time":"2026-01-02T03:04:05Z"}`), 0o644),
		zipManyFiles(base+".zip", n)); err != nil {
		return err
	}
	sum, err := dirhash.HashZip(base+".zip", dirhash.Hash1)
	if err != nil {
		return err
	}
	return os.WriteFile(base+".ziphash", []byte(sum), 0o644)
}

// zipManyFiles writes a zip with n files, whose text is compressed to half.
func zipManyFiles(name string, n int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z := zip.NewWriter(f)
	random := rand.NewChaCha8([32]byte{2})
	data := make([]byte, 700)
	prefix := manyModule + "@v1.0.0/"
	for i := range n {
		file := fmt.Sprintf("%sservice/group-%d/types_%d.go", prefix, i/100, i)
		if i == 0 {
			file = prefix + "go.mod"
		}
		w, err := z.Create(file)
		if err != nil {
			return err
		}
		_, _ = random.Read(data) // never fails
		text := hex.EncodeToString(data)
		if i == 0 {
			text = "module " + manyModule + "\n"
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return errors.Join(z.Close(), f.Close())
}
