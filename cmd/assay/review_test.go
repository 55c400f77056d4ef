package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startHooks starts a server with webhooks, whose secret it returns too.
func startHooks(t *testing.T) (*program, string) {
	t.Helper()
	secret := "0123456789abcdef-secret"
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return startFront(t, "--hook-secret-file", file), secret
}

// hookBegins sends the header of a webhook with a body that does not come, and
// returns the status line that comes within a moment, "" if none does.
func hookBegins(t *testing.T, p *program, path string, headers ...string) (status string, conn net.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Error(err)
		return "", nil
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n", path, maxHook, strings.Join(append(headers, ""), "\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(bodyTime * 3 / 5)) // the server waits longer for the body
	line := make([]byte, 12)
	n, _ := io.ReadFull(conn, line) // nothing, or the whole of it
	return string(line[:n]), conn
}

// Nothing is read of what cannot be a webhook of ours.
func TestHookUnread(t *testing.T) {
	p, secret := startHooks(t)
	sum := strings.Repeat("ab", 32)
	for _, test := range []struct{ path, header, want string }{
		{"/-/hooks/github", "X: y", "HTTP/1.1 403"},
		{"/-/hooks/github", "X-Hub-Signature-256: sha256=ab", "HTTP/1.1 403"},
		{"/-/hooks/gitea", "X-Gitea-Signature: zz", "HTTP/1.1 403"},
		{"/-/hooks/gitlab", "X-Gitlab-Token: " + secret + "x", "HTTP/1.1 403"},
		{"/-/hooks/githubx", "X-Hub-Signature-256: sha256=" + sum, "HTTP/1.1 405"},
		{"/-/hooks/xgitlabx", "X-Gitlab-Token: " + secret, "HTTP/1.1 405"},
		{"/-/hooks/agitea", "X-Gitea-Signature: " + sum, "HTTP/1.1 405"},
	} {
		if got, _ := hookBegins(t, p, test.path, test.header); got != test.want {
			t.Errorf("%s with %q: %q before its body, want %s", test.path, test.header, got, test.want)
		}
	}
}

// What many webhooks that are not proved yet can make us keep in memory is bounded.
func TestHookCrowd(t *testing.T) {
	p, _ := startHooks(t)
	signature := "X-Hub-Signature-256: sha256=" + strings.Repeat("ab", 32)
	var refused atomic.Int32
	var hooks sync.WaitGroup
	for range maxHooks + 3 {
		hooks.Go(func() {
			if status, _ := hookBegins(t, p, "/-/hooks/github", signature); status == "HTTP/1.1 503" {
				refused.Add(1)
			}
		})
	}
	hooks.Wait()
	if n := refused.Load(); n != 3 {
		t.Errorf("%d webhooks are refused beside %d that are read, want 3", n, maxHooks)
	}
}

// The addresses of repositories that a webhook has may have a password in them.
func TestHookSecrets(t *testing.T) {
	p, secret := startHooks(t)
	body := `{"repository": {"clone_url": "https://user:hunter2@git.corp.example/lib.git"}}`
	r, err := http.NewRequest(http.MethodPost, p.url+"/-/hooks/gitlab", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Gitlab-Token", secret)
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
	waitFor(t, func() bool { return strings.Contains(p.log.String(), "git.corp.example/lib") })
	if strings.Contains(p.log.String(), "hunter2") {
		t.Errorf("the log has the password: %s", p.log)
	}
}

// A page that some other site shows in a browser on this machine, or a proxy on it
// that says nothing of itself but the name it was called by, is nobody who runs the
// server.
func TestLeaksPageHost(t *testing.T) {
	p := startFront(t)
	for host, want := range map[string]int{
		p.addr(): 200, "localhost": 200, "localhost:3000": 200, "[::1]:3000": 200, "127.0.0.1": 200,
		"evil.example": 404, "evil.example:3000": 404, "localhost.evil.example": 404, "192.0.2.1": 404,
	} {
		r, err := http.NewRequest(http.MethodGet, p.url+"/-/leaks", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("as %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
	for _, header := range []string{"X-Forwarded-Host", "X-Forwarded-Proto", "True-Client-Ip", "Cf-Connecting-Ip"} {
		if resp, _, err := ask(t, http.DefaultClient, p.url+"/-/leaks", header, "x"); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("with %s: %v %v", header, resp, err)
		}
	}
}

// A certificate whose authority was taken away is nobody's, also for a client that
// takes up the session of before.
func TestClientCertificateWithdrawn(t *testing.T) {
	files, laptop, other := newTLSFiles(t), newTLSFiles(t), newTLSFiles(t)
	if err := writeCertificate(laptop.cert, laptop.key, "laptop7.corp.example"); err != nil {
		t.Fatal(err)
	}
	groups, ca := filepath.Join(files.dir, "groups"), filepath.Join(files.dir, "ca.pem")
	if err := os.WriteFile(groups, []byte("team: laptop7.corp.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	copyFile := func(from string) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ca, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(laptop.cert)
	p := startFront(t, "--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", ca, "--groups", groups, "--operators", "team")
	client := files.client(t, laptop.cert, laptop.key)
	client.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	page := func() (*http.Response, error) {
		t.Helper()
		client.CloseIdleConnections()
		resp, _, err := ask(t, client, p.url+"/-/leaks")
		return resp, err
	}
	for range 2 {
		if resp, err := page(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", resp, err)
		}
	}
	copyFile(other.cert)
	time.Sleep(certificateAge + 100*time.Millisecond)
	if resp, err := page(); err == nil && resp.StatusCode == http.StatusOK {
		t.Error("the certificate is still believed; session resumed:", resp.TLS.DidResume)
	}
}

// Whatever is asked, an error says something, in plain text.
func TestMethods(t *testing.T) {
	p, _ := startHooks(t)
	for _, test := range []struct{ method, path string }{
		{"POST", "/"}, {"DELETE", "/livez"}, {"POST", "/-/leaks"}, {"POST", "/metrics"}, {"GET", "/-/hooks/github"}, {"PUT", helloInfo},
	} {
		r, err := http.NewRequest(test.method, p.url+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode < 400 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || len(bytes.TrimSpace(body)) == 0 {
			t.Errorf("%s %s: %d %v %q", test.method, test.path, resp.StatusCode, resp.Header, body)
		}
	}
}

// Who can change the file with the authorities can be anybody.
func TestClientAuthoritiesOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such modes")
	}
	files, ca := newTLSFiles(t), newTLSFiles(t)
	c := config{TLSCert: files.cert, TLSKey: files.key, TLSClientCA: ca.cert}
	if err := os.Chmod(ca.cert, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newCertificates(c, nil); err != nil {
		t.Errorf("a file that others can read: %v", err)
	}
	if err := os.Chmod(ca.cert, 0o646); err != nil {
		t.Fatal(err)
	}
	if _, err := newCertificates(c, nil); err == nil || !strings.Contains(err.Error(), "tls-client-ca: others can change") || !strings.Contains(err.Error(), "chmod o-w") {
		t.Errorf("a file that others can change: %v", err)
	}
}
