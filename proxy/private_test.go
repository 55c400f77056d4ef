package proxy_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
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
	log  *pinlog.Log
	vcs  *vcs.Source
}

// startPrivate starts a server for which corp.example is private. change may change its
// parts.
func startPrivate(t *testing.T, change func(*proxy.Config, *vcs.Config)) *hosts {
	t.Helper()
	return openPrivate(t, newWorld(t), vcstest.New(t), t.TempDir(), change)
}

// openPrivate is startPrivate on existing directories and hosts.
func openPrivate(t *testing.T, world *proxytest.World, code *vcstest.World, dir string, change func(*proxy.Config, *vcs.Config)) *hosts {
	t.Helper()
	h := &hosts{code: code}
	f := &fixture{t: t, world: world, dir: dir, logs: new(lockedBuffer)}
	o := verified()
	o.private = "corp.example"
	o.config = func(c *proxy.Config) {
		v := vcs.Config{Dir: filepath.Join(dir, "vcs"), Network: vcs.Network{CAFile: code.CAFile(), Lookup: code.Lookup, Dial: code.Dial}, Timeout: time.Minute, Logger: c.Content.Logger}
		c.Content.Times.Answer, c.Content.Times.Patience = 2*time.Minute, time.Minute // git is slow on a busy machine
		if change != nil {
			change(c, &v)
		}
		var err error
		if h.log, err = pinlog.Open(t.Context(), pinlog.Config{Dir: filepath.Join(dir, "log"), Name: "log.corp.example", Store: c.Content.Store, Logger: c.Content.Logger}); err != nil {
			t.Fatal(err)
		}
		if h.vcs, err = vcs.New(v); err != nil {
			t.Fatal(err)
		}
		if err := h.vcs.Tools(); err != nil {
			t.Fatal(err)
		}
		c.Content.Log, c.Settings.VCS = h.log, h.vcs
	}
	f.open(world.URL("ok"), o)
	h.fixture = f
	t.Cleanup(h.stop)
	return h
}

// stop stops all parts, so that the directory can be opened again.
func (h *hosts) stop() {
	h.close()
	_ = h.vcs.Close()
	_ = h.log.Close()
}

// ok gets path, checks that the response is a 200, and returns its body.
func (h *hosts) ok(path string, header ...string) string {
	h.t.Helper()
	a := h.get(path, header...)
	if a.status != http.StatusOK || a.err != nil {
		h.t.Fatalf("GET %s = %v\n%s", path, a, h.logs)
	}
	return string(a.body)
}

// All files of a private module come from its repository, once, and its name is not sent
// outside.
func TestPrivateFetch(t *testing.T) {
	t.Parallel()
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
	entry, err := h.log.Find(t.Context(), module.Version{Path: "corp.example/lib", Version: "v1.0.0"})
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
	// Stored files need no repository.
	repo.Remove()
	a := h.get("corp.example/lib/@v/v1.0.0.zip")
	if a.status != http.StatusOK || a.header.Get("Cache-Status") != "assay; hit" || a.header.Get("Cache-Control") != "private, max-age=31536000, immutable" {
		t.Errorf("GET of what is stored = %d, %v", a.status, a.header)
	}
	h.ok("corp.example/lib/@v/v1.1.0.zip") // from the clone
	h.wantStatus("corp.example/lib/@v/v1.2.0.zip", http.StatusNotFound, "git.corp.example")
}

// Every error of a repository has its own status.
func TestPrivateErrors(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	h.wantStatus("corp.example/lib/@v/v1.9.0.zip", http.StatusNotFound, "not found: corp.example/lib/@v/v1.9.0.zip")
	h.wantStatus("corp.example/lib/@v/nosuchbranch.info", http.StatusNotFound)
	h.wantStatus("corp.example/nothing/@v/list", http.StatusNotFound, "corp.example")
	h.wantStatus("corp.example/lib/v2/@v/v2.0.0.zip", http.StatusNotFound)
	h.code.Page("inside", "corp.example/inside git https://169.254.169.254/x")
	h.wantStatus("corp.example/inside/@v/list", http.StatusBadGateway, "no connection, or a forbidden address")
	h.code.Page("port", "corp.example/port git https://git.corp.example:8443/x")
	h.wantStatus("corp.example/port/@v/list", http.StatusForbidden, "not allowed")
	h.code.Password("ci", "secret-of-git")
	h.wantStatus("corp.example/lib/@v/v1.0.1.zip", http.StatusForbidden, "git.corp.example denies this proxy access to", "--credentials")
	h.code.Password("", "")
	h.code.Status(http.StatusServiceUnavailable)
	h.wantStatus("corp.example/lib/@v/v1.0.2.zip", http.StatusBadGateway, "git.corp.example failed for")
	h.code.Status(0)
	h.ok("corp.example/lib/@v/v1.0.0.zip")
}

// A hanging repository causes a timeout, and is used again when it no longer hangs.
func TestPrivateHangs(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(_ *proxy.Config, v *vcs.Config) { v.Timeout = 8 * time.Second })
	h.code.Module("lib", lib)
	h.code.Hang(true)
	h.wantStatus("corp.example/lib/@v/v1.0.3.zip", http.StatusGatewayTimeout, "timeout")
	h.code.Hang(false)
	deadline := time.Now().Add(3 * time.Minute)
	for a := h.get("corp.example/lib/@v/v1.0.0.zip"); a.status != http.StatusOK; a = h.get("corp.example/lib/@v/v1.0.0.zip") {
		if a.status != http.StatusGatewayTimeout || time.Now().After(deadline) { // a busy machine may need more than the 8 s
			t.Fatalf("afterwards: %v\n%s", a, h.logs)
		}
	}
}

// Twenty clients that request all files of a version cause one fetch; clients that
// request stored files do not wait for it.
func TestPrivateCoalesces(t *testing.T) {
	t.Parallel()
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

// direct gets public modules from their repositories, and proves them like others.
func TestDirect(t *testing.T) {
	t.Parallel()
	world, code := newWorld(t), vcstest.New(t)
	var store storage.Store
	h := openPrivate(t, world, code, t.TempDir(), func(c *proxy.Config, _ *vcs.Config) { store = c.Content.Store })
	repo := code.Module("lib", lib) // public here
	chain, err := fetch.New(fetch.Config{List: world.URL("404") + ",direct"})
	if err != nil {
		t.Fatal(err)
	}
	public := noPolicy(t)
	h.server.Reload(content.Settings{Upstream: chain, Policy: public, VCS: h.vcs})
	h.wantStatus("corp.example/lib/@v/v1.0.0.zip", http.StatusForbidden, "cannot verify: the checksum database has no record of this version")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\n" {
		t.Errorf("list = %q", got)
	}
	if got := h.ok("corp.example/lib/@latest"); !strings.Contains(got, `"v1.0.0"`) {
		t.Errorf("latest = %q", got)
	}
	h.ok("corp.example/lib/@v/main.info")

	// The database has the repository's version, and another one of the module.
	mod := module.Version{Path: "corp.example/lib", Version: "v1.0.0"}
	files := vcs.Files{}
	var archive []byte
	err = h.vcs.Download(t.Context(), mod, vcs.Public, func(f vcs.Files) (err error) {
		files = f
		archive, err = os.ReadFile(f.Zip)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	zipHash, modHash := hashesOf(t, archive, files.Mod)
	world.Log.Add(mod, zipHash, modHash)
	repo.Commit("-- new.go --\npackage lib\n")
	repo.Tag("v1.1.0")
	world.Log.Add(module.Version{Path: mod.Path, Version: "v1.1.0"}, zipHash, modHash)
	h.server.Reload(content.Settings{Upstream: chain, Policy: public, VCS: h.vcs}) // forgets the absence
	if got := h.ok("corp.example/lib/@v/v1.0.0.zip"); got != string(archive) {
		t.Error("another zip")
	}
	h.ok("corp.example/lib/@v/v1.0.0.mod")
	h.ok("corp.example/lib/@v/v1.0.0.info")
	keeper, err := content.NewKeeper(t.Context(), store) // what a disk limit may not evict
	if err != nil {
		t.Fatal(err)
	}
	info := storage.Info{Key: storage.ProvedBy(proxytest.Database).Key("corp.example/lib/@v/v1.0.0.zip")}
	if why, err := keeper.Reason(t.Context(), info); err != nil || why != "versions from their repositories" {
		t.Errorf("the zip is kept for %q, %v", why, err)
	}
	h.wantStatus("corp.example/lib/@v/v1.1.0.zip", http.StatusForbidden, "checksum mismatch")
	if h.log.Size() != 0 {
		t.Errorf("our log has %d entries of public modules", h.log.Size())
	}
	// Without version control it is an absence with the reason.
	h.server.Reload(content.Settings{Upstream: chain, Policy: public})
	h.wantStatus("corp.example/lib/@v/v1.2.0.zip", http.StatusNotFound, "--vcs git")
}

// No cache in between may store the absence of a private module.
func TestPrivateAbsenceIsNotKept(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	for _, path := range []string{"corp.example/lib/@v/v1.0.0.zip", "corp.example/lib/@v/list", "corp.example/lib/@v/main.info"} {
		if a := h.wantStatus("cached-only/"+path, http.StatusNotFound); a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s: Cache-Control is %q", path, a.header.Get("Cache-Control"))
		}
	}
}

// If a page of a private module redirects elsewhere, for instance to a login, the request
// there has no Referer.
func TestPrivateReferer(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	said := make(chan string, 100)
	h.code.Host("corp.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://login.corp.example/", http.StatusFound)
	}))
	h.code.Host("login.corp.example", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		said <- r.Header.Get("Referer")
	}))
	h.wantStatus("corp.example/secret/@v/list", http.StatusNotFound)
	close(said)
	if got, ok := <-said; !ok || got != "" {
		t.Errorf("the host that we were sent to has heard %q, %v", got, ok)
	}
}

// A repository that only this proxy's credential can read is not served to all clients if
// its name is not a private pattern.
func TestDirectCredential(t *testing.T) {
	t.Parallel()
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine git.corp.example login ci password secret-of-git\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startPrivate(t, func(_ *proxy.Config, v *vcs.Config) { v.Netrc = netrc })
	h.code.Module("lib", lib)
	h.code.Password("ci", "secret-of-git")
	h.ok("corp.example/lib/@v/list")
	h.server.Reload(content.Settings{Upstream: chainOf(t, h.world.URL("404")+",direct"), Policy: policyOf(t, "corp.example/other"), VCS: h.vcs})
	for _, path := range []string{"@v/list", "@latest", "@v/main.info", "@v/v1.0.0.info"} {
		if a := h.get("corp.example/lib/" + path); a.status < 400 {
			t.Errorf("GET %s = %v", path, a)
		}
	}
}

func policyOf(t *testing.T, private string) *privacy.Policy {
	t.Helper()
	p, err := privacy.New(private)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func noPolicy(t *testing.T) *privacy.Policy { return policyOf(t, "") }

// If the newest tag is no version of its module, the list does not change.
func TestPrivateBadNewest(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib, "v1.1.0\n-- go.mod --\nmodule corp.example/lib/v3\n")
	if got := h.ok("corp.example/lib/@v/list"); got != "v1.0.0\nv1.1.0\n" {
		t.Errorf("list = %q", got)
	}
	h.wantStatus("corp.example/lib/@latest", http.StatusNotFound, "corp.example/lib/v3")
	h.ok("corp.example/lib/@v/v1.0.0.info")
	h.wantStatus("corp.example/lib/@v/v1.1.0.info", http.StatusNotFound, "corp.example/lib/v3")
}

// The error says once what is not allowed, and --vcs-hosts only where it would help.
func TestPrivateNotAllowed(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Page("file", "corp.example/file git file:///etc")
	h.code.Page("port", "corp.example/port git https://git.corp.example:8443/x")
	for path, hosts := range map[string]bool{"corp.example/file": false, "corp.example/port": true} {
		a := h.wantStatus(path+"/@v/list", http.StatusForbidden, "not allowed: "+path)
		if text := string(a.body); strings.Count(text, "not allowed") != 1 || strings.Contains(text, "--vcs-hosts") != hosts {
			t.Errorf("%s: %q", path, text)
		}
	}
}
