package vcs_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// encryptedKey returns the name of a private key with a passphrase.
func encryptedKey(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	return writeSecret(t, "encrypted", string(pem.EncodeToMemory(block)))
}

// isTimeout reports whether err is a timeout, and not an absence.
func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, fs.ErrNotExist)
}

// bySSH makes a Source fetch from host by SSH.
func bySSH(host *vcstest.SSH) func(*vcs.Config) {
	return func(c *vcs.Config) {
		c.Network.Hosts = []string{host.Addr}
		c.Credentials = []vcs.Credential{{Pattern: "corp.example/*", Host: vcstest.GitHost, SSHKey: host.KeyFile, KnownHosts: host.KnownHosts, SSH: "git@" + host.Addr}}
	}
}

// If a page says https, and there is a key for the host, only SSH is used.
func TestSSH(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, bySSH(w.SSH()))
	w.Password("nobody", "over https")
	files := s.want("corp.example/hello", "v1.0.0")
	if files.Origin.URL != r.URL() || files.Origin.Hash != r.Git("rev-parse", "v1.0.0") {
		t.Errorf("origin %+v", files.Origin)
	}
	r.Commit("-- new.go --\npackage hello\n")
	r.Tag("v1.1.0")
	s.want("corp.example/hello", "v1.1.0")
	if v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); err != nil || len(v.Tagged) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	for _, request := range w.Requests() {
		if strings.Contains(request, vcstest.GitHost) {
			t.Errorf("over https: %s", request)
		}
	}
	s.wantError("corp.example/hello", "v9.0.0", fs.ErrNotExist)
	w.Page("gone", "corp.example/gone git https://git.corp.example/gone.git")
	s.wantError("corp.example/gone", "v1.0.0", fs.ErrNotExist)
}

// A module path with its repository has no page; SSH is used for it, too.
func TestSSHQualifiedPath(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", strings.ReplaceAll(hello, "corp.example/hello", "git.corp.example/hello.git"))
	host := w.SSH()
	s := newSource(t, w, func(c *vcs.Config) {
		bySSH(host)(c)
		c.Credentials[0].Pattern = vcstest.GitHost
	})
	w.Password("nobody", "over https")
	s.want("git.corp.example/hello.git", "v1.0.0")
	s.wantError("git.corp.example/hello.git", "v9.0.0", fs.ErrNotExist)
	if strings.Contains(s.log.String(), "made anew") {
		t.Error(s.log)
	}
}

// A page may name an SSH URL.
func TestSSHPage(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	host := w.SSH()
	w.Page("hello", "corp.example/hello git ssh://git@"+host.Addr+"/hello.git")
	credential := vcs.Credential{Pattern: "corp.example", Host: host.Addr, SSHKey: host.KeyFile, KnownHosts: host.KnownHosts}
	s := newSource(t, w, func(c *vcs.Config) {
		c.Network.Hosts, c.Credentials = []string{host.Addr}, []vcs.Credential{credential}
	})
	s.want("corp.example/hello", "v1.0.0")
	s = newSource(t, w, func(c *vcs.Config) { c.Network.Hosts = []string{host.Addr} })
	if told := s.wantError("corp.example/hello", "v1.0.0", vcs.ErrCredential); !strings.Contains(told.Error(), "no ssh_key") {
		t.Errorf("%v", told)
	}
	// A key does not make this machine an allowed host.
	s = newSource(t, w, func(c *vcs.Config) { c.Credentials = []vcs.Credential{credential} })
	s.wantError("corp.example/hello", "v1.0.0", vcs.ErrUnavailable)
	if !strings.Contains(s.log.String(), "--vcs-hosts") {
		t.Errorf("the log does not say why: %s", s.log)
	}
}

// Without a key there is no connection with an SSH host: a page must not find out which
// ports are open.
func TestSSHWithoutKey(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	s := newSource(t, w, nil)
	for _, host := range []string{"10.1.2.3.bad.example", "127.0.0.1", "none.corp.example", vcstest.GitHost} {
		w.Page("x", "corp.example/x git ssh://git@"+host+"/x.git")
		s.wantError("corp.example/x", "v1.0.0", vcs.ErrCredential)
	}
	if dialed := w.Dialed(); slices.ContainsFunc(dialed, func(address string) bool { return address != "192.0.2.1:443" }) {
		t.Errorf("sockets to %q", dialed)
	}
}

// Each failure between ssh and its host has its own error.
func TestSSHTrouble(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	host := w.SSH()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*vcstest.SSH)
		want   error
		text   string
	}{
		{"another key", func(h *vcstest.SSH) { h.KeyFile = h.OtherKey }, vcs.ErrCredential, "rejected the key"},
		{"unknown host", func(h *vcstest.SSH) {
			h.KnownHosts = writeSecret(t, "known", knownhosts.Line([]string{"other.example"}, other.PublicKey())+"\n")
		}, vcs.ErrCredential, "host's key is unknown"},
		{"changed host key", func(h *vcstest.SSH) {
			h.KnownHosts = writeSecret(t, "known", knownhosts.Line([]string{h.Addr}, other.PublicKey())+"\n")
		}, vcs.ErrCredential, "differs from the one in known_hosts"},
		{"no SSH", func(h *vcstest.SSH) { h.Addr = listen(t, func(conn net.Conn) { conn.Close() }) }, vcs.ErrUnavailable, "the SSH handshake failed"},
		{"closed port", func(h *vcstest.SSH) { h.Addr = "127.0.0.1:1" }, vcs.ErrUnavailable, "no connection"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			changed := *host
			test.change(&changed)
			s := newSource(t, w, bySSH(&changed))
			told := s.wantError("corp.example/hello", "v1.0.0", test.want)
			if told.Host != changed.Addr || !strings.Contains(told.Error(), test.text) || strings.Contains(told.Error(), changed.KeyFile) {
				t.Errorf("%v, host %q; want %q", told, told.Host, test.text)
			}
		})
	}
}

// A key that is made readable to others, or removed, while the program runs is an error of
// the credential.
func TestSSHKeyDisappears(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	host := w.SSH()
	s := newSource(t, w, bySSH(host))
	s.want("corp.example/hello", "v1.0.0")
	r.Commit("-- new.go --\npackage hello\n")
	r.Tag("v1.1.0")
	for _, harm := range []func() error{
		func() error { return os.Chmod(host.KeyFile, 0o644) },
		func() error { return os.Remove(host.KeyFile) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if told := s.wantError("corp.example/hello", "v1.1.0", vcs.ErrCredential); strings.Contains(told.Error(), host.KeyFile) {
			t.Errorf("%v", told)
		}
		if !strings.Contains(s.log.String(), host.KeyFile) {
			t.Errorf("the log does not name %s: %s", host.KeyFile, s.log)
		}
	}
}

// A key from a Secret of Kubernetes belongs to root and is readable for the group of the server: ssh and
// Assay accept that from another user.
func TestSSHKeyOfOtherUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	w := vcstest.New(t)
	w.Module("hello", hello)
	host := w.SSH()
	s := newSource(t, w, bySSH(host))
	if err := errors.Join(os.Chown(host.KeyFile, 65532, 0), os.Chmod(host.KeyFile, 0o440)); err != nil {
		t.Fatal(err)
	}
	s.want("corp.example/hello", "v1.0.0")
}

// listen serves each connection to this machine with f and returns the address.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f(conn)
		}
	}()
	return listener.Addr().String()
}
