package daemon_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
)

// startHooks starts a server with webhooks, and returns their secret.
func startHooks(t *testing.T, args ...string) (*program, string) {
	t.Helper()
	secret := "0123456789abcdef-secret"
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return startFront(t, append(args, "--hook-secret-file", file)...), secret
}

// hookBegins sends the header of a webhook without its body, and returns the status line if it
// arrives within a moment, otherwise "".
func hookBegins(t *testing.T, p *program, path string, headers ...string) (status string, conn net.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Error(err)
		return "", nil
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n", path, daemon.MaxHook, strings.Join(append(headers, ""), "\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(daemon.BodyTime * 3 / 5)) // the server waits longer for the body
	line := make([]byte, 12)
	n, _ := io.ReadFull(conn, line) // the whole line or nothing
	return string(line[:n]), conn
}

// The body of a request that cannot be a webhook of ours is not read.
func TestHookUnread(t *testing.T) {
	t.Parallel()
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

// Only one large webhook is in memory at a time; small ones, which are the usual ones, are still
// accepted.
func TestHookLarge(t *testing.T) {
	t.Parallel()
	p, secret := startHooks(t)
	answers := make(chan string, 2)
	for range 2 {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			fmt.Fprintf(conn, "POST /-/hooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX-Hub-Signature-256: sha256=%s\r\n\r\n", daemon.MaxHook, strings.Repeat("ab", 32))
			_, _ = conn.Write(make([]byte, daemon.SmallHook+1)) // the response may come before the end of the body
			line := make([]byte, 12)
			n, _ := io.ReadFull(conn, line)
			answers <- string(line[:n])
		}()
	}
	// The other one waits for the rest of its body, and then gets 400.
	if first := <-answers; first != "HTTP/1.1 503" {
		t.Errorf("of two large ones, the first answer is %q", first)
	}
	r, err := http.NewRequest(http.MethodPost, p.url+"/-/hooks/gitlab", strings.NewReader(`{"project": {"web_url": "https://git.corp.example/lib"}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Gitlab-Token", secret)
	if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a small one beside them: %v %v", resp, err)
	}
}

// Unverified webhooks of one client leave memory for the fetches of others.
func TestHookOwner(t *testing.T) {
	t.Parallel()
	p, _ := startHooks(t, "--memory-budget", strconv.Itoa(config.LeastMemory))
	begin := func(size int) net.Conn {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /-/hooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX-Hub-Signature-256: sha256=%s\r\n\r\n", size, strings.Repeat("ab", 32))
		return conn
	}
	for range daemon.MaxHooks - 1 {
		begin(daemon.SmallHook)
	}
	used := regexp.MustCompile(`assay_memory_used_bytes\{share="fetches"\} (\S+)`)
	for taken, tries := 0.0, 0; taken < (daemon.MaxHooks-1)*daemon.SmallHook && tries < 500; tries++ {
		_, metrics := assaytest.Fetch(t, p.url+"/metrics")
		taken, _ = strconv.ParseFloat(used.FindStringSubmatch(metrics)[1], 64)
	}
	conn := begin(17 << 20) // together with the others more than three quarters of the share, and less than all of it
	_, _ = conn.Write(make([]byte, daemon.SmallHook+1))
	line := make([]byte, 12)
	if n, _ := io.ReadFull(conn, line); string(line[:n]) != "HTTP/1.1 503" {
		t.Errorf("one more is answered %q", line[:n])
	}
}

// The URLs of repositories in a webhook may contain a password.
func TestHookSecrets(t *testing.T) {
	t.Parallel()
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
	assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), "git.corp.example/lib") })
	if strings.Contains(p.log.String(), "hunter2") {
		t.Errorf("the log has the password: %s", p.log)
	}
}

// GitHub marks a webhook as broken if its first message is refused. The first message of an
// organisation is about no repository.
func TestHookPing(t *testing.T) {
	t.Parallel()
	p, secret := startHooks(t)
	body := `{"zen": "Design for failure.", "organization": {"login": "acme"}}`
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(body))
	for event, want := range map[string]int{"ping": http.StatusOK, "push": http.StatusBadRequest} {
		r, err := http.NewRequest(http.MethodPost, p.url+"/-/hooks/github", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(h.Sum(nil)))
		r.Header.Set("X-GitHub-Event", event)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", event, resp.StatusCode, want)
		}
	}
}
