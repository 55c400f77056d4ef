package daemon_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
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

	"golang.org/x/crypto/bcrypt"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/internal/watch"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// tlsFiles are the files of a server with TLS.
type tlsFiles struct{ dir, cert, key string }

func newTLSFiles(t *testing.T) tlsFiles {
	t.Helper()
	dir := t.TempDir()
	f := tlsFiles{dir, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	f.write(t)
	return f
}

func (f tlsFiles) write(t *testing.T) {
	t.Helper()
	if err := assaytest.WriteCertificate(f.cert, f.key, "localhost"); err != nil {
		t.Fatal(err)
	}
}

// client returns a client that trusts the current certificate file. If names of files are given, it
// has a client certificate.
func (f tlsFiles) client(t *testing.T, pair ...string) *http.Client {
	t.Helper()
	data, err := os.ReadFile(f.cert)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(data)
	if len(pair) == 2 {
		cert, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// ask sends a request with headers, in pairs.
func ask(t *testing.T, client *http.Client, url string, header ...string) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// startFront starts a server of a small world.
func startFront(t *testing.T, args ...string) *program {
	t.Helper()
	world := proxytest.New(t)
	world.Add("-- example.com/hello@v1.0.0/go.mod --\nmodule example.com/hello\n")
	return serveIn(t, append([]string{"--data", filepath.Join(t.TempDir(), "data"), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB()}, args...)...)
}

const helloInfo = "/example.com/hello/@v/v1.0.0.info"

// The server speaks HTTP/2 over TLS.
func TestTLS(t *testing.T) {
	t.Parallel()
	files := newTLSFiles(t)
	p := startFront(t, "--tls-cert", files.cert, "--tls-key", files.key)
	if !strings.HasPrefix(p.url, "https://localhost:") {
		t.Fatalf("the URL is %s", p.url)
	}
	first := files.client(t)
	resp, _, err := ask(t, first, p.url+helloInfo)
	if err != nil || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	plain := &http.Client{Timeout: 5 * time.Second}
	if resp, _, err := ask(t, plain, "http"+strings.TrimPrefix(p.url, "https")+helloInfo); err == nil && resp.StatusCode == http.StatusOK {
		t.Error("the server answers in the clear")
	}
}

func TestTLSFiles(t *testing.T) {
	t.Parallel()
	files := newTLSFiles(t)
	other := newTLSFiles(t)
	if runtime.GOOS != "windows" {
		if err := os.Chmod(other.key, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		c    config.Config
		want string
	}{
		"no key":         {config.Config{TLSCert: files.cert, TLSKey: filepath.Join(files.dir, "nosuch")}, "tls-key: stat"},
		"other's key":    {config.Config{TLSCert: other.cert, TLSKey: files.key}, "private key does not match"},
		"no certificate": {config.Config{TLSCert: files.key, TLSKey: files.key}, "tls-cert and tls-key"},
		"no authority":   {config.Config{TLSCert: files.cert, TLSKey: files.key, TLSClientCA: files.key}, "no certificate in"},
		"open key":       {config.Config{TLSCert: other.cert, TLSKey: other.key}, "chmod o-rwx"},
	} {
		if name == "open key" && runtime.GOOS == "windows" {
			continue
		}
		if err := daemon.CheckCertificates(test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// A client certificate identifies a user, whose groups are in the groups file.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	files, laptop, stranger := newTLSFiles(t), newTLSFiles(t), newTLSFiles(t)
	if err := assaytest.WriteCertificate(laptop.cert, laptop.key, "laptop7.corp.example"); err != nil {
		t.Fatal(err)
	}
	groups := filepath.Join(files.dir, "groups")
	if err := os.WriteFile(groups, []byte("team: laptop7.corp.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startFront(t, "--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", laptop.cert, "--groups", groups, "--operators", "team")
	if resp, _, err := ask(t, files.client(t, laptop.cert, laptop.key), p.url+"/-/leaks"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("with its certificate: %v, %v", resp, err)
	}
	if resp, _, err := ask(t, files.client(t), p.url+"/-/leaks"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("without: %v, %v", resp, err)
	}
	if resp, _, err := ask(t, files.client(t), p.url+helloInfo); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("what is public, without: %v, %v", resp, err)
	}
	if resp, _, err := ask(t, files.client(t, stranger.cert, stranger.key), p.url+"/-/leaks"); err == nil && resp.StatusCode == http.StatusOK {
		t.Error("a certificate that nobody we trust has signed is believed")
	}
}

// With anonymous=false only the paths that machines request are open.
func TestNotAnonymous(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	htpasswd := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(htpasswd, []byte("alice:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startFront(t, "--anonymous=false", "--htpasswd", htpasswd, "--access", "corp.example=dev")
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+password))
	}
	for _, test := range []struct {
		path, authorization string
		status              int
	}{
		{helloInfo, "", 401}, {helloInfo, basic("wrong"), 401}, {helloInfo, basic("right"), 200},
		{"/", "", 401}, {"/-/leaks", "", 401}, {"/nosuch", "", 401}, {"/sumdb/" + proxytest.Database + "/latest", "", 401},
		{"/livez", "", 200}, {"/readyz", "", 200}, {"/metrics", "", 200},
	} {
		var header []string
		if test.authorization != "" {
			header = []string{"Authorization", test.authorization}
		}
		resp, body, err := ask(t, http.DefaultClient, p.url+test.path, header...)
		if err != nil || resp.StatusCode != test.status {
			t.Errorf("GET %s: %v, %v, want %d", test.path, resp, err, test.status)
			continue
		}
		if test.status == 401 && (resp.Header.Get("WWW-Authenticate") == "" || !strings.Contains(body, "assay goauth")) {
			t.Errorf("GET %s: %v %q", test.path, resp.Header, body)
		}
		if id := resp.Header.Get("X-Request-Id"); test.status == 401 && test.authorization != "" {
			assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), `msg="credential refused" request=`+id+" ") })
		}
	}
	// Each request is counted once, also one that authenticates its client twice.
	if resp, _, err := ask(t, http.DefaultClient, p.url+"/corp.example/x/@v/v1.0.0.info", "Authorization", basic("right")); err != nil || resp.StatusCode == 401 {
		t.Fatal(resp, err)
	}
	if _, body, err := ask(t, http.DefaultClient, p.url+"/metrics"); err != nil || !strings.Contains(body, `assay_access_requests_total{kind="basic",result="ok"} 2`) {
		t.Errorf("%v\n%s", err, body)
	}
}

// Only trusted proxies may state the address of a client.
func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	lookup := "/sumdb/" + proxytest.Database + "/lookup/corp.example/x@v1.0.0" // refused, and therefore logged with the reason
	count := 0
	remote := func(p *program, forwarded string) string {
		t.Helper()
		count++
		id := fmt.Sprint("the-", count)
		if _, _, err := ask(t, http.DefaultClient, p.url+lookup, "X-Forwarded-For", forwarded, "X-Request-Id", id); err != nil {
			t.Fatal(err)
		}
		var remotes []string // in the line with the reason, and in the access log
		assaytest.WaitFor(t, func() bool {
			remotes = nil
			for line := range strings.Lines(p.log.String()) {
				if strings.Contains(line, "request="+id+" ") {
					_, after, _ := strings.Cut(line, "remote=")
					address, _, _ := strings.Cut(strings.TrimSpace(after), " ")
					remotes = append(remotes, address)
				}
			}
			return len(remotes) == 2
		})
		if remotes[0] != remotes[1] {
			t.Errorf("forwarded for %.50s: the log has %q", forwarded, remotes)
		}
		return remotes[1]
	}
	if got := remote(startFront(t, "--private", "corp.example", "--vcs", "off"), "192.0.2.7"); got != "127.0.0.1" {
		t.Errorf("without trusted proxies the client is %s", got)
	}
	behind := startFront(t, "--private", "corp.example", "--vcs", "off", "--trusted-proxies", "127.0.0.0/8,10.0.0.0/8")
	for forwarded, want := range map[string]string{
		"203.0.113.9, 192.0.2.7, 10.1.2.3":                       "192.0.2.7",
		"garbage, 192.0.2.7":                                     "192.0.2.7",
		"192.0.2.7:4711, 10.1.2.3:80":                            "192.0.2.7", // the format of Azure's gateway
		"[2001:db8::7]:4711":                                     "2001:db8::7",
		"2001:db8::7":                                            "2001:db8::7",
		"192.0.2.7:4711:1, 10.1.2.3":                             "127.0.0.1",
		strings.Repeat("10.1.2.3, ", 1000) + "10.1.2.3":          "127.0.0.1",
		strings.Repeat("203.0.113.9,", 1000) + "::ffff:10.1.2.3": "203.0.113.9",
	} {
		if got := remote(behind, forwarded); got != want {
			t.Errorf("forwarded for %.50s the client is %s, want %s", forwarded, got, want)
		}
	}
	if got := remote(startFront(t, "--private", "corp.example", "--vcs", "off", "--trusted-proxies", "10.0.0.0/8"), "192.0.2.7"); got != "127.0.0.1" {
		t.Errorf("from an address that is not trusted the client is %s", got)
	}
}

// Without go and git everything works but private modules, and the response to a request for one
// says so; if no module is private, nothing mentions it.
func TestNoTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	p := startFront(t, "--private", "corp.example")
	assaytest.WaitFor(t, func() bool {
		return strings.Contains(p.log.String(), "private modules cannot be fetched") && strings.Contains(p.log.String(), "no go command in PATH")
	})
	if resp, body, err := ask(t, http.DefaultClient, p.url+"/corp.example/x/@v/list"); err != nil || resp.StatusCode != http.StatusBadGateway ||
		!strings.Contains(body, "this proxy cannot fetch corp.example/x") || !strings.Contains(body, "no go command") {
		t.Errorf("%v %q %v", resp, body, err)
	}
	if resp, _, err := ask(t, http.DefaultClient, p.url+helloInfo); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("what is public: %v, %v", resp, err)
	}
	if p := startFront(t); strings.Contains(p.log.String(), "go command") {
		t.Errorf("without private modules the log says %s", p.log)
	}
}

// Settings that let others read private modules are legal, and logged as warnings.
func TestAccessWarnings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--listen", "0.0.0.0:0", "--private", "corp.example"}, "every client that reaches this address can read these private modules"},
		{[]string{"--access", "corp.example=team"}, "access rules set but no credentials configured: no client can read these modules"},
		{[]string{"--listen", "0.0.0.0:0", "--access", "corp.example=team"}, "credentials are sent unencrypted"},
	} {
		p := startFront(t, append(test.args, "--vcs", "off")...)
		assaytest.WaitFor(t, func() bool { return strings.Contains(p.log.String(), test.want) })
	}
	for _, args := range [][]string{{"--private", "corp.example"}, {"--listen", "0.0.0.0:0", "--access", "corp.example=anyone"}} {
		if p := startFront(t, append(args, "--vcs", "off")...); strings.Contains(p.log.String(), "WARN") {
			t.Errorf("with %v the log says %s", args, p.log)
		}
	}
}

// A certificate whose authority was removed authenticates no user, also not for a client that
// resumes an earlier TLS session.
func TestClientCertificateWithdrawn(t *testing.T) {
	t.Parallel()
	files, laptop, other := newTLSFiles(t), newTLSFiles(t), newTLSFiles(t)
	if err := assaytest.WriteCertificate(laptop.cert, laptop.key, "laptop7.corp.example"); err != nil {
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
	time.Sleep(watch.Every + 100*time.Millisecond)
	if resp, err := page(); err == nil && resp.StatusCode == http.StatusOK {
		t.Error("the certificate is still believed; session resumed:", resp.TLS.DidResume)
	}
}

// Every error has a text, in plain text, for any method.
func TestMethods(t *testing.T) {
	t.Parallel()
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
		use := "GET or HEAD"
		if test.method == http.MethodGet {
			use = "POST"
		}
		want := "method not allowed: " + test.method + "\nuse " + use + "\nrequest id: " + resp.Header.Get("X-Request-Id") + "\n"
		if resp.StatusCode != http.StatusMethodNotAllowed || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || string(body) != want {
			t.Errorf("%s %s: %d %v %q", test.method, test.path, resp.StatusCode, resp.Header, body)
		}
	}
	for _, path := range []string{"/", "/livez", "/readyz", "/metrics", "/-/leaks"} {
		if resp, err := http.Head(p.url + path); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("HEAD %s: %v %v", path, resp, err)
		}
	}
}

// A URL without a path is the page at /.
func TestEmptyPath(t *testing.T) {
	t.Parallel()
	p, _ := startHooks(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET http://assay.example.com HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); err != nil || !strings.Contains(string(all), "200 OK") || !strings.Contains(string(all), "GOPROXY=http://assay.example.com") {
		t.Errorf("%s, %v", all, err)
	}
}

// A client CA file that others may write is refused: they could mint client identities.
func TestClientAuthoritiesOpen(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("files have no such modes")
	}
	files, ca := newTLSFiles(t), newTLSFiles(t)
	c := config.Config{TLSCert: files.cert, TLSKey: files.key, TLSClientCA: ca.cert}
	if err := os.Chmod(ca.cert, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := daemon.CheckCertificates(c); err != nil {
		t.Errorf("a file that others can read: %v", err)
	}
	if err := os.Chmod(ca.cert, 0o646); err != nil {
		t.Fatal(err)
	}
	if err := daemon.CheckCertificates(c); err == nil || !strings.Contains(err.Error(), "tls-client-ca: other users can change") || !strings.Contains(err.Error(), "chmod o-w") {
		t.Errorf("a file that others can change: %v", err)
	}
}
