package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/news"
)

const (
	payPath  = "go.corp.example/pay"      // the vanity path, which has a rule
	payRepo  = "git.corp.example/pay.git" // the repository's own path
	evilPath = "evil.corp.example/x"      // a page of another team that names the repository
)

// guarded is a server that reads all repositories of a company with its netrc. Its rules
// name vanity paths.
type guarded struct {
	*hosts
	store    *fullStore
	repo     *vcstest.Repo
	old      string // a commit from before there was a go.mod
	pay, dev string // values of Authorization
	auth     *access.Authenticator
	netrc    string
}

// startGuarded starts it with rules, on the payment repository, which has two versions, a
// commit from before its go.mod, and a module in a subdirectory.
func startGuarded(t *testing.T, rules string) *guarded {
	t.Helper()
	g := &guarded{netrc: filepath.Join(t.TempDir(), "netrc")}
	if err := os.WriteFile(g.netrc, []byte("machine git.corp.example login ci password secret-of-git\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens")
	for _, group := range []string{"pay", "dev"} {
		secret, err := access.CreateToken(tokens, access.Token{Name: group, Groups: []string{group}})
		if err != nil {
			t.Fatal(err)
		}
		if group == "pay" {
			g.pay = "Bearer " + secret
		} else {
			g.dev = "Bearer " + secret
		}
	}
	var err error
	if g.auth, err = access.New(t.Context(), access.Config{Tokens: tokens}); err != nil {
		t.Fatal(err)
	}
	code := vcstest.New(t)
	g.repo = code.Repo("pay")
	g.old = g.repo.Commit("-- pay.go --\npackage pay // before modules\n")
	g.repo.Commit("-- go.mod --\nmodule " + payPath + "\n-- pay.go --\npackage pay\n-- sub/go.mod --\nmodule " + payPath + "/sub\n-- sub/sub.go --\npackage sub\n")
	for _, tag := range []string{"v1.0.0", "sub/v1.0.0"} {
		g.repo.Tag(tag)
	}
	code.Password("ci", "secret-of-git")
	for _, host := range []string{"go.corp.example", "evil.corp.example", "old.corp.example"} {
		pageFor(code, host, g.repo.URL())
	}
	g.hosts = openPrivate(t, newWorld(t), code, t.TempDir(), g.change(t, rules))
	return g
}

// pageFor makes a host whose page names the repository at url for its one module.
func pageFor(code *vcstest.World, host, url string) {
	code.Host(host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		root := host + "/" + strings.Split(r.URL.Path, "/")[1]
		fmt.Fprintf(w, `<meta name="go-import" content="%s git %s">`, root, url)
	}))
}

func (g *guarded) change(t *testing.T, rules string) func(*proxy.Config, *vcs.Config) {
	return func(c *proxy.Config, v *vcs.Config) {
		v.Netrc = g.netrc
		c.Access, c.Content.Unified = g.auth, true
		g.store = &fullStore{countingStore: countingStore{Store: c.Content.Store}}
		c.Content.Store = g.store
		c.Settings.Policy = ruled(t, rules)
	}
}

// ruled is the policy of a company with these rules.
func ruled(t *testing.T, rules string) *privacy.Policy {
	t.Helper()
	p, err := policyOf(t, "corp.example,*.corp.example").Restrict(rules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// restart stops the server, changes its store, and starts it again with other rules.
func (g *guarded) restart(rules string, meanwhile func(*bolt.DB)) {
	g.t.Helper()
	g.stop()
	if meanwhile != nil {
		store, err := bolt.Open(filepath.Join(g.dir, "data"), nil)
		if err != nil {
			g.t.Fatal(err)
		}
		meanwhile(store)
		store.Close()
	}
	g.hosts = openPrivate(g.t, g.world, g.code, g.dir, g.change(g.t, rules))
}

// everything is all requests about a module of the repository.
func (g *guarded) everything(modulePath string) []string {
	all := []string{modulePath + "/@v/list", modulePath + "/@latest", modulePath + "/@v/main.info", modulePath + "/@v/" + g.old[:12] + ".info"}
	for _, version := range []string{"v1.0.0", "v1.7.0"} {
		for _, file := range []string{"info", "mod", "zip"} {
			all = append(all, modulePath+"/@v/"+version+"."+file)
		}
		all = append(all, "sumdb/log.corp.example/lookup/"+modulePath+"@"+version)
	}
	for _, path := range all[:len(all):len(all)] {
		all = append(all, "cached-only/"+path)
	}
	return all
}

// wantHidden checks that a client gets, for each of these modules, the same refusal as
// for a missing module with a rule, and that nothing was looked up.
func (g *guarded) wantHidden(who string, modulePaths ...string) {
	g.t.Helper()
	g.code.Requests()
	size, looked := g.log.Size(), g.store.looked.Load()
	for _, modulePath := range modulePaths {
		nothing := payPath + "/" + strings.Repeat("n", max(0, len(modulePath)-len(payPath)-1))
		for _, path := range g.everything(modulePath) {
			header := []string{}
			if who != "" {
				header = []string{"Authorization", who}
			}
			got := g.get(path, header...)
			want := g.get(strings.Replace(path, modulePath, nothing, 1))
			if len(nothing) == len(modulePath) && nothing != payPath+"/" && got.refusal(path) != want.refusal(strings.Replace(path, modulePath, nothing, 1)) ||
				got.status != http.StatusNotFound || !strings.Contains(string(got.body), "if it is private, check") || got.header.Get("Cache-Control") != "no-store" {
				g.t.Fatalf("GET %s = %v %v, want the refusal\n%v", path, got, got.header, want)
			}
		}
	}
	for _, request := range g.code.Requests() {
		if strings.Contains(request, vcstest.GitHost) {
			g.t.Errorf("a client that may not read made us ask %s", request)
		}
	}
	if g.log.Size() != size || g.store.looked.Load() != looked {
		g.t.Errorf("a client that may not read made us pin %d versions and look %d times", g.log.Size()-size, g.store.looked.Load()-looked)
	}
}

// A rule about a vanity path protects the repository, before it was first read and
// afterwards, under its own path, under that of another page and under an old one.
func TestRuleProtectsRepository(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay")
	others := []string{payPath, payPath + "/sub", payRepo, payRepo + "/sub", "git.corp.example/!pay.git", evilPath, evilPath + "/sub", "old.corp.example/pay", "git.corp.example/none.git"}
	g.wantHidden("", others...)
	g.wantHidden(g.dev, others...)
	g.wantHidden(g.pay, payRepo, evilPath) // no rule covers them yet
	for _, path := range []string{"/@v/list", "/@latest", "/@v/v1.0.0.info", "/@v/v1.0.0.mod", "/@v/v1.0.0.zip", "/@v/v1.0.0.mod", "/sub/@v/v1.0.0.zip", "/@v/main.info", "/@v/" + g.old[:12] + ".info"} {
		g.ok(payPath+path, "Authorization", g.pay)
	}
	g.ok("sumdb/log.corp.example/lookup/"+payPath+"@v1.0.0", "Authorization", g.pay)
	g.wantHidden("", others...)
	g.wantHidden(g.dev, others...)

	// Clients that satisfy the rule may use the other paths; all other clients may not.
	for _, path := range []string{payRepo, payRepo + "/sub", evilPath, "old.corp.example/pay"} {
		for range 2 { // the second response comes from memory
			g.ok(path+"/@v/v1.0.0.mod", "Authorization", g.pay)
		}
		g.ok(path+"/@v/v1.0.0.zip", "Authorization", g.pay)
		g.ok(path+"/@v/list", "Authorization", g.pay)
	}
	g.wantHidden("", others...)
	g.wantHidden(g.dev, others...)
	for _, leak := range g.server.Leaks() {
		if leak.Kind != proxy.NoCredential || leak.Client != "127.0.0.1" {
			t.Errorf("leak %+v", leak)
		}
	}
	if a := g.get("sumdb/log.corp.example/tile/8/data/000.p/1", "Authorization", g.dev); a.status != http.StatusNotFound {
		t.Errorf("the names in the log: %v", a)
	}
	g.ok("sumdb/log.corp.example/tile/8/data/000.p/1", "Authorization", g.pay)

	// The facts are on disk, together with the objects.
	g.restart(payPath+"=pay", nil)
	g.wantHidden("", others...)
	g.wantHidden(g.dev, others...)
	g.ok(payRepo+"/@v/v1.0.0.zip", "Authorization", g.pay)
	// A changed rule about the same path counts at once; after the removal of a rule, no
	// client may read modules that were read with a credential.
	g.server.Reload(content.Settings{Upstream: g.chain, Policy: ruled(t, payPath+"=dev"), VCS: g.vcs})
	g.wantHidden(g.pay, payRepo, evilPath)
	g.ok(payRepo+"/@v/v1.0.0.zip", "Authorization", g.dev)
	g.server.Reload(content.Settings{Upstream: g.chain, Policy: ruled(t, "corp.example/other=dev"), VCS: g.vcs})
	for _, path := range g.everything(payRepo) {
		if a := g.get(path, "Authorization", g.dev); a.status != http.StatusNotFound || !strings.Contains(string(a.body), "if it is private, check") {
			t.Errorf("without the rule: GET %s = %v", path, a)
		}
	}
}

// Refusing a module that is known to be in a protected repository costs as much as
// refusing an unknown one.
func TestRuleRefusalCosts(t *testing.T) {
	g := startGuarded(t, payPath+"=pay")
	g.ok(payPath+"/@v/v1.0.0.mod", "Authorization", g.pay)
	cost := func(modulePath string) float64 {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/"+modulePath+"/@v/v1.0.0.mod", nil)
		return testing.AllocsPerRun(20, func() {
			w := httptest.NewRecorder()
			if g.server.ServeHTTP(w, req); w.Code != http.StatusNotFound {
				t.Errorf("%s: %d", modulePath, w.Code)
			}
		})
	}
	g.ok(payRepo+"/@v/v1.0.0.mod", "Authorization", g.pay)
	if a, b := cost(payRepo), cost("git.corp.example/nil.git"); math.Abs(a-b) > 8 {
		t.Errorf("%v allocations to refuse what is known, %v for what is not", a, b)
	}
}

// All spellings of a repository's URL in a page are the same repository.
func TestRuleSpellings(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay,*.corp.example=pay|dev")
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	for i, url := range []string{
		"https://git.corp.example/pay.git", "https://git.corp.example/pay", "https://git.corp.example/pay.git/", "https://GIT.corp.example/Pay.Git", "https://git.corp.example:443/pay.git",
		"ssh://git@git.corp.example/pay.git", "ssh://git@git.corp.example/~/pay", "https://git.corp.example/p%61y.git", "git+ssh://git.corp.example/pay",
		"https://git.corp.example/pay.git/.git", "https://git.corp.example/pay.git.git", "ssh://git@git.corp.example/~git/pay",
	} {
		host := fmt.Sprintf("evil%d.corp.example", i)
		pageFor(g.code, host, url)
		g.wantHidden(g.dev, host+"/x")
	}
	// Of pay.git.git the go command makes the URL of pay.git.
	g.wantHidden(g.dev, "git.corp.example/pay.git.git", "git.corp.example/pay.git.git/sub", "git.corp.example/!pay.git.!git.git")
	for i, url := range []string{"https://git.corp.example/./pay.git", "https://git.corp.example/x/../pay.git"} {
		host := fmt.Sprintf("dots%d.corp.example", i)
		pageFor(g.code, host, url)
		if a := g.get(host+"/x/@v/v1.0.0.zip", "Authorization", g.dev); a.status != http.StatusForbidden {
			t.Errorf("%s: %v", url, a)
		}
	}
}

// If a weaker rule covers another path, which is requested first, the declaration in the
// go.mod file is enough to refuse. For a commit without a go.mod, the first client with
// access to the vanity path closes the other path, also for stored files.
func TestRuleAfterWeaker(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay,git.corp.example=pay|dev,evil.corp.example=dev")
	a := g.get(evilPath+"/@v/"+g.old[:12]+".info", "Authorization", g.dev)
	if a.status != http.StatusOK {
		t.Fatalf("what the administrator has allowed: %v", a)
	}
	for _, file := range []string{"@v/v1.0.0.zip", "@v/v1.0.0.info", "@latest", "@v/list"} {
		if a := g.get(evilPath+"/"+file, "Authorization", g.dev); a.status != http.StatusNotFound {
			t.Errorf("its go.mod declares %s, and dev has %s: %v", payPath, file, a)
		}
	}
	g.wantHidden(g.dev, evilPath, payRepo)
	g.wantHidden("", evilPath, payRepo)

	g = startGuarded(t, "go.corp.example/money=pay,git.corp.example=pay|dev")
	g.ok(payRepo+"/@v/"+g.old[:12]+".info", "Authorization", g.dev)
	g.ok(payRepo+"/@v/v1.0.0.zip", "Authorization", g.dev)
	g.ok("go.corp.example/money/@v/"+g.old[:12]+".info", "Authorization", g.pay)
	g.wantHidden(g.dev, payRepo)
	g.ok(payRepo+"/@v/v1.0.0.zip", "Authorization", g.pay)
	if !strings.Contains(g.logs.String(), "another access rule now protects a repository") {
		t.Error("the log does not say why dev may not read it any more")
	}
}

// A repository that was renamed on its host, and is still found under the old name, is
// one repository, even if its commits declare nothing.
func TestRuleRenamed(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "go.corp.example/money=pay,git.corp.example=pay|dev")
	g.code.Rename("old-pay", "pay")
	g.ok("go.corp.example/money/@v/"+g.old[:12]+".info", "Authorization", g.pay)
	const oldRepo = "git.corp.example/old-pay.git"
	for _, path := range []string{"/@v/" + g.old[:12] + ".info", "/@v/list", "/@v/v1.0.0.zip", "/@v/v1.0.0.zip"} {
		if a := g.get(oldRepo+path, "Authorization", g.dev); a.status != http.StatusNotFound || !strings.Contains(string(a.body), "if it is private, check") {
			t.Errorf("under its old name: GET %s = %v", path, a)
		}
	}
	g.wantHidden(g.dev, oldRepo)
	g.ok(oldRepo+"/@v/v1.0.0.zip", "Authorization", g.pay)
}

// anyone is the explicit opposite.
func TestRuleAnyone(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "git.corp.example/pay=anyone,corp.example/other=dev")
	g.ok(payRepo + "/@v/v1.0.0.zip")
	g.ok(payRepo + "/@v/list")
	g.ok(evilPath + "/@v/v1.0.0.zip") // this is the same repository
	g.ok("sumdb/log.corp.example/lookup/" + payRepo + "@v1.0.0")
	g.server.Reload(content.Settings{Upstream: g.chain, Policy: ruled(t, "git.corp.example/pay=anyone,"+payPath+"=pay"), VCS: g.vcs})
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	g.wantHidden("", payRepo, evilPath) // anyone refuses no client, but the other rule does
}

// A module that is read without a credential and has no rule stays open, whatever rules
// other modules have, until its repository is known under a path with a rule.
func TestRuleLeavesOpen(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay")
	g.code.Password("", "")
	if err := os.WriteFile(g.netrc, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	repo := g.code.Module("lib", "v1.0.0\n-- lib.go --\npackage lib\n")
	const path = "git.corp.example/lib.git"
	for range 2 {
		g.ok(path + "/@v/v1.0.0.zip")
	}
	g.ok(path + "/@v/list")
	g.wantStatus(path+"/@v/v1.7.0.zip", http.StatusNotFound, "git.corp.example")
	g.ok("cached-only/" + path + "/@v/v1.0.0.zip")
	pageFor(g.code, "go.corp.example", repo.URL())
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	g.wantHidden("", path)
	g.ok(path+"/@v/v1.0.0.zip", "Authorization", g.pay)
}

// Modules that were stored before there was a rule are hidden after the reload, and after
// a restart; also those that an older version of the program stored, which noted only the
// entries of the own log.
func TestRuleForStored(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "")
	paths := []string{payPath, payRepo, evilPath}
	for _, path := range paths {
		for range 2 {
			g.ok(path + "/@v/v1.0.0.mod")
		}
		g.ok(path + "/@v/v1.0.0.zip")
		g.ok(path + "/@v/list")
	}
	g.server.Reload(content.Settings{Upstream: g.chain, Policy: ruled(t, payPath+"=pay"), VCS: g.vcs})
	g.wantHidden("", paths...)
	g.wantHidden(g.dev, paths...)
	for _, path := range paths {
		g.ok(path+"/@v/v1.0.0.mod", "Authorization", g.pay)
	}
	forget := func(store *bolt.DB) {
		for i := range 64 {
			_ = store.DeleteState(t.Context(), fmt.Sprintf("bindings/%02x", i))
		}
		if err := store.DeleteState(t.Context(), "bindings/index"); err != nil {
			t.Fatal(err)
		}
	}
	g.restart(payPath+"=pay", forget)
	g.wantHidden("", paths...)
	g.wantHidden(g.dev, paths...)
	g.ok(evilPath+"/@v/v1.0.0.mod", "Authorization", g.pay)

	// No rule covers it, and it is not known whether a credential was used.
	g.restart("corp.example/other=dev", forget)
	if err := os.Remove(g.netrc); err != nil { // so one must be assumed
		t.Fatal(err)
	}
	for _, path := range g.everything(payRepo) {
		if a := g.get(path); a.status != http.StatusNotFound {
			t.Errorf("GET %s = %v", path, a)
		}
	}
	// A repository that now answers without a credential is open, with its held versions.
	g.code.Password("", "")
	if err := os.WriteFile(g.netrc, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range g.everything(payRepo)[:len(g.everything(payRepo))/2] {
		if a := g.get(path); a.status != http.StatusOK && !strings.Contains(path, "v1.7.0") {
			t.Errorf("GET %s = %v", path, a)
		}
	}
}

// A rule that a reload adds while a repository is asked whether it is open counts for what
// is held of it: neither files nor answers nor records are served by the older rules.
func TestRuleWhileLearning(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "")
	paths := []string{payRepo + "/@v/v1.0.0.mod", payRepo + "/@v/list", "sumdb/log.corp.example/lookup/" + payRepo + "@v1.0.0"}
	for _, path := range paths {
		g.ok(path)
	}
	g.code.Password("", "")
	if err := os.WriteFile(g.netrc, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		g.restart("corp.example/other=dev", func(store *bolt.DB) { // it is not known whether a credential was used
			for i := range 64 {
				_ = store.DeleteState(t.Context(), fmt.Sprintf("bindings/%02x", i))
			}
			if err := store.DeleteState(t.Context(), "bindings/index"); err != nil {
				t.Fatal(err)
			}
		})
		g.code.Hang(true)
		g.code.Requests()
		got := make(chan response)
		go func() { got <- g.get(path) }()
		eventually(t, "the repository is asked", func() bool {
			return slices.ContainsFunc(g.code.Requests(), func(r string) bool { return strings.Contains(r, "git.corp.example") })
		})
		g.server.Reload(content.Settings{Upstream: g.chain, Policy: ruled(t, "git.corp.example=pay"), VCS: g.vcs})
		g.code.Hang(false)
		if a := <-got; a.status != http.StatusNotFound {
			t.Errorf("GET %s = %v, want 404", path, a)
		}
	}
}

// A store from a backup, older than the own log, gets the facts of the log.
func TestRuleAfterRestore(t *testing.T) {
	t.Parallel()
	const rules = "go.corp.example/money=pay,git.corp.example=pay|dev,evil.corp.example=pay|dev"
	g := startGuarded(t, rules)
	g.ok(evilPath+"/@v/list", "Authorization", g.dev)
	g.stop()
	backup, data := t.TempDir(), filepath.Join(g.dir, "data")
	if err := os.CopyFS(backup, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	g.hosts = openPrivate(t, g.world, g.code, g.dir, g.change(t, rules))
	version := strings.Split(g.ok("go.corp.example/money/@v/"+g.old[:12]+".info", "Authorization", g.pay), `"`)[3]
	g.ok("go.corp.example/money/@v/"+version+".zip", "Authorization", g.pay)
	g.wantHidden(g.dev, payRepo, evilPath)
	g.stop()
	if err := errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	g.hosts = openPrivate(t, g.world, g.code, g.dir, g.change(t, rules))
	g.wantHidden(g.dev, payRepo, evilPath)
}

// A page with a rule that names another team's repository first closes it to that team.
// The log has the reason; removing the rule opens it again.
func TestRuleOfAnotherPage(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "go.corp.example/money=pay,evil.corp.example=dev")
	old := "/@v/" + g.old[:12] + ".info"
	g.ok(evilPath+old, "Authorization", g.dev)
	const text = "request refused by an access rule of another path of the same repository"
	if a := g.get("go.corp.example/money"+old, "Authorization", g.pay); a.status != http.StatusNotFound || !strings.Contains(g.logs.String(), text) {
		t.Errorf("%v\n%s", a, g.logs)
	}
	g.server.Reload(content.Settings{Upstream: g.chain, Policy: ruled(t, "go.corp.example/money=pay"), VCS: g.vcs})
	g.ok("go.corp.example/money"+old, "Authorization", g.pay)
	g.wantHidden(g.dev, evilPath)
}

// A module that cannot be noted, for instance because the disk is full, is neither served
// nor stored.
func TestRuleNotNoted(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay")
	g.store.full.Store(true)
	for _, file := range []string{"@v/v1.0.0.zip", "@v/list", "@v/main.info"} {
		if a := g.get(payPath+"/"+file, "Authorization", g.pay); a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "disk is full") {
			t.Errorf("GET %s = %v", file, a)
		}
	}
	g.wantHidden("", payRepo, evilPath)
	g.store.full.Store(false)
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	g.wantHidden("", payRepo, evilPath)
}

// The owner of a page with wildcard paths chooses how many paths lead to a repository.
// Too long paths are refused before any request; beyond the limit no path is noted,
// pinned or served, and the paths that the owner of the repository chose are served as
// before.
func TestRulePathsAreBounded(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay,evil.corp.example=pay")
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	g.restart(payPath+"=pay,evil.corp.example=pay", func(store *bolt.DB) {
		table, err := bindings.Load(t.Context(), store, news.Alone())
		if err == nil {
			err = table.Learn(t.Context(), func(yield func(bindings.Fact, error) bool) {
				for i := range 1024 {
					if !yield(bindings.Fact{Repository: "git.corp.example/pay", Module: fmt.Sprintf("evil.corp.example/%d", i), How: bindings.Credential}, nil) {
						return
					}
				}
			}, table.Log())
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	entries := g.log.Size()
	for _, file := range []string{"@v/v1.0.0.zip", "@v/list", "@latest", "@v/main.info"} {
		a := g.get(evilPath+"/"+file, "Authorization", g.pay)
		if a.status != http.StatusForbidden || !strings.HasPrefix(string(a.body), "too many module paths: "+evilPath+" is refused\n") {
			t.Errorf("GET %s = %v", file, a)
		}
	}
	g.wantHidden(g.dev, evilPath, payRepo)
	if size := g.log.Size(); size != entries {
		t.Errorf("the log has %d entries of %d", size, entries)
	}
	if n := strings.Count(g.logs.String(), "too many module paths for one repository or host"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, g.logs)
	}
	for _, path := range []string{payPath + "/@v/v1.0.0.zip", "evil.corp.example/7/@v/list", payPath + "/sub/@v/list", payRepo + "/@v/list"} {
		g.ok(path, "Authorization", g.pay)
	}

	g.code.Requests()
	long := "evil.corp.example/" + strings.Repeat("x", 283)
	for _, file := range []string{"@v/v1.0.0.zip", "@v/list", "@latest", "@v/main.info"} {
		if a := g.get(long+"/"+file, "Authorization", g.pay); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "the module path has 301 bytes") {
			t.Errorf("GET %s of a long path = %v", file, a)
		}
	}
	if asked := g.code.Requests(); len(asked) > 0 {
		t.Errorf("for a path of 301 bytes %q were asked", asked)
	}
}

// A page that changes with each request, with a server that reads it each time, reveals
// nothing about a protected repository: neither content nor which versions it has.
func TestRuleChangingPage(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay,evil.corp.example=dev")
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	other := g.code.Module("other", "v0.1.0\n-- go.mod --\nmodule evil.corp.example/x\n")
	var asked atomic.Int64
	g.code.Host("evil.corp.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url := other.URL()
		if asked.Add(1)%2 == 0 {
			url = g.repo.URL()
		}
		fmt.Fprintf(w, `<meta name="go-import" content="%s git %s">`, evilPath, url)
	}))
	done := make(chan struct{})
	var forgetting sync.WaitGroup
	forgetting.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				g.vcs.Forget()
			}
		}
	})
	for i := range 8 {
		for _, file := range []string{"@v/v1.0.0.mod", fmt.Sprintf("@v/v1.7.%d.mod", i), "@v/sub.info"} {
			a := g.get(evilPath+"/"+file, "Authorization", g.dev)
			if a.status != http.StatusNotFound || strings.Contains(string(a.body), "pay") {
				t.Errorf("GET %s = %v", file, a)
			}
		}
	}
	close(done)
	forgetting.Wait()
}

// Nor does an error tell what a protected repository does not have, if a page begins to
// name it while a request waits.
func TestRuleVeilsErrors(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay,evil.corp.example=dev")
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	pageFor(g.code, "evil.corp.example", g.code.Module("other", "v0.1.0\n-- go.mod --\nmodule evil.corp.example/x\n").URL())
	g.code.Hang(true)
	g.code.Requests()
	var answers [2]response
	var clients sync.WaitGroup
	for i := range answers {
		clients.Go(func() { answers[i] = g.get(evilPath+"/@v/v1.7.0.zip", "Authorization", g.dev) })
	}
	waitUntil(t, func() bool { return strings.Contains(strings.Join(g.code.Requests(), " "), vcstest.GitHost) })
	g.wantWaiting(len(answers))
	pageFor(g.code, "evil.corp.example", g.repo.URL())
	g.code.Hang(false)
	clients.Wait()
	hidden := 0
	for _, a := range answers {
		if a.status != http.StatusNotFound {
			t.Errorf("%v", a)
		}
		if strings.Contains(string(a.body), "if it is private, check") {
			hidden++
		}
	}
	if hidden != 1 { // the client that looked once more
		t.Errorf("%d answers are the refusal, want 1: %v", hidden, answers)
	}
}

// With direct, a public name serves nothing of a repository that a rule protects,
// whatever was stored under the name before, not even the .info of a commit.
func TestRuleDirect(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay")
	pageFor(g.code, "public.corp.example", g.repo.URL())
	direct := chainOf(t, g.world.URL("404")+",direct")
	private, err := policyOf(t, "go.corp.example").Restrict(payPath + "=pay")
	if err != nil {
		t.Fatal(err)
	}
	g.server.Reload(content.Settings{Upstream: direct, Policy: private, VCS: g.vcs})
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	g.code.Requests()
	for _, who := range []string{"", g.pay} {
		for _, path := range g.everything("public.corp.example/x") {
			if strings.Contains(path, "sumdb/") || strings.HasPrefix(path, "cached-only/") {
				continue // this does not depend on the repository
			}
			if a := g.get(path, "Authorization", who); a.status != http.StatusNotFound || !strings.Contains(string(a.body), "if it is private, check") {
				t.Errorf("GET %s = %v", path, a)
			}
		}
	}
	for _, request := range g.code.Requests() {
		if strings.Contains(request, vcstest.GitHost) {
			t.Errorf("a public name made us ask %s", request)
		}
	}

	// The host does not ask for a credential, and no rule protects the repository yet.
	g.code.Password("", "")
	other := g.code.Repo("other")
	other.Commit("-- go.mod --\nmodule public.corp.example/y\n")
	pageFor(g.code, "public.corp.example", other.URL())
	for _, path := range []string{"@v/list", "@latest", "@v/main.info"} {
		g.ok("public.corp.example/y/" + path)
	}
	if private, err = private.Restrict("git.corp.example/other=pay"); err != nil {
		t.Fatal(err)
	}
	g.server.Reload(content.Settings{Upstream: direct, Policy: private, VCS: g.vcs})
	for _, path := range []string{"@v/list", "@latest", "@v/main.info"} {
		if a := g.get("public.corp.example/y/" + path); a.status != http.StatusNotFound || !strings.Contains(string(a.body), "if it is private, check") {
			t.Errorf("GET %s after the rule came: %v", path, a)
		}
	}
}

// The example of docs/access.md, row by row.
func TestRuleExample(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "go.corp.example=dev|pay,go.corp.example/pay=pay,git.corp.example/finance=pay")
	repos := map[string]*vcstest.Repo{}
	for name, repo := range map[string]string{"pay": "finance/pay", "lib": "team/lib"} {
		repos[name] = g.code.Repo(repo)
		repos[name].Commit("-- go.mod --\nmodule go.corp.example/" + name + "\n")
		repos[name].Tag("v1.0.0")
	}
	g.code.Host("go.corp.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if repo := repos[name]; repo != nil {
			fmt.Fprintf(w, `<meta name="go-import" content="go.corp.example/%s git %s">`, name, repo.URL())
		}
	}))
	pageFor(g.code, "evil.corp.example", repos["pay"].URL())
	for _, row := range []struct {
		who, path string
		status    int
	}{
		{g.dev, "git.corp.example/finance/pay.git", 404}, {"", "git.corp.example/finance/pay.git", 404}, {"", "evil.corp.example/x", 404},
		{g.pay, "git.corp.example/team/lib.git", 404},
		{g.pay, "go.corp.example/pay", 200}, {g.dev, "go.corp.example/lib", 200}, {g.dev, "go.corp.example/pay", 404}, {"", "go.corp.example/pay", 404},
		{g.dev, "git.corp.example/finance/pay.git", 404}, {"", "evil.corp.example/x", 404}, {g.pay, "evil.corp.example/x", 200},
		{g.pay, "git.corp.example/team/lib.git", 200}, {"", "git.corp.example/team/lib.git", 404},
	} {
		if a := g.get(row.path+"/@v/v1.0.0.mod", "Authorization", row.who); a.status != row.status {
			t.Errorf("%.20s: GET %s = %v, want %d", row.who, row.path, a, row.status)
		}
	}
}

// A server that does not know what its rules protect does not start, and says what to do.
func TestBindingsLost(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, payPath+"=pay")
	g.ok(payPath+"/@v/v1.0.0.zip", "Authorization", g.pay)
	store := &lossyStore{Store: g.store}
	_, err := proxy.New(proxy.Config{
		Content:  content.Config{Store: store, Log: g.log, Scratch: t.TempDir(), Evidence: t.TempDir()},
		Settings: content.Settings{Upstream: g.chain, Policy: ruled(t, "")},
	})
	if !errors.Is(err, bindings.ErrLost) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("New = %v", err)
	}
}

// fullStore can store no more facts about repositories.
type fullStore struct {
	countingStore
	full atomic.Bool
}

func (s *fullStore) SwapState(ctx context.Context, name string, old, value []byte) error {
	if s.full.Load() && strings.HasPrefix(name, "bindings/") {
		return syscall.ENOSPC
	}
	return s.countingStore.SwapState(ctx, name, old, value)
}

// lossyStore has lost the facts about repositories, but not their index.
type lossyStore struct{ storage.Store }

func (s *lossyStore) State(ctx context.Context, name string) ([]byte, error) {
	if strings.HasPrefix(name, "bindings/") && name != "bindings/index" {
		return nil, fs.ErrNotExist
	}
	return s.Store.State(ctx, name)
}
