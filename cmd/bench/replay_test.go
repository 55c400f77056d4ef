package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
)

// writeModule writes v1.0.0 of a module and its source into a directory in the layout of GOPROXY.
func writeModule(t *testing.T, files, path, requires string) {
	t.Helper()
	source, dir := t.TempDir(), filepath.Join(files, filepath.FromSlash(path), "@v")
	gomod := "module " + path + "\n\ngo 1.21\n" + requires
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(source, "go.mod"), gomod)
	write(filepath.Join(source, "a.go"), "package a\n")
	write(filepath.Join(dir, "v1.0.0.mod"), gomod)
	write(filepath.Join(dir, "v1.0.0.info"), `{"Version":"v1.0.0"}`)
	write(filepath.Join(dir, "list"), "v1.0.0\n")
	name := filepath.Join(dir, "v1.0.0.zip")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := zip.CreateFromDir(f, module.Version{Path: path, Version: "v1.0.0"}, source); err != nil {
		t.Fatal(err)
	}
	sum, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "v1.0.0.ziphash"), sum)
}

// newTestReplay returns a replay of five modules, and a project that requires them.
func newTestReplay(t *testing.T) (m *machine, store *replay, project string) {
	t.Helper()
	files := t.TempDir()
	requires := ""
	for i := range 5 {
		writeModule(t, files, fmt.Sprintf("replay.example/m%d", i), requires)
		requires += fmt.Sprintf("require replay.example/m%d v1.0.0\n", i)
	}
	m = &machine{ctx: t.Context(), dir: t.TempDir()}
	store, err := newReplay(&host{dir: m.dir}, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.http.Close() })
	program := t.TempDir()
	if err := os.WriteFile(filepath.Join(program, "go.mod"), []byte("module main.example\n\ngo 1.21\n"+requires), 0o644); err != nil {
		t.Fatal(err)
	}
	mods, err := hashes(files)
	if err != nil {
		t.Fatal(err)
	}
	if project, err = m.newProject(program, goSum(mods)); err != nil {
		t.Fatal(err)
	}
	return m, store, project
}

// A version of which only the go.mod is recorded has all files, and the go command accepts them. A
// go.sum has only what it was made from.
func TestComplete(t *testing.T) {
	files, dir := t.TempDir(), t.TempDir()
	writeModule(t, files, "replay.example/Old", "")
	base := filepath.Join(files, "replay.example", "!old", "@v", "v1.0.0")
	if err := os.Rename(filepath.Join(files, "replay.example", "Old"), filepath.Join(files, "replay.example", "!old")); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{".info", ".zip", ".ziphash"} {
		if err := os.Remove(base + suffix); err != nil {
			t.Fatal(err)
		}
	}
	mods, err := hashes(files)
	if err != nil || len(mods) != 1 || strings.Count(goSum(mods), "\n") != 1 || !strings.HasPrefix(goSum(mods), "replay.example/Old v1.0.0/go.mod h1:") {
		t.Fatalf("%+v, %v", mods, err)
	}
	store, err := newReplay(&host{dir: dir}, files)
	if err != nil {
		t.Fatal(err)
	}
	defer store.http.Close()
	m := &machine{ctx: t.Context(), dir: dir}
	program := t.TempDir()
	if err := os.WriteFile(filepath.Join(program, "go.mod"), []byte("module main.example\n\ngo 1.21\n\nrequire replay.example/Old v1.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	project, err := m.newProject(program, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.goCommand(project, store.url, store.log.Key(), "mod", "download"); err != nil {
		t.Fatal(err)
	}
}

// A client of a wave requests what the go command requests, in the same phases.
func TestWave(t *testing.T) {
	m, store, project := newTestReplay(t)
	script, err := recordScript(m, project, store)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range script {
		got = append(got, fmt.Sprintf("%d %s %d", len(p.paths), kind(p.paths[0]), p.width))
	}
	if want := []string{"5 .mod 2", "5 .info 1", "5 .zip 2"}; !slices.Equal(got, want) {
		t.Errorf("the phases are %q, not %q", got, want)
	}
	ends, err := runWave(m.ctx, []string{store.url}, 3, script)
	if err != nil {
		t.Fatal(err)
	}
	if len(ends) != len(script) || ends[0] <= 0 || !slices.IsSorted(ends) {
		t.Errorf("the phases ended after %v s", ends)
	}
	visits := store.take()
	if want := map[string]int{".mod": 15, ".info": 15, ".zip": 15}; !maps.Equal(byKind(visits), want) {
		t.Errorf("three clients requested %v, not %v", byKind(visits), want)
	}
	if n := len(again(visits)); n != 30 {
		t.Errorf("%d objects were requested again, not 30", n)
	}
	// Without a go.sum, there is a record for each module.
	if err := os.RemoveAll(filepath.Join(project, "mod")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(project, "go.sum"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.goCommand(project, store.url, store.log.Key(), "mod", "download"); err != nil {
		t.Fatal(err)
	}
	if kinds := byKind(store.take()); kinds["lookup"] != 5 || kinds["tile"] == 0 || kinds[".mod"] != 5 {
		t.Errorf("without a go.sum the requests are %v", kinds)
	}
}

func TestReplay(t *testing.T) {
	_, store, _ := newTestReplay(t)
	for path, want := range map[string]string{
		"/replay.example/m0/@latest":                   `200 {"Version":"v1.0.0"}`,
		"/replay.example/m0/@v/list":                   "200 v1.0.0\n",
		"/replay.example/none/@latest":                 "404",
		"/replay.example/@v/list":                      "404",
		"/sumdb/" + databaseName + "/supported":        "200",
		"/sumdb/" + databaseName + "/lookup/none@v1.0": "404",
	} {
		status, body := fetch(t, store.url+path)
		if got := fmt.Sprint(status, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestKind(t *testing.T) {
	for path, want := range map[string]string{
		"/a.example/b/@v/v1.0.0.mod":          ".mod",
		"/a.example/b/@v/v1.0.0.info":         ".info",
		"/a.example/b/@v/v1.0.0.zip":          ".zip",
		"/a.example/b/@v/list":                "list",
		"/a.example/b/@latest":                "@latest",
		"/sumdb/db/lookup/a.example/b@v1.0.0": "lookup",
		"/sumdb/db/tile/8/0/x001/234.p/5":     "tile",
		"/sumdb/db/latest":                    "latest",
	} {
		if got := kind(path); got != want {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
}

// A request is predicted if its file had been requested from the upstream before; what clients never
// request is not used.
func TestForesight(t *testing.T) {
	at := func(second int, path string, bytes int64) visit {
		return visit{path: path, begin: time.Unix(int64(second), 0), bytes: bytes}
	}
	clients := []visit{
		at(1, "/a/@v/v1.mod", 1), at(5, "/a/@v/v1.info", 1), at(6, "/a/@v/v1.zip", 1), at(7, "/b/@v/v1.mod", 1), at(8, "/sumdb/db/lookup/a@v1", 1),
	}
	upstream := []visit{
		at(2, "/a/@v/v1.mod", 10), at(2, "/sumdb/db/lookup/a@v1", 10), at(2, "/sumdb/db/tile/8/0/000", 8000), // for the request
		at(3, "/a/@v/v1.info", 10), at(3, "/a/@v/v1.zip", 100), // predicted
		at(4, "/c/@v/v1.zip", 50), at(4, "/sumdb/db/lookup/c@v1", 20), at(4, "/c/@v/v1.info", 5), // not used
	}
	want := foresight{requests: 4, begun: 2, fetched: 7, fetchedBytes: 205, unused: 3, unusedBytes: 75, unusedZips: 1}
	if got := see(clients, upstream); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	if r := want.early(); r.met || !strings.HasPrefix(r.text, "0.50 of 4; unused: 3 of 7 upstream requests, 36.6 % of the bytes") {
		t.Errorf("%+v", r)
	}
	if r := want.waste(); r.met || r.text != "0.43 of 7; 1 zips" {
		t.Errorf("%+v", r)
	}
	good := foresight{requests: 10, begun: 8, fetched: 10, fetchedBytes: 100, unused: 1, unusedBytes: 5}
	if !good.early().met || !good.waste().met {
		t.Errorf("%+v, %+v", good.early(), good.waste())
	}
}

// A recorder in front of a server remembers paths and sizes.
func TestObserved(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	defer behind.Close()
	rec, front, err := observed(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := fetch(t, front.URL+"/some/path"); status != http.StatusOK || body != "/some/path" {
		t.Errorf("%d %s", status, body)
	}
	front.Close() // the request has ended
	visits := rec.take()
	if len(visits) != 1 || visits[0].path != "/some/path" || visits[0].bytes != 10 || visits[0].end.Before(visits[0].begin) {
		t.Errorf("%+v", visits)
	}
	if rest := rec.take(); len(rest) != 0 {
		t.Errorf("twice: %+v", rest)
	}
}

// All that is sent over a link takes as long as its bandwidth says.
func TestLink(t *testing.T) {
	l := link{perSecond: 1000}
	begin := time.Now()
	w := httptest.NewRecorder()
	for range 3 {
		if n, err := l.limited(w).Write(make([]byte, 20)); n != 20 || err != nil {
			t.Fatal(n, err)
		}
	}
	if took := time.Since(begin); took < 60*time.Millisecond || w.Body.Len() != 60 {
		t.Errorf("%d bytes took %v", w.Body.Len(), took)
	}
	if unlimited := new(link).limited(w); unlimited != http.ResponseWriter(w) {
		t.Error("without a limit there is another writer")
	}
}

// The zip of many files is a zip of a module that has the hash beside it.
func TestManyFiles(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, filepath.FromSlash(manyModule), "@v", "v1.0.0")
	if err := writeManyFiles(base, 200); err != nil {
		t.Fatal(err)
	}
	checked, err := zip.CheckZip(module.Version{Path: manyModule, Version: "v1.0.0"}, base+".zip")
	if err != nil || checked.Err() != nil || len(checked.Valid) != 200 {
		t.Errorf("%d files, %v, %v", len(checked.Valid), err, checked.Err())
	}
	size, err := os.Stat(base + ".zip")
	if err != nil || size.Size() < 200*900 || size.Size() > 200*1100 {
		t.Errorf("%v, %v", size, err)
	}
	mods, err := hashes(dir)
	if err != nil || len(mods) != 1 || mods[0].Path != manyModule || mods[0].zip == "" {
		t.Errorf("%+v, %v", mods, err)
	}
}

// Small objects have keys of their own, whatever their order.
func TestSmallObjects(t *testing.T) {
	m := &machine{ctx: t.Context()}
	dir := t.TempDir()
	const n = 300
	content, err := m.createAll(dir, n, func(i int) int { return n - 1 - i })
	if err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	for i := range n {
		info, text := smallObject(i)
		want += int64(len(info.Key) + len(text))
	}
	if content != want {
		t.Errorf("%d bytes, not %d", content, want)
	}
	if size, err := sizeOf(dir); err != nil || size < content {
		t.Errorf("the store has %d bytes, %v", size, err)
	}
	var none absent
	if _, err := written(t.TempDir()); err != nil && !errors.As(err, &none) {
		t.Error(err)
	}
}
