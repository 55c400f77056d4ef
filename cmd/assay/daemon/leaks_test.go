package daemon_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// The list of misconfigured clients is for clients on this machine, but not through a proxy on it,
// or for the configured groups.
func TestLeaksPage(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--private", "corp.example", "--vcs", "off")
	if _, _, err := ask(t, http.DefaultClient, p.url+"/sumdb/"+proxytest.Database+"/lookup/corp.example/x@v1.0.0"); err != nil {
		t.Fatal(err)
	}
	if resp, body, err := ask(t, http.DefaultClient, p.url+"/-/leaks"); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(body, "127.0.0.1  public_database  1") {
		t.Errorf("%v %q %v", resp, body, err)
	}
	if resp, _, err := ask(t, http.DefaultClient, p.url+"/-/leaks", "X-Forwarded-For", "127.0.0.1"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("forwarded: %v %v", resp, err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens")
	secret, err := access.CreateToken(tokens, access.Token{Name: "op", Groups: []string{"ops"}})
	if err != nil {
		t.Fatal(err)
	}
	p = startFront(t, "--tokens", tokens, "--operators", "ops")
	if resp, _, err := ask(t, http.DefaultClient, p.url+"/-/leaks"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("without a token: %v %v", resp, err)
	}
	if resp, _, err := ask(t, http.DefaultClient, p.url+"/-/leaks", "Authorization", "Bearer "+secret); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("with a token: %v %v", resp, err)
	}
	// The list contains names of private modules outside the scope of this token.
	scoped, err := access.CreateToken(tokens, access.Token{Name: "op", Groups: []string{"ops"}, Scope: []string{"corp.example/lib"}})
	if err != nil {
		t.Fatal(err)
	}
	p = startFront(t, "--tokens", tokens, "--operators", "ops")
	if resp, _, err := ask(t, http.DefaultClient, p.url+"/-/leaks", "Authorization", "Bearer "+scoped); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("with a token for some modules: %v %v", resp, err)
	}
}

// A request from a browser on this machine for a page of another site, or through a proxy on it
// that sends only the original host name, is not one of an administrator.
func TestLeaksPageHost(t *testing.T) {
	t.Parallel()
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

// A proxy on this machine that adds no header and calls us localhost is nginx with its default
// configuration, or one whose address is in trusted-proxies.
func TestLeaksPageBehindASilentProxy(t *testing.T) {
	t.Parallel()
	get := func(p *program, version string) string {
		t.Helper()
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /-/leaks %s\r\nHost: localhost:3000\r\nConnection: close\r\n\r\n", version)
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitN(string(answer)+"  ", " ", 3)[1]
	}
	for _, test := range []struct{ networks, version, want string }{
		{"", "HTTP/1.1", "200"},
		{"", "HTTP/1.0", "404"},
		{"192.0.2.1/32", "HTTP/1.1", "200"},
		{"127.0.0.0/8", "HTTP/1.1", "404"},
	} {
		if got := get(startFront(t, "--trusted-proxies", test.networks), test.version); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

// For other clients the page of the leaks is a path like any other, for every kind of request.
func TestLeaksPageIsNotThere(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--operators", "ops")
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "TRACE", "BREW"} {
		var answers []string
		for _, path := range []string{"/-/leaks", "/-/other"} {
			r, err := http.NewRequest(method, p.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Request-Id", "the-same")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			resp.Header.Del("Date")
			answers = append(answers, strings.ReplaceAll(fmt.Sprint(resp.Status, resp.Header, string(body)), "leaks", "other"))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s:\n%s\n%s", method, answers[0], answers[1])
		}
	}
}
