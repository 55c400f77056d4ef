package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	modsumdb "golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/policy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

const lib = `v1.0.0
-- go.mod --
module corp.example/lib
-- lib.go --
package lib
`

// hosts is a fixture whose private modules are on the code hosts of a company.
type hosts struct {
	*fixture
	code *vcstest.World
	log  *sumdb.Log
	vcs  *vcs.Source
}

// startPrivate starts a server for which corp.example is private. change may change
// what it is made of.
func startPrivate(t *testing.T, change func(*proxy.Config, *vcs.Config)) *hosts {
	t.Helper()
	return openPrivate(t, newWorld(t), vcstest.New(t), t.TempDir(), change)
}

// openPrivate is startPrivate on directories and hosts that are there already.
func openPrivate(t *testing.T, world *proxytest.World, code *vcstest.World, dir string, change func(*proxy.Config, *vcs.Config)) *hosts {
	t.Helper()
	h := &hosts{code: code}
	f := &fixture{t: t, world: world, dir: dir, logs: new(lockedBuffer)}
	o := verified()
	o.private = "corp.example"
	o.config = func(c *proxy.Config) {
		v := vcs.Config{Dir: filepath.Join(dir, "vcs"), CAFile: code.CAFile(), Lookup: code.Lookup, Dial: code.Dial, Timeout: time.Minute, Logger: c.Logger}
		if change != nil {
			change(c, &v)
		}
		var err error
		if h.log, err = sumdb.OpenLog(t.Context(), sumdb.LogConfig{Dir: filepath.Join(dir, "log"), Name: "log.corp.example", Logger: c.Logger}); err != nil {
			t.Fatal(err)
		}
		if h.vcs, err = vcs.New(v); err != nil {
			t.Fatal(err)
		}
		if err := h.vcs.Tools(); err != nil {
			t.Fatal(err)
		}
		c.Log, c.VCS = h.log, h.vcs
	}
	f.open(world.URL("ok"), o)
	h.fixture = f
	t.Cleanup(h.stop)
	return h
}

// stop stops everything, so that its directory can be opened again.
func (h *hosts) stop() {
	h.close()
	_ = h.vcs.Close()
	_ = h.log.Close()
}

// ok gets path and returns the body of the answer, which must be a good one.
func (h *hosts) ok(path string, header ...string) string {
	h.t.Helper()
	a := h.get(path, header...)
	if a.status != http.StatusOK || a.err != nil {
		h.t.Fatalf("GET %s = %v\n%s", path, a, h.logs)
	}
	return string(a.body)
}

// A private module comes whole from its repository, once, and nobody outside hears
// its name.
func TestPrivateFetch(t *testing.T) {
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib, strings.Replace(lib, "v1.0.0", "v1.1.0", 1))
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("list = %q", got)
	}
	var latest struct {
		Version string
		Origin  struct{ Hash string }
	}
	if err := json.Unmarshal([]byte(h.ok("corp.example/lib/@latest")), &latest); err != nil || latest.Version != "v1.1.0" || latest.Origin.Hash == "" {
		t.Errorf("latest = %+v, %v", latest, err)
	}
	var query struct{ Version string }
	if err := json.Unmarshal([]byte(h.ok("corp.example/lib/@v/main.info")), &query); err != nil || query.Version != "v1.1.0" {
		t.Errorf("main = %+v, %v", query, err)
	}
	if got := h.ok("corp.example/lib/@v/v1.0.0.mod"); got != "module corp.example/lib\n" {
		t.Errorf("mod = %q", got)
	}
	name := filepath.Join(t.TempDir(), "lib.zip")
	if err := os.WriteFile(name, []byte(h.ok("corp.example/lib/@v/v1.0.0.zip")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := zip.CheckZip(module.Version{Path: "corp.example/lib", Version: "v1.0.0"}, name); err != nil {
		t.Errorf("zip: %v", err)
	}
	hash, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := h.log.Find(module.Version{Path: "corp.example/lib", Version: "v1.0.0"})
	if err != nil || entry.Zip != hash || !strings.Contains(entry.Origin, repo.URL()) {
		t.Errorf("the log has %+v, %v; want %s from %s", entry, err, hash, repo.URL())
	}
	if !strings.Contains(h.ok("corp.example/lib/@v/v1.0.0.info"), `"Version":"v1.0.0"`) {
		t.Error("no info")
	}
	if h.log.Size() != 1 {
		t.Errorf("the log has %d entries, want that of v1.0.0", h.log.Size())
	}
	for _, path := range h.world.Paths() {
		if strings.Contains(path, "corp.example") {
			t.Errorf("the upstream was asked for %s", path)
		}
	}
	// What is stored needs no repository.
	repo.Vanish()
	a := h.get("corp.example/lib/@v/v1.0.0.zip")
	if a.status != http.StatusOK || a.header.Get("Cache-Status") != "assay; hit" || a.header.Get("Cache-Control") != "private, max-age=31536000, immutable" {
		t.Errorf("GET of what is stored = %d, %v", a.status, a.header)
	}
	h.ok("corp.example/lib/@v/v1.1.0.zip") // from our copy of the repository
	h.wantStatus("corp.example/lib/@v/v1.2.0.zip", http.StatusNotFound, "git.corp.example")
}

// Every error of a repository has its own status.
func TestPrivateErrors(t *testing.T) {
	h := startPrivate(t, func(_ *proxy.Config, v *vcs.Config) { v.Timeout = 3 * time.Second })
	h.code.Module("lib", lib)
	h.wantStatus("corp.example/lib/@v/v1.9.0.zip", http.StatusNotFound, "not found: corp.example/lib/@v/v1.9.0.zip")
	h.wantStatus("corp.example/lib/@v/nosuchbranch.info", http.StatusNotFound)
	h.wantStatus("corp.example/nothing/@v/list", http.StatusNotFound, "corp.example")
	h.wantStatus("corp.example/lib/v2/@v/v2.0.0.zip", http.StatusNotFound)
	h.code.Page("inside", "corp.example/inside git https://169.254.169.254/x")
	h.wantStatus("corp.example/inside/@v/list", http.StatusForbidden, "not allowed")
	h.code.Password("ci", "secret-of-git")
	h.wantStatus("corp.example/lib/@v/v1.0.1.zip", http.StatusForbidden, "git.corp.example does not let this proxy read", "--credentials")
	h.code.Password("", "")
	h.code.Status(http.StatusServiceUnavailable)
	h.wantStatus("corp.example/lib/@v/v1.0.2.zip", http.StatusBadGateway, "git.corp.example failed for")
	h.code.Status(0)
	h.code.Hang(true)
	h.wantStatus("corp.example/lib/@v/v1.0.3.zip", http.StatusGatewayTimeout, "timeout")
	h.code.Hang(false)
	h.ok("corp.example/lib/@v/v1.0.0.zip")
}

// The tag moves after the version was pinned, and the store is lost: what comes
// then is refused, whoever is right.
func TestPrivateMovedTag(t *testing.T) {
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	first := strings.TrimSpace(repo.Git("rev-parse", "HEAD"))
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	second := repo.Commit("-- lib.go --\npackage lib // evil\n")
	repo.Tag("v1.0.0")
	for _, dir := range []string{"data", "vcs"} {
		if err := os.RemoveAll(filepath.Join(h.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	again := openPrivate(t, h.world, h.code, h.dir, nil)
	for _, file := range []string{"zip", "mod", "info"} {
		a := again.wantStatus("corp.example/lib/@v/v1.0.0."+file, http.StatusForbidden, "changed: the zip of corp.example/lib@v1.0.0 is not what it was", first, second, "first h1:", "now   h1:")
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control of a refusal is %q", a.header.Get("Cache-Control"))
		}
	}
	evidence, err := filepath.Glob(filepath.Join(h.dir, "evidence", "changed-*"))
	if err != nil || len(evidence) != 1 {
		t.Errorf("evidence: %v, %v", evidence, err)
	}
	if again.log.Size() != 1 || again.log.Check(t.Context()) != nil {
		t.Error("the log has changed")
	}
}

// A tag that moves while everything is there changes nothing for anybody.
func TestPrivateMovedTagHeld(t *testing.T) {
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	first := h.ok("corp.example/lib/@v/v1.0.0.zip")
	repo.Commit("-- lib.go --\npackage lib // evil\n")
	repo.Tag("v1.0.0")
	h.server.Pushed(repo.URL())
	if again := h.ok("corp.example/lib/@v/v1.0.0.zip"); again != first {
		t.Error("the stored content has changed")
	}
}

// Who can write to the disk can write a zip and its hash. The log has another one.
func TestPrivateTamperedDisk(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	key := "corp.example/lib/@v/v1.0.0.zip"
	content := h.ok(key)
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	h.stop()
	for name, test := range map[string]struct {
		key  string
		info func(*storage.Info)
		data string
	}{
		"content and hash": {key, func(i *storage.Info) { i.Hash = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }, content},
		"content alone":    {key, nil, content[:len(content)-30]},
		"a go.mod":         {"corp.example/lib/@v/v1.0.0.mod", nil, "module corp.example/lib\n\nrequire evil.example v1.0.0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := storage.Open(filepath.Join(h.dir, "data"), nil)
			if err != nil {
				t.Fatal(err)
			}
			info, err := store.Stat(t.Context(), test.key)
			if err != nil {
				t.Fatal(err)
			}
			good := info
			if test.info != nil {
				test.info(&info)
			}
			replaceStored(t, store, info, test.data)
			store.Close()
			again := openPrivate(t, h.world, h.code, h.dir, nil)
			again.wantStatus(test.key, http.StatusForbidden, "changed: the", "the disk of this proxy")
			again.wantStatus(test.key, http.StatusForbidden, "changed: the")
			again.stop()
			if store, err = storage.Open(filepath.Join(h.dir, "data"), nil); err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if still, err := store.Stat(t.Context(), test.key); err != nil || still.Hash != info.Hash {
				t.Errorf("what was found is not kept: %+v, %v", still, err)
			}
			original := content
			if strings.HasSuffix(test.key, ".mod") {
				original = "module corp.example/lib\n"
			}
			replaceStored(t, store, good, original)
		})
	}
}

// hashesOf returns the h1 hashes of a zip and a go.mod, as the go command has them.
func hashesOf(t *testing.T, content, mod []byte) (zipHash, modHash string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	zipHash, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	modHash, err = dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(mod)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return zipHash, modHash
}

func replaceStored(t *testing.T, store *storage.DB, info storage.Info, data string) {
	t.Helper()
	if err := store.Delete(t.Context(), info.Key); err != nil {
		t.Fatal(err)
	}
	info.Size = int64(len(data))
	if err := store.Create(t.Context(), info, strings.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

// A tag shows within Fresh, at once when its commit is asked for, and at once after
// its repository has said so.
func TestPrivateNewTags(t *testing.T) {
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Fresh = time.Hour })
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	h.ok("corp.example/lib/@latest")
	h.wantStatus("corp.example/lib/@v/v1.1.0.info", http.StatusNotFound)
	commit := repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\n" {
		t.Errorf("list = %q, which is not yet an hour old", got)
	}
	if got := h.ok("corp.example/lib/@v/" + commit + ".info"); !strings.Contains(got, `"v1.1.0"`) {
		t.Errorf("the commit is %s", got)
	}
	h.server.Pushed("https://other.example/x")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\n" {
		t.Errorf("list after another repository's push = %q", got)
	}
	h.server.Pushed("git@git.corp.example:lib.git")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("list after the push = %q", got)
	}
	if got := h.ok("corp.example/lib/@latest"); !strings.Contains(got, `"v1.1.0"`) {
		t.Errorf("latest after the push = %q", got)
	}
	h.ok("corp.example/lib/@v/v1.1.0.info") // its absence is forgotten too

	h.code.Requests()
	h.ok("corp.example/lib/@v/list")
	h.ok("corp.example/lib/@latest")
	if asked := h.code.Requests(); len(asked) != 0 {
		t.Errorf("fresh answers asked for %q", asked)
	}
}

// An answer that is older than Fresh is never given without asking, other than for
// a public module.
func TestPrivateFreshness(t *testing.T) {
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Fresh = time.Millisecond })
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("list = %q", got)
	}
	h.code.Status(http.StatusServiceUnavailable)
	a := h.get("corp.example/lib/@v/list")
	if a.status != http.StatusOK || a.header.Get("Cache-Status") != "assay; hit; detail=stale" || a.header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("while the host is down: %v %v", a, a.header)
	}
}

// Twenty clients that ask for everything of a version cause one fetch, and those
// who ask for what is stored do not wait for it.
func TestPrivateCoalesces(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	h.want("example.com/hello/@v/v1.0.0.zip")
	h.code.Hang(true)
	var clients sync.WaitGroup
	for i := range 21 {
		clients.Go(func() {
			path := "corp.example/lib/@v/v1.0.0." + []string{"info", "mod", "zip"}[i%3]
			if a := h.get(path); a.status != http.StatusOK {
				t.Errorf("GET %s = %v", path, a)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	begin := time.Now()
	h.want("example.com/hello/@v/v1.0.0.zip")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("a hit took %v beside a host that hangs", took)
	}
	h.code.Requests()
	h.code.Hang(false)
	clients.Wait()
	packs := 0
	for _, r := range h.code.Requests() {
		if strings.HasPrefix(r, "POST") && strings.HasSuffix(r, "/git-upload-pack") {
			packs++
		}
	}
	if packs > 3 { // one to list the references, one or two to fetch
		t.Errorf("%d requests for packs", packs)
	}
}

// direct gets public modules from their repositories, and proves them as always.
func TestDirect(t *testing.T) {
	world, code := newWorld(t), vcstest.New(t)
	h := openPrivate(t, world, code, t.TempDir(), nil)
	repo := code.Module("lib", lib) // public here
	chain, err := fetch.New(fetch.Config{List: world.URL("404") + ",direct"})
	if err != nil {
		t.Fatal(err)
	}
	public := noPolicy(t)
	h.server.Reload(chain, public, h.vcs)
	h.wantStatus("corp.example/lib/@v/v1.0.0.zip", http.StatusForbidden, "unproved: the checksum database does not know this version")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\n" {
		t.Errorf("list = %q", got)
	}
	if got := h.ok("corp.example/lib/@latest"); !strings.Contains(got, `"v1.0.0"`) {
		t.Errorf("latest = %q", got)
	}
	h.ok("corp.example/lib/@v/main.info")

	// The database knows what the repository has, and another version of it.
	mod := module.Version{Path: "corp.example/lib", Version: "v1.0.0"}
	files := vcs.Files{}
	var content []byte
	err = h.vcs.Download(t.Context(), mod, vcs.Public, func(f vcs.Files) (err error) {
		files = f
		content, err = os.ReadFile(f.Zip)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	zipHash, modHash := hashesOf(t, content, files.Mod)
	world.Log.Add(mod, zipHash, modHash)
	repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	world.Log.Add(module.Version{Path: mod.Path, Version: "v1.1.0"}, zipHash, modHash)
	h.server.Reload(chain, public, h.vcs) // forgets the absence
	if got := h.ok("corp.example/lib/@v/v1.0.0.zip"); got != string(content) {
		t.Error("another zip")
	}
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	h.ok("corp.example/lib/@v/v1.0.0.info")
	h.wantStatus("corp.example/lib/@v/v1.1.0.zip", http.StatusForbidden, "checksum mismatch")
	if h.log.Size() != 0 {
		t.Errorf("our log has %d entries of public modules", h.log.Size())
	}
	// Without version control it is an absence that says so.
	h.server.Reload(chain, public, nil)
	h.wantStatus("corp.example/lib/@v/v1.2.0.zip", http.StatusNotFound, "--vcs git")
}

// What is private is fetched from its repository even if something public of the
// same name is stored, and the other way round nothing private gets out as public.
func TestPrivateConfusion(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	mod := module.Version{Path: "corp.example/lib", Version: "v1.0.0"}
	h.world.Add("-- corp.example/lib@v1.0.0/go.mod --\nmodule corp.example/lib\n-- corp.example/lib@v1.0.0/evil.go --\npackage evil\n")
	h.server.Reload(h.chain, noPolicy(t), h.vcs)
	public := h.ok("corp.example/lib/@v/v1.0.0.zip") // it was forgotten that it is private
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	h.ok("corp.example/lib/@v/v1.0.0.info")

	h.server.Reload(h.chain, policyOf(t, "corp.example"), h.vcs)
	private := h.ok("corp.example/lib/@v/v1.0.0.zip")
	if private == public || strings.Contains(private, "evil") {
		t.Error("the public module is served as the private one")
	}
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	if !strings.Contains(h.ok("corp.example/lib/@v/v1.0.0.info"), "Origin") {
		t.Error("the info is that of the public module")
	}
	if _, err := h.log.Find(mod); err != nil {
		t.Error(err)
	}
	h.server.Reload(h.chain, noPolicy(t), h.vcs)
	if got := h.ok("corp.example/lib/@v/v1.0.0.zip"); got != public {
		t.Error("the private module is served as the public one")
	}
}

// Our own log is a checksum database with which the client of the go command is
// content, for what is private and for what is public.
func TestUnified(t *testing.T) {
	h := startPrivate(t, func(c *proxy.Config, _ *vcs.Config) { c.Unified = true })
	h.code.Module("lib", lib)
	ops := &clientOps{url: h.url, key: h.log.Key(), config: map[string][]byte{}}
	client := modsumdb.NewClient(ops)
	for _, m := range []module.Version{
		{Path: "corp.example/lib", Version: "v1.0.0"}, {Path: "example.com/hello", Version: "v1.0.0"}, {Path: "example.com/Upper", Version: "v1.0.0-RC.1"},
		{Path: "golang.org/toolchain", Version: "v0.0.1-go1.99.0.linux-amd64"}, {Path: "example.com/hello", Version: "v1.1.0"},
	} {
		lines, err := client.Lookup(m.Path, m.Version)
		if err != nil {
			t.Fatalf("%s: %v\n%s", m, err, h.logs)
		}
		if len(lines) != 1 || !strings.HasPrefix(lines[0], m.Path+" "+m.Version+" h1:") {
			t.Errorf("%s: %q", m, lines)
		}
		if strings.HasPrefix(m.Path, "corp.") {
			continue
		}
		public, err := h.mirror.Lookup(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := h.log.Find(m)
		if err != nil || entry.Public == nil || entry.Public.Name != proxytest.Database || entry.Public.ID != public.ID || len(entry.Public.Head) == 0 ||
			!bytes.Equal(entry.Record().Text, public.Text) {
			t.Errorf("%s: the log has %+v, %v", m, entry, err)
		}
	}
	if h.log.Size() != 5 {
		t.Errorf("the log has %d entries", h.log.Size())
	}
	h.wantStatus("sumdb/log.corp.example/lookup/example.com/hello@v1.9.0", http.StatusNotFound)
	h.wantStatus("sumdb/log.corp.example/lookup/corp.example/lib@v1.9.0", http.StatusNotFound)
	h.wantStatus("cached-only/sumdb/log.corp.example/lookup/corp.example/lib@v1.9.0", http.StatusNotFound)
	h.ok("cached-only/sumdb/log.corp.example/lookup/corp.example/lib@v1.0.0")
	if data := h.ok("sumdb/log.corp.example/tile/8/data/000.p/5"); !strings.Contains(data, "corp.example/lib v1.0.0 h1:") {
		t.Errorf("data tile %q", data)
	}
	// The public database is served beside it, and knows nothing private.
	h.ok("sumdb/" + proxytest.Database + "/lookup/example.com/hello@v1.0.0")
	h.wantStatus("sumdb/"+proxytest.Database+"/lookup/corp.example/lib@v1.0.0", http.StatusForbidden, "GONOSUMDB")
	leaks := h.server.Leaks()
	if len(leaks) != 1 || leaks[0].Kind != proxy.PublicDatabase || leaks[0].Module != "corp.example/lib" || leaks[0].Client != "127.0.0.1" || leaks[0].Requests != 1 {
		t.Errorf("leaks: %+v", leaks)
	}
}

// Without Unified our log is nobody's business, and a client that has its key is not
// sent elsewhere.
func TestNotUnified(t *testing.T) {
	h := startPrivate(t, nil)
	h.wantStatus("sumdb/log.corp.example/supported", http.StatusForbidden, "--unified")
	h.wantStatus("sumdb/log.corp.example/lookup/corp.example/lib@v1.0.0", http.StatusForbidden, "--unified")
	h.wantStatus("sumdb/other.example/supported", http.StatusNotFound, "not served here")
}

// A log that refuses takes nothing new and gives what it has.
func TestPrivateFrozen(t *testing.T) {
	h := startPrivate(t, nil)
	h.code.Module("lib", lib, strings.Replace(lib, "v1.0.0", "v1.1.0", 1))
	h.ok("corp.example/lib/@v/v1.0.0.zip")
	h.stop()
	copyBack(t, filepath.Join(h.dir, "log"))
	again := openPrivate(t, h.world, h.code, h.dir, nil)
	again.ok("corp.example/lib/@v/v1.0.0.zip")
	again.wantStatus("corp.example/lib/@v/v1.1.0.zip", http.StatusServiceUnavailable, "own log takes no new versions", "assay log check")
}

// copyBack replaces a directory by a copy of it, as somebody does who restores it.
func copyBack(t *testing.T, dir string) {
	t.Helper()
	other := dir + ".backup"
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, dir); err != nil {
		t.Fatal(err)
	}
}

// clientOps is the go command's side of a checksum database.
type clientOps struct {
	url, key string
	mu       sync.Mutex
	config   map[string][]byte
}

func (o *clientOps) ReadRemote(path string) ([]byte, error) {
	name, _, _ := strings.Cut(o.key, "+")
	resp, err := http.Get(o.url + "/sumdb/" + name + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s %q %w", path, resp.Status, b.String(), err)
	}
	return b.Bytes(), nil
}

func (o *clientOps) ReadConfig(file string) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if file == "key" {
		return []byte(o.key), nil
	}
	return o.config[file], nil
}

func (o *clientOps) WriteConfig(file string, old, new []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !bytes.Equal(o.config[file], old) {
		return modsumdb.ErrWriteConflict
	}
	o.config[file] = new
	return nil
}

func (o *clientOps) ReadCache(string) ([]byte, error) { return nil, os.ErrNotExist }
func (o *clientOps) WriteCache(string, []byte)        {}
func (o *clientOps) Log(string)                       {}
func (o *clientOps) SecurityError(msg string)         { panic(msg) }

func policyOf(t *testing.T, private string) *policy.Policy {
	t.Helper()
	p, err := policy.New(private)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func noPolicy(t *testing.T) *policy.Policy { return policyOf(t, "") }
