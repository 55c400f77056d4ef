package vcs_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/egress"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// Repositories that a page must not name: each is refused before a socket is opened or a
// program is run.
var hostileRepos = []string{
	"-x", "--upload-pack=touch pwned", "ext::sh -c touch% pwned", "file:///etc/passwd", "/etc/passwd", "../x",
	"http://git.corp.example/x.git", "git://git.corp.example/x.git", "svn://git.corp.example/x",
	"https://-oProxyCommand=touch/x.git", "ssh://-oProxyCommand=touch%20pwned/x", "ssh://git@-host/x.git", "ssh://-x@git.corp.example/x.git",
	"https://user:password@git.corp.example/x.git", "https://user@git.corp.example/x.git",
	"https://git.corp.example/--upload-pack=touch", "https://git.corp.example/a/-x/b.git", "https://git.corp.example/../x.git",
	"https://git.corp.example/x.git?q=1", "https://git.corp.example/x.git#f", "https://git.corp.example:/x.git", "https://git.corp.example:8a/x.git",
	"https://git.corp.example", "https:///x.git", "https:x", "https://git.corp.example/x'y.git", "https://git.corp.example/x$(touch).git",
	"https://git.corp.example/x;y.git", "https://git.corp.example/x%00y", "ssh://git@git.corp.example/x`y`.git", "https://[fe80::1%25eth0]/x.git",
	"https://ɡit.corp.example/x.git", "https://git.corp.example/x\u202egit",
	// Addresses: this machine, its link, metadata, in every notation.
	"https://127.0.0.1/x.git", "https://[::1]/x.git", "https://0.0.0.0/x.git", "https://169.254.169.254/latest", "https://[fe80::1]/x.git",
	"https://[fd00:ec2::254]/x.git", "https://[fd20:ce::254]/x.git", "https://168.63.129.16/x.git", "https://100.100.100.200/x.git", "https://[::ffff:127.0.0.1]/x.git", "https://[::ffff:169.254.169.254]/x.git",
	"https://[64:ff9b::7f00:1]/x.git", "https://[2002:7f00:1::]/x.git", "https://[::127.0.0.1]/x.git", "https://224.0.0.1/x.git", "https://255.255.255.255/x.git",
	"https://127.0.0.1.bad.example/x.git", "https://169.254.169.254.bad.example/x.git", "ssh://git@127.0.0.1/x.git", "ssh://git@127.0.0.1.bad.example/x.git",
	"git+ssh://git@169.254.169.254/x.git",
	// Ports of other services.
	"https://git.corp.example:8443/x.git", "https://git.corp.example:22/x.git", "ssh://git@git.corp.example:443/x.git", "ssh://git@git.corp.example:6379/x.git",
	"https://git.corp.example:0/x.git", "https://git.corp.example:65979/x.git",
}

func TestHostileRepositories(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	s := newSource(t, w, nil)
	for _, repo := range hostileRepos {
		w.Page("x", "corp.example/x git "+repo)
		_, _, err := s.download("corp.example/x", "v1.0.0")
		// A name that does not resolve, an invalid tag, and SSH without a key are harmless.
		if !errors.Is(err, vcs.ErrForbidden) && !errors.Is(err, vcs.ErrCredential) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, vcs.ErrUnavailable) {
			t.Errorf("%s: %v, want it refused", repo, err)
		}
		if strings.Contains(err.Error(), "password@") {
			t.Errorf("a credential in an error: %v", err)
		}
	}
	w.Page("x", "corp.example/x git https://git.corp.example/x.git")
	w.Host("pages.corp.example", http.RedirectHandler("https://git.corp.example:8443/x?go-get=1", http.StatusFound))
	s.wantError("pages.corp.example/x", "v1.0.0", vcs.ErrForbidden)
	for _, address := range w.Dialed() {
		if address != "192.0.2.1:443" {
			t.Errorf("a socket to %s", address)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "repos")); err != nil || len(left) > 1 {
		t.Errorf("%d repositories, %v", len(left), err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "empty", "pwned")); err == nil {
		t.Error("something was run")
	}
}

// Another port than the usual one is allowed only for hosts that the administrator has
// named with it.
func TestPorts(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return w.Dial(ctx, network, strings.Replace(address, "192.0.2.1:8443", "192.0.2.1:443", 1))
	}
	w.Page("hello", "corp.example/hello git "+strings.Replace(r.URL(), vcstest.GitHost, vcstest.GitHost+":8443", 1))
	for _, change := range []func(*vcs.Config){
		func(c *vcs.Config) {},
		func(c *vcs.Config) { c.Network.Hosts = []string{vcstest.GitHost + ":9443", vcstest.PageHost} },
	} {
		s := newSource(t, w, func(c *vcs.Config) { c.Network.Dial = dial; change(c) })
		told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrForbidden)
		if !strings.Contains(told.Error(), "8443") || !strings.Contains(told.Error(), "--vcs-hosts") {
			t.Errorf("%v", told)
		}
	}
	token := writeSecret(t, "token", "secret")
	for _, change := range []func(*vcs.Config){
		func(c *vcs.Config) { c.Network.Hosts = []string{"Git.corp.example"} },
		func(c *vcs.Config) { c.Network.Hosts = []string{vcstest.GitHost + ":8443"} },
		func(c *vcs.Config) {
			c.Credentials = []vcs.Credential{{Pattern: "corp.example", Host: "Git.corp.example:8443", TokenFile: token}}
		},
	} {
		s := newSource(t, w, func(c *vcs.Config) { c.Network.Dial = dial; change(c) })
		s.want("corp.example/hello", "v1.0.0")
	}
}

// An intranet is for private modules only.
func TestReach(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	lookup := func(ctx context.Context, host string) ([]netip.Addr, error) {
		if host == vcstest.GitHost {
			return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, nil
		}
		return w.Lookup(ctx, host)
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "10.1.2.3:443" {
			address = "192.0.2.1:443"
		}
		return w.Dial(ctx, network, address)
	}
	w.Module("hello", hello)
	s := newSource(t, w, func(c *vcs.Config) { c.Network.Lookup, c.Network.Dial = lookup, dial })
	s.want("corp.example/hello", "v1.0.0")
	s = newSource(t, w, func(c *vcs.Config) { c.Network.Lookup, c.Network.Dial = lookup, dial })
	err := s.Download(t.Context(), module.Version{Path: "corp.example/hello", Version: "v1.0.0"}, vcs.Public, func(vcs.Files) error { return nil })
	if err == nil {
		t.Error("a public module from an intranet")
	}
}

// A page cannot scan the network around this machine: the client gets the same text for a
// refused address, including each of this machine, and for one that refuses or resets the
// connection.
func TestNoScan(t *testing.T) {
	t.Parallel()
	own, err := egress.Machine()
	if err != nil {
		t.Fatal(err)
	}
	w := vcstest.New(t)
	resets := listen(t, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	})
	var dialed []string
	var mu sync.Mutex
	s := newSource(t, w, func(c *vcs.Config) {
		c.Network.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			dialed = append(dialed, address)
			mu.Unlock()
			switch address {
			case "10.0.0.7:443":
				address = resets
			case "10.0.0.8:443":
				address = "127.0.0.1:1"
			}
			return w.Dial(ctx, network, address)
		}
	})
	hosts := []string{"10.0.0.7", "10.0.0.8", "10.0.0.9", "10.0.0.7.bad.example", "127.0.0.1", "[::1]", "169.254.169.254", "127.0.0.1.bad.example", "none.corp.example"}
	for addr := range own {
		if addr.Is4() && !addr.IsLoopback() {
			hosts = append(hosts, addr.String(), addr.String()+".bad.example")
		}
	}
	texts := map[string]string{}
	for _, host := range hosts {
		s.log.Reset()
		w.Page("x", "corp.example/x git https://"+host+"/x.git")
		told := s.wantError("corp.example/x", "v1.0.0", vcs.ErrUnavailable)
		if errors.Is(told, context.DeadlineExceeded) || told.Host != host {
			t.Errorf("%s: %v", host, told)
		}
		texts[told.Err.Error()+told.Detail] = host
		if !strings.Contains(s.log.String(), "no connection to a version control host") {
			t.Errorf("%s: the log does not say why: %s", host, s.log)
		}
	}
	if len(texts) != 1 {
		t.Errorf("the texts differ: %q", texts)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, address := range dialed {
		if addr := netip.MustParseAddrPort(address).Addr(); own[addr] {
			t.Errorf("a socket to %s, which is this machine", addr)
		}
	}
}

// Module paths and versions have passed module.CheckPath; what that allows must not become
// anything but a name.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	s := newSource(t, w, nil)
	for _, path := range []string{
		"127.0.0.1/x", "10.0.0.1/x", "169.254.169.254/latest", "1.2/x", "foo.localhost/x", "localhost/x", "nodot/x", "0x7f.1/x", "corp.example",
		"github.com", "github.com/one", "github.com/-x/y", "github.com/a/--upload-pack=x", "git.corp.example/x.git/-x", "git.corp.example/-x.git", "corp.example/x.svn",
		"git.corp.example/--upload-pack=x.git",
		// request.Parse refuses these.
		"", "-x", "--upload-pack=touch pwned", "ext::sh -c touch% pwned", "file:///etc/passwd", "https://corp.example/hello", "corp.example/hello -x", "corp.example/hello\n-x",
		"corp.example/hello@v1.0.0", "corp.example/../hello", "corp.example/hello\x00", "сorp.example/hello", "corp.example/hеllo", "corp.example/\u202ehello", "corp。example/hello",
	} {
		if _, _, err := s.download(path, "v1.0.0"); err == nil {
			t.Errorf("%q: no error", path)
		}
	}
	w.Module("hello", hello)
	for _, version := range []string{"", "-x", "--json", "v1.0.0 -x", "v1.0.0\n-x", "v1.0.0@v1.0.0", "v1", "v1.0.0/../x", "v１.0.0", "latest", "v1.0.0\x00"} {
		if _, _, err := s.download("corp.example/hello", version); err == nil {
			t.Errorf("%q is a version", version)
		}
	}
	if dialed := w.Dialed(); slices.ContainsFunc(dialed, func(address string) bool { return address != "192.0.2.1:443" }) {
		t.Errorf("sockets to %q", dialed)
	}
	for _, query := range []string{"-x", "--upload-pack=touch", "-exec=touch", "-toolexec=touch", "@x", "a b", "x\ny", "$(touch)", "HEAD:x", "refs/heads/main", "../x", "~1", "^0", ":/x", "\u202e"} {
		_, err := s.Query(t.Context(), "corp.example/hello", query, vcs.Private)
		if err == nil {
			t.Errorf("%q is a version", query)
		}
	}
	if names, err := os.ReadDir(filepath.Join(s.dir, "empty")); err != nil || len(names) != 0 {
		t.Errorf("made in the empty directory: %v, %v", names, err)
	}
}

// A page does not speak for the paths above its own, and cannot lead into the repository of
// another host under a wrong name.
func TestPagesThatDisagree(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	w.Page("evil/sub", "corp.example git "+r.URL())
	w.Page("", "corp.example git https://git.corp.example/other.git")
	w.Page("two", "corp.example/two git "+r.URL()+`"><meta name="go-import" content="corp.example git `+r.URL())
	w.Page("hg", "corp.example/hg hg https://git.corp.example/hg")
	w.Page("mod", "corp.example/mod mod https://git.corp.example/mod")
	w.Page("subdir", "corp.example/subdir git "+r.URL()+" ../up")
	w.Page("dash", "corp.example/dash git "+r.URL()+" --upload-pack=x")
	s := newSource(t, w, nil)
	s.wantError("corp.example/evil/sub", "v1.0.0", vcs.ErrForbidden)
	s.wantError("corp.example/hg", "v1.0.0", vcs.ErrForbidden)
	s.wantError("corp.example/mod", "v1.0.0", fs.ErrNotExist)
	s.wantError("corp.example/subdir", "v1.0.0", vcs.ErrForbidden)
	s.wantError("corp.example/dash", "v1.0.0", vcs.ErrForbidden)
}

// A command gets a clean environment, without variables of this process, and no secrets in
// arguments.
func TestEnvironment(t *testing.T) {
	for _, variable := range []string{"GIT_DIR=/x", "GIT_SSH=/bin/false", "GOFLAGS=-insecure", "GOPROXY=off", "GIT_EXEC_PATH=/nowhere", "GOINSECURE=*", "GIT_CONFIG_PARAMETERS='x.y=z'",
		"SSH_AUTH_SOCK=/x", "GOTOOLCHAIN=go1.1", "HOME=/nowhere", "GOMODCACHE=/nowhere", "LD_PRELOAD="} {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	w := vcstest.New(t)
	func() {
		t.Setenv("GIT_DIR", "")
		os.Unsetenv("GIT_DIR")
		t.Setenv("GIT_EXEC_PATH", "")
		os.Unsetenv("GIT_EXEC_PATH")
		os.Unsetenv("GIT_CONFIG_PARAMETERS")
		w.Module("hello", hello)
	}()
	t.Setenv("GIT_DIR", "/x")
	t.Setenv("GIT_CONFIG_PARAMETERS", "'x.y=z'")
	newSource(t, w, nil).want("corp.example/hello", "v1.0.0")
}

// A panic in shared work becomes an error of its callers, and does not end the program.
func TestPanic(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	defect := true
	s := newSource(t, w, func(c *vcs.Config) {
		c.Network.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if defect {
				panic("a defect")
			}
			return w.Lookup(ctx, host)
		}
	})
	if _, err := s.Versions(t.Context(), "git.corp.example/hello.git", vcs.Private); err == nil || !strings.Contains(err.Error(), "a defect") || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	defect = false
	s.want("corp.example/hello", "v1.0.0")
}

// The authorities of SSL_CERT_FILE count for git as for this program.
func TestSystemRoots(t *testing.T) {
	w := vcstest.New(t)
	w.Module("hello", hello)
	t.Setenv("SSL_CERT_FILE", w.CAFile())
	s := newSource(t, w, func(c *vcs.Config) { c.Network.CAFile = "" })
	if _, _, err := s.download("git.corp.example/hello.git", "v1.0.0"); err != nil {
		t.Error(err)
	}
}

// An authority that is only in the system's directory, under two names as c_rehash leaves
// it, counts for git, too, which reads it once.
func TestSystemRootsInDirectory(t *testing.T) {
	w := vcstest.New(t)
	w.Module("hello", hello)
	authority, err := os.ReadFile(w.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"corp.pem", "0123abcd.0"} {
		if err := os.WriteFile(filepath.Join(dir, name), authority, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SSL_CERT_FILE", writeSecret(t, "none.pem", "no authority"))
	t.Setenv("SSL_CERT_DIR", dir)
	s := newSource(t, w, func(c *vcs.Config) { c.Network.CAFile = "" })
	if _, _, err := s.download("git.corp.example/hello.git", "v1.0.0"); err != nil {
		t.Error(err)
	}
	if roots, err := os.ReadFile(filepath.Join(s.dir, "roots.pem")); strings.Count(string(roots), "BEGIN CERTIFICATE") != 1 || err != nil {
		t.Errorf("git reads %s, %v", roots, err)
	}
}

// The system's authorities stay when there are more.
func TestSystemRootsAndOwn(t *testing.T) {
	w := vcstest.New(t)
	w.Module("hello", hello)
	t.Setenv("SSL_CERT_FILE", w.CAFile())
	other := vcstest.New(t) // an authority of no host in this test
	s := newSource(t, w, func(c *vcs.Config) { c.Network.CAFile = other.CAFile() })
	if _, _, err := s.download("git.corp.example/hello.git", "v1.0.0"); err != nil {
		t.Error(err)
	}
}

// If a host does not answer over https, the go command would try ssh without our options:
// with the keys of the machine's user, and any address that the name then has.
func TestNoOtherProtocol(t *testing.T) {
	w := vcstest.New(t)
	bin, called := t.TempDir(), filepath.Join(t.TempDir(), "called")
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\necho \"$@\" >>'"+called+"'\nexit 255\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	s := newSource(t, w, nil)
	s.wantError("git.corp.example/none.git", "v1.0.0", fs.ErrNotExist)
	if arguments, err := os.ReadFile(called); err == nil {
		t.Errorf("ssh was run: %s", arguments)
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, repo := range hostileRepos {
		f.Add(repo)
	}
	f.Add("https://git.corp.example/team/x.git")
	f.Add("ssh://git@git.corp.example:7999/~user/x.git")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := guard.CheckURL(text)
		if err != nil {
			return
		}
		printed := u.String()
		if u.Scheme != "https" && u.Scheme != "ssh" || strings.HasPrefix(u.Host, "-") || strings.ContainsAny(printed, " '\"`$;|&<>\\\n\x00") ||
			strings.Contains(printed, "/-") || strings.HasPrefix(u.User.Username(), "-") {
			t.Errorf("%q passes as %q", text, printed)
		}
		if again, err := guard.CheckURL(printed); err != nil || again.String() != printed {
			t.Errorf("%q becomes %q, which is %v, %v", text, printed, again, err)
		}
	})
}

func FuzzGoImports(f *testing.F) {
	f.Add(`<html><head><meta name="go-import" content="corp.example/x git https://git.corp.example/x.git"></head>`)
	f.Add(`<!DOCTYPE html><meta charset=utf-8><META NAME=go-import CONTENT='a b c d'><body>`)
	f.Add("<?xml version=\"1.0\" encoding=\"latin1\"?><x")
	f.Fuzz(func(t *testing.T, page string) {
		for _, fields := range vcs.ParseGoImports(page) {
			for _, field := range fields[:3] {
				if field == "" || strings.ContainsAny(field, " \t\n") {
					t.Errorf("%q gives %q", page, fields)
				}
			}
		}
	})
}

// This program ignores an SSL_CERT_FILE that does not exist, and so must git, which could
// not reach any host with it.
func TestNoSystemRoots(t *testing.T) {
	w := vcstest.New(t)
	bin, seen := t.TempDir(), filepath.Join(t.TempDir(), "seen")
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte("#!/bin/sh\nenv >>'"+seen+"'\nexit 128\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("SSL_CERT_FILE", filepath.Join(t.TempDir(), "none.pem"))
	s := newSource(t, w, func(c *vcs.Config) { c.Network.CAFile = "" })
	s.wantError("git.corp.example/hello.git", "v1.0.0", vcs.ErrUnavailable)
	if env, err := os.ReadFile(seen); !strings.Contains(string(env), "http.lowSpeedLimit") || strings.Contains(string(env), "none.pem") {
		t.Errorf("git had %s, %v", env, err)
	}
}
