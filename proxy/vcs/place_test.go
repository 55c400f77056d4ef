package vcs_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// pageAt makes a host answer each path with a go-import tag for the repository at url.
func pageAt(w *vcstest.World, host, url string) {
	w.Host(host, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, `<meta name="go-import" content="%s git %s">`, host+r.URL.Path, url)
	}))
}

// A clone that was fetched with a credential is not used for a module without that
// credential, or a public one.
func TestCopyHasReachAndCredential(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	repo := w.Module("hello", hello)
	w.Password("ci", "secret-of-git")
	pageAt(w, "evil.corp.example", repo.URL())
	token := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret-of-git")
	s := newSource(t, w, func(c *vcs.Config) {
		c.Credentials = []vcs.Credential{{Pattern: "corp.example", Host: vcstest.GitHost, User: "ci", TokenFile: token}}
	})
	s.want("corp.example/hello", "v1.0.0")
	for _, reach := range []vcs.Reach{vcs.Private, vcs.Public} {
		for _, path := range []string{"evil.corp.example/x", "git.corp.example/hello.git"} {
			err := s.Download(t.Context(), module.Version{Path: path, Version: "v1.0.0"}, reach, func(vcs.Files) error { return nil })
			if err == nil {
				t.Errorf("%s, reach %d: served from the copy of another", path, reach)
			}
			if _, err := s.Query(t.Context(), path, repo.Git("rev-parse", "HEAD"), reach); err == nil {
				t.Errorf("%s, reach %d: a commit is found in the copy of another", path, reach)
			}
		}
	}
	if err := s.Download(t.Context(), module.Version{Path: "corp.example/hello", Version: "v1.0.0"}, vcs.Public, func(vcs.Files) error { return nil }); err == nil {
		t.Error("the same path, public: served from the private copy")
	}
	// A credential whose secret is renewed keeps its clone.
	write("another-secret")
	w.Password("ci", "another-secret")
	sent := w.Sent()
	s.want("corp.example/hello", "v1.0.0")
	if w.Sent() > sent+2000 { // the references, at most
		t.Errorf("%d bytes came with a renewed secret: the repository was copied again", w.Sent()-sent)
	}
}

// A fetch by the old name of a repository reports the new one.
func TestRedirected(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Rename("old", "hello")
	w.Page("hello", "corp.example/hello git https://git.corp.example/old.git")
	s := newSource(t, w, nil)
	want := vcs.Place{Repository: "git.corp.example/old", Redirected: "git.corp.example/hello", Declared: "corp.example/hello"}
	for range 2 { // the second time from the clone
		if files := s.want("corp.example/hello", "v1.0.0"); files.Place != want {
			t.Errorf("place %+v", files.Place)
		}
		v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private)
		if err != nil || v.Place != want {
			t.Errorf("place %+v, %v", v.Place, err)
		}
		info, err := s.Query(t.Context(), "corp.example/hello", "main", vcs.Private)
		if err != nil || info.Place != want {
			t.Errorf("place %+v, %v", info.Place, err)
		}
	}
}

// Locate sends no request to the repository, sends no credential to a page if it must not,
// and says whether there is one.
func TestLocate(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	repo := w.Module("hello", hello)
	pageAt(w, "evil.corp.example", repo.URL())
	w.PagePassword("ci", "secret-of-page")
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine git.corp.example login ci password secret-of-git\nmachine corp.example login ci password secret-of-page\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSource(t, w, func(c *vcs.Config) { c.Netrc = netrc })
	for _, test := range []struct {
		path  string
		reach vcs.Reach
		open  bool
		want  vcs.Place
	}{
		{"git.corp.example/hello.git", vcs.Private, true, vcs.Place{Repository: "git.corp.example/hello", Credential: true}},
		{"git.corp.example/none.git/sub", vcs.Private, true, vcs.Place{Repository: "git.corp.example/none", Credential: true}},
		{"git.corp.example/hello.git", vcs.Public, true, vcs.Place{Repository: "git.corp.example/hello"}},
		{"evil.corp.example/x", vcs.Private, true, vcs.Place{Repository: "git.corp.example/hello", Credential: true}},
		{"corp.example/hello", vcs.Private, true, vcs.Place{Credential: true}},
		{"corp.example/hello", vcs.Private, false, vcs.Place{Repository: "git.corp.example/hello", Credential: true}},
		{"github.com/corp/lib/sub", vcs.Private, true, vcs.Place{Repository: "github.com/corp/lib"}},
	} {
		if got, err := s.Locate(t.Context(), test.path, test.reach, test.open); got != test.want || err != nil {
			t.Errorf("Locate(%q, %d, %v) = %+v, %v, want %+v", test.path, test.reach, test.open, got, err, test.want)
		}
	}
	for _, request := range w.Requests() {
		if request != "GET evil.corp.example/x?go-get=1" && request != "GET corp.example/hello?go-get=1" {
			t.Errorf("Locate asked %s", request)
		}
	}
}

// All spellings of a repository that hosts treat as equal are equal.
func TestCanonicalRepositorySpellings(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"https://git.corp.example/team/pay", "https://git.corp.example/team/pay.git", "https://git.corp.example/team/pay.git/", "https://GIT.corp.example/Team/Pay.GIT",
		"https://git.corp.example:8443/team/pay.git", "ssh://git@git.corp.example/team/pay.git", "ssh://git@git.corp.example:2222/~/team/pay", "git@git.corp.example:team/pay.git",
		"https://git.corp.example//team//pay.git", "https://git.corp.example/./team/x/../pay", "https://git.corp.example/team/%70ay", "https://git.corp.example/team/pay/.git",
		"https://git.corp.example/team/pay.git.git", "https://git.corp.example/team/pay.git/.git/", "ssh://Git@git.corp.example/~git/team/pay.git", "git@git.corp.example:~git/team/pay",
	} {
		if got := vcs.CanonicalRepository(url); got != "git.corp.example/team/pay" {
			t.Errorf("CanonicalRepository(%q) = %q", url, got)
		}
	}
}

// A module path that ends with the name of a system has the same repository as a page that
// names it without.
func TestPlaceOfSystem(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	s, err := vcs.New(vcs.Config{Dir: t.TempDir(), Systems: []string{"git", "hg"}, Network: vcs.Network{Lookup: w.Lookup, Dial: w.Dial, CAFile: w.CAFile()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // without hg nothing is fetched, but found
	for _, path := range []string{"git.corp.example/pay.hg", "git.corp.example/pay.hg/sub", "git.corp.example/pay.git", "git.corp.example/pay.git.git/sub"} {
		if got, err := s.Locate(t.Context(), path, vcs.Private, true); got.Repository != "git.corp.example/pay" || err != nil {
			t.Errorf("Locate(%q) = %+v, %v", path, got, err)
		}
	}
}

// A Source that is closed may be closed again.
func TestCloseTwice(t *testing.T) {
	t.Parallel()
	s := newSource(t, vcstest.New(t), nil)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// With an SSH key, git expands the home directory of its user in the path of an https URL:
// the repository is named without it.
func TestPlaceInHome(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	host := w.SSH()
	s := newSource(t, w, func(c *vcs.Config) {
		c.Credentials = []vcs.Credential{{Pattern: "*.corp.example", Host: vcstest.GitHost, SSHKey: host.KeyFile, KnownHosts: host.KnownHosts, SSH: "Deploy@" + host.Addr}}
	})
	pageAt(w, "evil.corp.example", "ssh://git.corp.example/~deploy/pay.git")
	for path, want := range map[string]string{
		"git.corp.example/~deploy/pay.git": "git.corp.example/pay", "evil.corp.example/x": "git.corp.example/pay",
		"git.corp.example/~alice/pay.git": "git.corp.example/~alice/pay",
	} {
		if got, err := s.Locate(t.Context(), path, vcs.Private, false); got.Repository != want || err != nil {
			t.Errorf("Locate(%q) = %+v, %v, want %s", path, got, err, want)
		}
	}
	if got, err := s.Locate(t.Context(), "git.corp.example/~deploy/pay.git", vcs.Public, true); got.Repository != "git.corp.example/~deploy/pay" || err != nil {
		t.Errorf("without the key: %+v, %v", got, err)
	}
}
