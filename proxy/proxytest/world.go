package proxytest

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// Database is the name of the checksum database of a world that New makes.
const Database = "sum.test.example"

// World is an upstream with its checksum database.
type World struct {
	Log *sumdbtest.Log

	t      testing.TB
	server *httptest.Server
	closed chan struct{} // when the test ends, to end requests that hang
	faults map[string]fault

	mu      sync.Mutex
	files   map[string][]byte // by protocol path
	counts  map[string]int    // requests, by protocol path
	seen    map[string]int    // requests, by URL path, for faults that pass
	forks   map[string]*sumdbtest.Log
	listing map[string][]string // versions, by escaped module path
	gate    chan struct{}       // what "gated" waits for
}

// fault is a deviation from the correct answer. It returns false if the request is to be
// answered correctly.
type fault func(e *exchange) bool

// exchange is one request to a world.
type exchange struct {
	world *World
	rw    http.ResponseWriter
	r     *http.Request
	path  string // of the protocol
	nth   int    // of the requests with this URL path
}

// URL returns the world as an upstream that shows the fault, or none if it is
// "ok". The faults are those of the table in faults.go.
func (w *World) URL(fault string) string {
	if _, ok := w.faults[fault]; !ok && fault != "ok" {
		w.t.Fatalf("no fault %q", fault)
	}
	return w.server.URL + "/" + fault
}

// GOSUMDB returns the value of GOSUMDB for the world's checksum database.
func (w *World) GOSUMDB() string { return w.Log.Key() }

// OpenGate lets go what the fault "gated" holds back.
func (w *World) OpenGate() { close(w.gate) }

// Add adds the modules in a txtar archive. Its comment is ignored. Each file is
// named PATH@VERSION/FILE; a module without a file go.mod gets the made-up one.
func (w *World) Add(archive string) {
	w.t.Helper()
	modules := map[module.Version][]txtar.File{}
	var order []module.Version
	for _, f := range txtar.Parse([]byte(archive)).Files {
		p, rest, ok := strings.Cut(f.Name, "@")
		version, name, ok2 := strings.Cut(rest, "/")
		if !ok || !ok2 {
			w.t.Fatalf("file %q is not PATH@VERSION/FILE", f.Name)
		}
		m := module.Version{Path: p, Version: version}
		if modules[m] == nil {
			order = append(order, m)
		}
		modules[m] = append(modules[m], txtar.File{Name: name, Data: f.Data})
	}
	for _, m := range order {
		w.AddModule(m, modules[m])
	}
}

// AddModule adds one version of a module, and its record to the database.
func (w *World) AddModule(m module.Version, files []txtar.File) {
	w.t.Helper()
	mod := []byte("module " + m.Path + "\n")
	for _, f := range files {
		if f.Name == "go.mod" {
			mod = f.Data
		}
	}
	content := zipOf(w.t, m, files)
	w.AddRaw(m, infoOf(m), mod, content)
	w.Log.Add(m, hashZip(w.t, content), hashMod(w.t, mod))
}

// AddRaw adds files as they are, without a record.
func (w *World) AddRaw(m module.Version, info, mod, content []byte) {
	w.t.Helper()
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		w.t.Fatal(err)
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	base := escaped + "/@v/" + version
	w.files[base+".info"], w.files[base+".mod"], w.files[base+".zip"] = info, mod, content
	if !module.IsPseudoVersion(m.Version) {
		w.listing[escaped] = append(w.listing[escaped], m.Version)
	}
	versions := slices.Clone(w.listing[escaped])
	semver.Sort(versions)
	w.files[escaped+"/@v/list"] = []byte(strings.Join(versions, "\n") + "\n")
	latest := m.Version
	if len(versions) > 0 {
		latest = versions[len(versions)-1]
	}
	w.files[escaped+"/@latest"] = infoOf(module.Version{Path: m.Path, Version: latest})
}

// AddBig adds n modules with zips of random content of about the size, and returns the paths of the zips.
func (w *World) AddBig(n, size int) (paths []string) {
	random := rand.NewChaCha8(sha256.Sum256([]byte("modules")))
	for i := range n {
		content := make([]byte, size+i*1000)
		random.Read(content)
		m := module.Version{Path: fmt.Sprintf("example.com/big%d", i), Version: "v1.0.0"}
		w.AddModule(m, []txtar.File{{Name: "data", Data: content}})
		paths = append(paths, m.Path+"/@v/v1.0.0.zip")
	}
	return paths
}

// Set makes body the answer at a protocol path; nil takes it away.
func (w *World) Set(path string, body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if body == nil {
		delete(w.files, path)
		return
	}
	w.files[path] = body
}

// File returns the answer at a protocol path as it should be.
func (w *World) File(path string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.files[path]
}

// Count returns how often the protocol path was asked for, whatever the fault.
// A path that ends in * stands for all that begin so.
func (w *World) Count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	prefix, all := strings.CutSuffix(path, "*")
	total := 0
	for p, n := range w.counts {
		if p == path || all && strings.HasPrefix(p, prefix) {
			total += n
		}
	}
	return total
}

// ResetCounts forgets what was counted.
func (w *World) ResetCounts() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.counts)
}

// Paths returns the protocol paths that were asked for, sorted.
func (w *World) Paths() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var paths []string
	for p := range w.counts {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// ServeHTTP answers as the fault in the URL says.
func (w *World) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	fault, p, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	w.mu.Lock()
	w.counts[p]++
	w.seen[r.URL.Path]++
	nth := w.seen[r.URL.Path]
	w.mu.Unlock()
	e := &exchange{w, rw, r, p, nth}
	if f := w.faults[fault]; f != nil && f(e) {
		return
	}
	e.serve(w.Log)
}

// serve answers correctly, with log as the database.
func (e *exchange) serve(log *sumdbtest.Log) {
	if rest, ok := strings.CutPrefix(e.path, "sumdb/"+log.Name()+"/"); ok {
		if rest == "supported" {
			return
		}
		e.reply(log.ServeFile(rest))
		return
	}
	body := e.world.File(e.path)
	if body == nil {
		http.Error(e.rw, "not found: "+e.path, http.StatusNotFound)
		return
	}
	e.reply(body, nil)
}

func (e *exchange) reply(body []byte, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(e.rw, "not found", http.StatusNotFound)
	case err != nil:
		http.Error(e.rw, err.Error(), http.StatusInternalServerError)
	default:
		http.ServeContent(e.rw, e.r, path.Base(e.r.URL.Path), time.Time{}, bytes.NewReader(body))
	}
}

// fork returns a log that shares the first records of the world's and then has
// others, the same one each time for the same name.
func (w *World) fork(name string) *sumdbtest.Log {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forks[name] == nil {
		fork := w.Log.Fork(1)
		for i := range w.Log.Size() + 3 {
			fork.Add(module.Version{Path: "fork.example/" + name + strconv.FormatInt(i, 10), Version: "v1.0.0"}, "h1:"+strings.Repeat("A", 43)+"=", "h1:"+strings.Repeat("B", 43)+"=")
		}
		w.forks[name] = fork
	}
	return w.forks[name]
}

func infoOf(m module.Version) []byte {
	data, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{m.Version, time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		panic(err) // of two plain fields
	}
	return data
}

func zipOf(t testing.TB, m module.Version, files []txtar.File) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		// Stored, so that a test can make a zip of a known size.
		out, err := z.CreateHeader(&zip.FileHeader{Name: m.Path + "@" + m.Version + "/" + f.Name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func hashMod(t testing.TB, mod []byte) string {
	t.Helper()
	hash, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(mod)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func hashZip(t testing.TB, content []byte) string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	files := map[string]*zip.File{}
	for _, f := range z.File {
		names = append(names, f.Name)
		files[f.Name] = f
	}
	hash, err := dirhash.Hash1(names, func(name string) (io.ReadCloser, error) {
		if files[name] == nil {
			return nil, fmt.Errorf("no file %q", name)
		}
		return files[name].Open()
	})
	if err != nil {
		t.Fatal(err)
	}
	return hash
}
