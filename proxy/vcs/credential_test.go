package vcs_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// hello2 is a second version of hello.
const hello2 = `v1.1.0
-- go.mod --
module corp.example/hello
-- hello.go --
package hello // again
`

// writeSecret writes a file that only its owner may read, and returns its name.
func writeSecret(t *testing.T, name, text string) string {
	t.Helper()
	if filepath.Base(name) == name {
		name = filepath.Join(t.TempDir(), name)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// forGit is a credential for the git host with a token in a file.
func forGit(user, file string) vcs.Credential {
	return vcs.Credential{Pattern: "corp.example/*", Host: vcstest.GitHost, User: user, TokenFile: file}
}

// keepsSecrets checks that no file, log line or error of a Source has a secret in it.
func (s *source) keepsSecrets(secrets ...string) {
	s.t.Helper()
	texts := map[string]string{"the log": s.log.String(), "an error": s.errors.String()}
	err := filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "roots.pem" { // certificates
			return err
		}
		data, err := os.ReadFile(name)
		texts[name] = string(data)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for where, text := range texts {
		for _, secret := range secrets {
			if strings.Contains(text, secret) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(secret))) {
				s.t.Errorf("%q is in %s: %.500s", secret, where, text)
			}
		}
	}
}

// Each kind of credential gets the module. Without one, or with a wrong one, the error says
// that the credential failed, and at which host.
func TestHTTPSCredentials(t *testing.T) {
	t.Setenv("TEST_TOKEN", " s3cret-environment\n")
	netrc := "machine other.example login x password y\nmachine git.corp.example\n  login ci\n  password s3cret-netrc\n"
	tests := []struct {
		name           string
		user, password string
		change         func(c *vcs.Config)
		works          bool
	}{
		{"netrc for all", "ci", "s3cret-netrc", func(c *vcs.Config) { c.Netrc = writeSecret(t, "netrc", netrc) }, true},
		{"netrc for a pattern", "ci", "s3cret-netrc", func(c *vcs.Config) {
			c.Credentials = []vcs.Credential{{Pattern: "corp.example", Host: vcstest.GitHost, Netrc: writeSecret(t, "netrc", netrc)}}
		}, true},
		{"token in a file", "ci", "s3cret-file", func(c *vcs.Config) {
			c.Credentials = []vcs.Credential{forGit("ci", writeSecret(t, "token", "s3cret-file\n"))}
		}, true},
		{"token in the environment", "x-access-token", "s3cret-environment", func(c *vcs.Config) {
			c.Credentials = []vcs.Credential{{Pattern: "corp.example/h*", Host: vcstest.GitHost, TokenEnv: "TEST_TOKEN"}}
		}, true},
		{"the first that has something", "ci", "s3cret-file", func(c *vcs.Config) {
			c.Netrc = writeSecret(t, "netrc", netrc)
			c.Credentials = []vcs.Credential{
				{Pattern: "corp.example/other", Host: vcstest.GitHost, TokenEnv: "TEST_TOKEN"},
				{Pattern: "corp.example/hello", Host: vcstest.PageHost, TokenEnv: "TEST_TOKEN"},
				{Pattern: "corp.example/hello", Host: vcstest.GitHost, Netrc: writeSecret(t, "netrc", "machine other.example login x password y\n")},
				forGit("ci", writeSecret(t, "token", "s3cret-file")),
			}
		}, true},
		{"none", "ci", "s3cret-file", func(*vcs.Config) {}, false},
		{"none for the module", "ci", "s3cret-file", func(c *vcs.Config) {
			c.Credentials = []vcs.Credential{{Pattern: "corp.example/other", Host: vcstest.GitHost, User: "ci", TokenFile: writeSecret(t, "token", "s3cret-file")}}
		}, false},
		{"none for the host", "ci", "s3cret-netrc", func(c *vcs.Config) {
			c.Netrc = writeSecret(t, "netrc", "machine other.example login ci password s3cret-netrc\ndefault login ci password s3cret-netrc\n")
		}, false},
		{"wrong", "ci", "another", func(c *vcs.Config) {
			c.Credentials = []vcs.Credential{forGit("ci", writeSecret(t, "token", "s3cret-file"))}
		}, false},
	}
	w := vcstest.New(t)
	w.Module("hello", hello)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w.Password(test.user, test.password)
			s := newSource(t, w, test.change)
			if test.works {
				s.want("corp.example/hello", "v1.0.0")
			} else if told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrCredential); told.Host != vcstest.GitHost || !strings.Contains(told.Error(), vcstest.GitHost) {
				t.Errorf("%v, host %q", told, told.Host)
			}
			s.keepsSecrets("s3cret-", "ci:"+test.password)
		})
	}
}

// A credential that expires between two requests is an error of the credential; a new one
// in its file is used.
func TestCredentialExpires(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello, hello2)
	w.Password("ci", "s3cret-old")
	file := writeSecret(t, "token", "s3cret-old")
	s := newSource(t, w, func(c *vcs.Config) { c.Credentials = []vcs.Credential{forGit("ci", file)} })
	if v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); err != nil || len(v.Tagged) != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	w.Password("ci", "s3cret-new")
	if told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrCredential); told.Host != vcstest.GitHost {
		t.Errorf("host %q", told.Host)
	}
	if _, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); !errors.Is(err, vcs.ErrCredential) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("versions: %v", err)
	}
	writeSecret(t, file, "s3cret-new")
	s.want("corp.example/hello", "v1.0.0")
	s.keepsSecrets("s3cret-")
}

// A file that is removed, emptied or made readable to others while the program runs is an
// error of the credential. A missing file must not look like a missing module, and its name
// is not in the error that the client sees.
func TestCredentialFileDisappears(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello, hello2)
	w.Password("ci", "s3cret")
	token, netrc := writeSecret(t, "token", "s3cret"), writeSecret(t, "netrc", "machine git.corp.example login ci password s3cret")
	for name, credential := range map[string]vcs.Credential{
		token: forGit("ci", token),
		netrc: {Pattern: "corp.example", Host: vcstest.GitHost, Netrc: netrc},
	} {
		s := newSource(t, w, func(c *vcs.Config) { c.Credentials = []vcs.Credential{credential} })
		s.want("corp.example/hello", "v1.0.0")
		for _, harm := range []func() error{
			func() error { return os.Chmod(name, 0o644) },
			func() error { return os.Remove(name) },
		} {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			told := s.wantError("corp.example/hello", "v1.1.0", vcs.ErrCredential)
			if told.Host != vcstest.GitHost || strings.Contains(told.Error(), filepath.Dir(name)) || strings.Contains(told.Error(), "chmod") {
				t.Errorf("%v", told)
			}
			if !strings.Contains(s.log.String(), name) {
				t.Errorf("the log does not name %s: %s", name, s.log)
			}
		}
		s.keepsSecrets("s3cret")
	}
}

// The go-import page can require a credential, too, and gets that of its host.
func TestPageCredential(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Password("ci", "s3cret-git")
	w.PagePassword("reader", "s3cret-page")
	git := forGit("ci", writeSecret(t, "git", "s3cret-git"))
	page := vcs.Credential{Pattern: "corp.example/*", User: "reader", TokenFile: writeSecret(t, "page", "s3cret-page")}
	s := newSource(t, w, func(c *vcs.Config) { c.Credentials = []vcs.Credential{git, page} })
	s.want("corp.example/hello", "v1.0.0")
	s.keepsSecrets("s3cret-")
	s = newSource(t, w, func(c *vcs.Config) { c.Credentials = []vcs.Credential{git} })
	if told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrCredential); told.Host != vcstest.PageHost {
		t.Errorf("host %q", told.Host)
	}
	s.keepsSecrets("s3cret-")
}

// A host that repeats our secrets, in texts that git passes on, does not get them into an
// error or a log line.
func TestHostTellsSecret(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Page("hello", "corp.example/hello git https://echo.corp.example/hello.git")
	credential := vcs.Credential{Pattern: "corp.example", Host: "echo.corp.example", User: "ci", TokenFile: writeSecret(t, "token", "s3cret")}
	for _, status := range []int{200, 401, 403, 404, 500} {
		var said atomic.Int32
		w.Host("echo.corp.example", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			said.Add(1)
			_, password, _ := r.BasicAuth()
			rw.Header().Set("Content-Type", "text/plain")
			rw.Header().Set("WWW-Authenticate", `Basic realm="`+password+`"`)
			rw.WriteHeader(status)
			fmt.Fprintf(rw, "your password is %s, your header %s\n", password, r.Header.Get("Authorization"))
		}))
		s := newSource(t, w, func(c *vcs.Config) { c.Credentials = []vcs.Credential{credential} })
		_, _, err := s.download("corp.example/hello", "v1.0.0")
		if err == nil || said.Load() == 0 {
			t.Errorf("%d: %v, asked %d times", status, err, said.Load())
		}
		fmt.Fprintln(&s.errors, err)
		s.keepsSecrets("s3cret", "ci:s3cret")
	}
}

// If a repository redirects to another host, neither git nor this program sends the
// credential of the first one there.
func TestRedirectedRepository(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Page("hello", "corp.example/hello git https://old.corp.example/hello.git")
	w.Host("old.corp.example", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "https://new.corp.example"+r.URL.RequestURI(), http.StatusFound)
	}))
	var came atomic.Int32
	w.Host("new.corp.example", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		came.Add(1)
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s came with a credential", r.URL)
		}
	}))
	s := newSource(t, w, func(c *vcs.Config) {
		c.Credentials = []vcs.Credential{{Pattern: "corp.example", Host: "old.corp.example", TokenFile: writeSecret(t, "token", "s3cret")}}
	})
	if told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrForbidden); told.Host != "old.corp.example" || !strings.Contains(told.Error(), "new.corp.example") {
		t.Errorf("%v", told)
	}
	if n := came.Load(); n != 1 {
		t.Errorf("the other host was asked %d times, want once, by us", n)
	}
	s.keepsSecrets("s3cret")
}

// An invalid credential, or one for every host, is refused at the start.
func TestBadCredentials(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	host := w.SSH()
	key, _ := gitHubKey(t)
	open := func(name, text string) string {
		file := writeSecret(t, name, text)
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	keyText, err := os.ReadFile(host.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	const p = "corp.example/*"
	tests := []struct {
		name  string
		c     vcs.Credential
		wants string // in the text
	}{
		{"open token", vcs.Credential{Pattern: p, TokenFile: open("token", "s3cret")}, "chmod 0640 "},
		{"open netrc", vcs.Credential{Pattern: p, Netrc: open("netrc", "machine corp.example login a password s3cret")}, "chmod 0640 "},
		{"open SSH key", vcs.Credential{Pattern: p, SSHKey: open("key", string(keyText)), KnownHosts: host.KnownHosts}, "chmod 0600 "},
		{"open GitHub key", vcs.Credential{Pattern: p, GitHubApp: 1, GitHubInstallation: 2, GitHubKey: open("app", key)}, "chmod 0640 "},
		{"SSH key with passphrase", vcs.Credential{Pattern: p, SSHKey: encryptedKey(t), KnownHosts: host.KnownHosts}, "passphrase"},
		{"no SSH key", vcs.Credential{Pattern: p, SSHKey: writeSecret(t, "key", "s3cret"), KnownHosts: host.KnownHosts}, "private key"},
		{"no known hosts", vcs.Credential{Pattern: p, SSHKey: host.KeyFile}, "known_hosts"},
		{"missing known hosts", vcs.Credential{Pattern: p, SSHKey: host.KeyFile, KnownHosts: "/nowhere"}, "/nowhere"},
		{"bad SSH destination", vcs.Credential{Pattern: p, SSHKey: host.KeyFile, KnownHosts: host.KnownHosts, SSH: "-oProxyCommand=x@corp.example"}, "user@host"},
		{"missing token", vcs.Credential{Pattern: p, TokenFile: "/nowhere"}, "/nowhere"},
		{"empty token", vcs.Credential{Pattern: p, TokenFile: writeSecret(t, "token", "\n")}, "no token"},
		{"two tokens", vcs.Credential{Pattern: p, TokenFile: writeSecret(t, "token", "s3cret\ns3cret\n")}, "more than one line"},
		{"no such variable", vcs.Credential{Pattern: p, TokenEnv: "TEST_NOTHING"}, "TEST_NOTHING"},
		{"no pattern", vcs.Credential{TokenFile: writeSecret(t, "token", "s3cret")}, "pattern"},
		{"two patterns", vcs.Credential{Pattern: "a.example,b.example", TokenFile: writeSecret(t, "token", "s3cret")}, "pattern"},
		{"any host", vcs.Credential{Pattern: "*.example", TokenFile: writeSecret(t, "token", "s3cret")}, "host is required"},
		{"nothing", vcs.Credential{Pattern: p}, "exactly one"},
		{"two kinds", vcs.Credential{Pattern: p, TokenFile: writeSecret(t, "token", "s3cret"), TokenEnv: "PATH"}, "exactly one"},
		{"GitHub App without installation", vcs.Credential{Pattern: p, GitHubApp: 1, GitHubKey: writeSecret(t, "app", key)}, "github_installation"},
		{"GitHub API in the clear", vcs.Credential{Pattern: p, GitHubApp: 1, GitHubInstallation: 2, GitHubKey: writeSecret(t, "app", key), GitHubAPI: "http://api.corp.example"}, "https"},
		{"no GitHub key", vcs.Credential{Pattern: p, GitHubApp: 1, GitHubInstallation: 2, GitHubKey: writeSecret(t, "app", "s3cret")}, "private key"},
	}
	for _, test := range tests {
		if runtime.GOOS == "windows" && strings.Contains(test.wants, "chmod") {
			continue
		}
		s, err := vcs.New(vcs.Config{Dir: filepath.Join(t.TempDir(), "vcs"), Credentials: []vcs.Credential{test.c}})
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", test.name)
		} else if !strings.Contains(err.Error(), test.wants) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q in it", test.name, err, test.wants)
		}
	}
}
