package proxy_test

import (
	"archive/zip"
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// noise adds a module whose zip has some 24 MB.
func noise(world *proxytest.World) (path string) {
	random := rand.NewChaCha8([32]byte{3})
	files := []txtar.File{{Name: "go.mod", Data: []byte("module example.com/noise\n")}}
	for i := range 240 {
		data := make([]byte, 100<<10)
		_, _ = random.Read(data) // it never fails
		files = append(files, txtar.File{Name: "data" + strconv.Itoa(i), Data: data})
	}
	world.AddModule(module.Version{Path: "example.com/noise", Version: "v1.0.0"}, files)
	return "example.com/noise/@v/v1.0.0.zip"
}

// scratchFiles returns the number of scratch files.
func (f *fixture) scratchFiles() int {
	f.t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.dir, "scratch"))
	if err != nil {
		f.t.Fatal(err)
	}
	return len(entries)
}

// startGated starts a server for which half of the zip at path arrives before the gate of the world
// opens. proofs is its memory for hashing one zip at a time.
func startGated(t *testing.T) (f *fixture, path string, proofs *memory.Budget) {
	t.Helper()
	world := newWorld(t)
	path = noise(world)
	proofs = memory.New(modzip.Memory + 1<<20) // room for the lookup
	o := withMemory(content.Memory{Proofs: proofs}, nil)
	o.database = true
	return start(t, world, world.URL("gated"), o), path, proofs
}

// A zip is hashed while it arrives: what is hashed is in a temporary file, and takes no
// memory while nothing arrives.
func TestHashedWhileItArrives(t *testing.T) {
	t.Parallel()
	f, path, proofs := startGated(t)
	resp, err := http.Get(f.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	eventually(t, "half of it has arrived, and is hashed", func() bool { return f.scratchFiles() == 1 && proofs.Used() == 0 })
	f.world.OpenGate()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, f.world.File(path)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	eventually(t, "the file is gone", func() bool { return f.scratchFiles() == 0 })
	if proofs.Used() != 0 {
		t.Errorf("%d bytes are lost", proofs.Used())
	}
}

// A zip that arrives while there is no memory to hash it arrives all the same, and is hashed when
// there is some.
func TestArrivesWithoutMemoryForProofs(t *testing.T) {
	t.Parallel()
	f, path, proofs := startGated(t)
	if err := proofs.Take(t.Context(), modzip.Memory); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(f.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := io.CopyN(&got, resp.Body, 11<<20); err != nil {
		t.Fatalf("after %d bytes: %v", got.Len(), err)
	}
	if n := f.scratchFiles(); n != 0 {
		t.Errorf("%d scratch files: something was hashed without memory", n)
	}
	f.world.OpenGate()
	proofs.Give(modzip.Memory)
	if _, err := got.ReadFrom(resp.Body); err != nil || !bytes.Equal(got.Bytes(), f.world.File(path)) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// A zip with other content than the database says is refused, although it was hashed while it
// arrived, and the next one is.
func TestMismatchWhileItArrives(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	path := noise(world)
	world.Set(path, withChange(t, world.File(path)))
	f := start(t, world, world.URL("ok"), verified())
	if a := f.do(http.MethodGet, path); a.err == nil && a.status == http.StatusOK {
		t.Errorf("%d with %d bytes", a.status, len(a.body))
	}
	f.wantStatus(path, http.StatusForbidden, "checksum mismatch", "/ok has h1:")
	eventually(t, "no scratch file is left", func() bool { return f.scratchFiles() == 0 })
}

// withChange returns a zip with one file more.
func withChange(t *testing.T, data []byte) []byte {
	from, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	to := zip.NewWriter(&b)
	for _, f := range from.File {
		if err := to.Copy(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := to.Create("example.com/noise@v1.0.0/more.go"); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
