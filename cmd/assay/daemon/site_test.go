package daemon_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// With a prefix everything is below it, and nothing outside, also for a prefix that is a module path.
func TestPrefix(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"/go", "/go/", "/example.com/hello", "/sumdb", "/-", "/cached-only"} {
		p := startFront(t, "--prefix", prefix)
		prefix = strings.TrimSuffix(prefix, "/")
		base, ok := strings.CutSuffix(p.url, prefix)
		if !ok || strings.HasSuffix(base, "/") {
			t.Errorf("with the prefix %s the URL is %s", prefix, p.url)
		}
		assaytest.Fetch(t, p.url+helloInfo) // from now on it is held
		for path, want := range map[string]int{
			prefix + helloInfo: 200, prefix + "/cached-only" + helloInfo: 200, prefix + "/sumdb/" + proxytest.Database + "/supported": 200,
			prefix + "/livez": 200, prefix + "/readyz": 200, prefix + "/metrics": 200, prefix + "/-/leaks": 200, prefix: 200, prefix + "/": 200,
			prefix + "/example.com/!hello/@v/v1.0.0.info": 404, prefix + "x" + helloInfo: 404, prefix + "//example.com/hello/@v/list": 404,
			"/": 404, "/livez": 404, "/metrics": 404, helloInfo: 404, strings.ToUpper(prefix) + "x/livez": 404, prefix + "/nosuch": 404,
		} {
			resp, body, err := ask(t, http.DefaultClient, base+path)
			if err != nil || resp.StatusCode != want {
				t.Errorf("prefix %s: GET %s: %v, %v, want %d", prefix, path, resp, err, want)
				continue
			}
			if inside := path == prefix || strings.HasPrefix(path, prefix+"/"); !inside && !strings.HasPrefix(body, "not found: outside of the prefix of this server\nall paths of this server begin with "+prefix+"/\nrequest id: ") {
				t.Errorf("prefix %s: GET %s: %q", prefix, path, body)
			}
		}
	}
}

// The access log has paths without the prefix, so that the log of a module does not depend on it.
func TestPrefixLog(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--prefix", "/go")
	assaytest.Fetch(t, p.url+helloInfo)
	assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), " path="+helloInfo+" status=200 ") })
}

// An encoded prefix, and encoded paths below it, are the same paths.
func TestPrefixEncoded(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--prefix", "/go")
	for _, path := range []string{"/%67o" + helloInfo, "/go/example.com/%68ello/@v/v1.0.0.info", "/%67%6f/livez", "/go/example.com/hello/%40v/v1.0.0.info"} {
		if status, body := assaytest.Fetch(t, strings.TrimSuffix(p.url, "/go")+path); status != http.StatusOK {
			t.Errorf("GET %s: %d %q", path, status, body)
		}
	}
}

// The page shows the URL that clients use. Only a trusted proxy can state it, and a value that is not
// one well-formed value gets neither into the page nor into the log.
func TestForwardedURL(t *testing.T) {
	t.Parallel()
	const trusted = "--trusted-proxies=127.0.0.0/8"
	direct, behind, below := startFront(t), startFront(t, trusted), startFront(t, trusted, "--prefix", "/assay")
	for _, test := range []struct {
		name   string
		p      *program
		header []string
		want   string // of the URL, "" if none is shown; ADDR is the address of the server
	}{
		{"nothing", behind, nil, "http://ADDR"},
		{"not trusted", direct, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example", "X-Forwarded-Prefix", "/evil"}, "http://ADDR"},
		{"scheme", behind, []string{"X-Forwarded-Proto", "https"}, "https://ADDR"},
		{"scheme in upper case", behind, []string{"X-Forwarded-Proto", "HTTPS"}, "https://ADDR"},
		{"all", behind, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "proxy.example", "X-Forwarded-Prefix", "/go"}, "https://proxy.example/go"},
		{"port and slash", behind, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "proxy.example:8443", "X-Forwarded-Prefix", "/go/"}, "https://proxy.example:8443/go"},
		{"two prefixes", below, []string{"X-Forwarded-Host", "[2001:db8::1]:80", "X-Forwarded-Prefix", "/go"}, "http://[2001:db8::1]:80/go/assay"},
		{"several schemes", behind, []string{"X-Forwarded-Proto", "https, http"}, ""},
		{"scheme", behind, []string{"X-Forwarded-Proto", "javascript"}, ""},
		{"several hosts", behind, []string{"X-Forwarded-Host", "a.example, b.example"}, ""},
		{"HTML", behind, []string{"X-Forwarded-Host", "<script>alert(1)</script>"}, ""},
		{"shell", behind, []string{"X-Forwarded-Host", "a.example;touch$IFS/x"}, ""},
		{"shell in the port", behind, []string{"X-Forwarded-Host", "a.example:80;x"}, ""},
		{"user", behind, []string{"X-Forwarded-Host", "user@a.example"}, ""},
		{"path", behind, []string{"X-Forwarded-Host", "a.example/b"}, ""},
		{"quote", behind, []string{"X-Forwarded-Host", "a.example'"}, ""},
		{"long", behind, []string{"X-Forwarded-Host", strings.Repeat("a", 10<<10)}, ""},
		{"port", behind, []string{"X-Forwarded-Host", "a.example:0"}, ""},
		{"zone", behind, []string{"X-Forwarded-Host", "[fe80::1%25eth0]"}, ""},
		{"no bracket", behind, []string{"X-Forwarded-Host", "2001:db8::1"}, ""},
		{"empty", behind, []string{"X-Forwarded-Host", ""}, ""},
		{"prefix with HTML", behind, []string{"X-Forwarded-Prefix", "/<b>"}, ""},
		{"prefix with shell", behind, []string{"X-Forwarded-Prefix", "/a;b"}, ""},
		{"prefix without slash", behind, []string{"X-Forwarded-Prefix", "no-slash"}, ""},
		{"prefix up", behind, []string{"X-Forwarded-Prefix", "/a/../b"}, ""},
		{"long prefix", behind, []string{"X-Forwarded-Prefix", "/" + strings.Repeat("a", 10<<10)}, ""},
		{"RFC 7239", behind, []string{"Forwarded", "proto=https;host=evil.example"}, "http://ADDR"},
	} {
		resp, body, err := ask(t, http.DefaultClient, test.p.url+"/", test.header...)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %v, %v", test.name, resp, err)
			continue
		}
		_, line, _ := strings.Cut(body, "go env -w GOPROXY=")
		got, _, _ := strings.Cut(line, "\n")
		want := strings.Replace(test.want, "ADDR", strings.TrimPrefix(test.p.url, "http://"), 1)
		if test.want == "" {
			want = "URL"
		}
		if got != want || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: the URL is %q, want %q; %v", test.name, got, want, resp.Header)
		}
		for i := 1; test.want == "" && i < len(test.header); i += 2 {
			if value := test.header[i]; value != "" && (strings.Contains(body, value) || strings.Contains(test.p.log.String(), value)) {
				t.Errorf("%s: %q is in the page or in the log", test.name, value)
			}
		}
	}
}

// A header with several lines, and a Host header that is not host[:port], tell no URL either.
func TestHostileHost(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--trusted-proxies=127.0.0.0/8")
	for _, header := range []string{
		"Host: $(id).example", "Host: a.example;id", "Host: a'b", "Host: a.example\r\nX-Forwarded-Host: b.example\r\nX-Forwarded-Host: c.example",
		"Host: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Proto: http",
	} {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\n%s\r\nConnection: close\r\n\r\n", header)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		conn.Close()
		if resp.StatusCode == http.StatusOK && !strings.Contains(string(body), "GOPROXY=URL\n") {
			t.Errorf("%s: %q", header, body)
		}
	}
}

// socketDir returns a directory whose path is short enough for a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// socketClient returns a client that connects to a socket, whatever the host in the URL.
func socketClient(t *testing.T, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A server on a socket trusts what connects as it does a trusted proxy. It replaces the socket of a
// killed server, and no other file.
func TestSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "assay.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false) // as if killed
	left.Close()
	p := startFront(t, "--listen", "unix:"+path, "--prefix", "/go", "--private", "corp.example", "--vcs", "off")
	if p.url != "unix:"+path {
		t.Errorf("the URL is %s", p.url)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	client := socketClient(t, path)
	if resp, body, err := ask(t, client, "http://proxy.example/go/", "X-Forwarded-Proto", "https"); err != nil || !strings.Contains(body, "GOPROXY=https://proxy.example/go\n") {
		t.Errorf("%v %q %v", resp, body, err)
	}
	for forwarded, want := range map[string]string{"192.0.2.7": "192.0.2.7", "203.0.113.9, 192.0.2.7": "192.0.2.7", "x": "socket"} {
		id := "for-" + strings.NewReplacer(".", "_", ",", "", " ", "").Replace(forwarded)
		resp, _, err := ask(t, client, "http://a/go"+helloInfo, "X-Forwarded-For", forwarded, "X-Request-Id", id)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), "request="+id+" ") })
		if !strings.Contains(p.log.String(), " remote="+want+"\n") {
			t.Errorf("for %q the log has %s", forwarded, p.log)
		}
	}
	// What connects may forward requests of other clients.
	if resp, _, err := ask(t, client, "http://localhost/go/-/leaks"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("the leaks: %v %v", resp, err)
	}
	if err := refusedStart(t, "--listen", "unix:"+path); err == nil || !strings.Contains(err.Error(), "is in use, possibly by another assay") {
		t.Errorf("a second server: %v", err)
	}
	p.end()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left")
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refusedStart(t, "--listen", "unix:"+path); err == nil || !strings.Contains(err.Error(), "is not a socket; remove it") {
		t.Errorf("with a file at the path: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("the file has %q, %v", data, err)
	}
}

// The metrics have an address of their own, which has nothing else but what machines request.
func TestMetricsListen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "metrics.sock")
	p := startFront(t, "--metrics-listen", "unix:"+path, "--prefix", "/go", "--anonymous=false")
	machine := socketClient(t, path)
	assaytest.WaitFor(t, func() bool {
		resp, body, err := ask(t, machine, "http://a/readyz")
		return err == nil && (resp.StatusCode == http.StatusOK || body != "starting\n")
	})
	for path, want := range map[string]int{"/metrics": 200, "/livez": 200, "/readyz": 200, "/": 404, helloInfo: 404, "/go/metrics": 404, "/-/leaks": 404} {
		if resp, body, err := ask(t, machine, "http://a"+path); err != nil || resp.StatusCode != want || path == "/metrics" && !strings.Contains(body, "assay_build_info") {
			t.Errorf("GET %s: %v %.100q %v, want %d", path, resp, body, err, want)
		}
	}
	for path, want := range map[string]int{"/metrics": 404, "/livez": 200, "/readyz": 200} {
		if resp, body, err := ask(t, http.DefaultClient, p.url+path); err != nil || resp.StatusCode != want || strings.Contains(body, "assay_build_info") {
			t.Errorf("at the other address, GET %s: %v %.100q %v, want %d", path, resp, body, err, want)
		}
	}
	p.end()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left")
	}
}

// refusedStart returns the error of a server that does not start.
func refusedStart(t *testing.T, args ...string) error {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse(append([]string{"--data", t.TempDir(), "--upstream", "off", "--sumdb", "off"}, args...)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	load := func() (config.Config, config.Sources, error) {
		return config.Load(flags, func(string) string { return "" })
	}
	return daemon.Run(ctx, daemon.Options{Load: load, Version: "test", Out: io.Discard, Err: io.Discard})
}

// Addresses and prefixes that cannot be served are refused.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ flag, value, want string }{
		{"--listen", "unix:relative", "must be absolute"}, {"--listen", "unix:", "must be absolute"},
		{"--listen", "unix:/" + strings.Repeat("a", 100), "at most 100 bytes"}, {"--listen", "3000", "must be host:port"},
		{"--metrics-listen", "3000", "metrics-listen is"}, {"--metrics-listen", "unix:x", "metrics-listen is"},
		{"--prefix", "go", "prefix is"}, {"--prefix", "/a//b", "prefix is"}, {"--prefix", "/a/../b", "prefix is"}, {"--prefix", "/a b", "prefix is"},
		{"--prefix", "/!a", "prefix is"}, {"--prefix", "/%61", "prefix is"}, {"--prefix", "/a/@v", "prefix is"}, {"--prefix", "/" + strings.Repeat("a", 200), "prefix is"},
	} {
		if err := refusedStart(t, test.flag, test.value); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %.50s: %v, want %q", test.flag, test.value, err, test.want)
		}
	}
}
