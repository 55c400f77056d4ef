// Package vcstest is the code hosts of a company, for tests: real git repositories
// behind https and SSH (git upload-pack), and pages that say where they are.
package vcstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"html"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// World is the hosts and what is on them. All methods may be called at the same
// time.
type World struct {
	t      T
	dir    string
	server *httptest.Server
	code   *gitHost
	front  *gitFront // of code

	mu        sync.Mutex
	pages     map[string]string       // go-import content by path
	hosts     map[string]http.Handler // more hosts, by name
	pageLogin login                   // that the page host requires
	requests  []string
	dialed    []string
}

// New starts the hosts. They end with the test, which is skipped where there is no
// git or no go command.
func New(t T) *World {
	t.Helper()
	for _, program := range []string{"git", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("there is no ", program)
		}
	}
	w := &World{t: t, dir: t.TempDir(), pages: map[string]string{}, hosts: map[string]http.Handler{}}
	w.code = newGitHost(w.repos())
	w.front = &gitFront{host: w.code}
	certificate := newCertificate(t, w.CAFile())
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(w.serve))
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients may be killed
	w.server.StartTLS()
	t.Cleanup(func() {
		w.Hang(false)
		w.server.CloseClientConnections()
		w.server.Close()
	})
	return w
}

// newCertificate makes a certificate for all hosts, which is its own authority, and writes
// that to caFile.
func newCertificate(t T, caFile string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "corp.example test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{PageHost, "*." + PageHost, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// CAFile is the file with the authority of the hosts.
func (w *World) CAFile() string { return filepath.Join(w.dir, "ca.pem") }

// Addr is where all https hosts listen.
func (w *World) Addr() string { return w.server.Listener.Addr().String() }

// Lookup is a resolver that knows the hosts, and some bad ones whose addresses are
// in their names: 10.0.0.1.bad.example.
func (w *World) Lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if literal, ok := strings.CutSuffix(host, ".bad.example"); ok {
		addr, err := netip.ParseAddr(literal)
		return []netip.Addr{addr}, err
	}
	w.mu.Lock()
	_, more := w.hosts[host]
	w.mu.Unlock()
	if more || host == PageHost || host == GitHost {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Dial is a dialer for which 192.0.2.1 is where the hosts are. It remembers what
// it was asked for, and goes nowhere else but to this machine.
func (w *World) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	w.mu.Unlock()
	if address == "192.0.2.1:443" {
		address = w.Addr()
	}
	if host, _, _ := net.SplitHostPort(address); host != "127.0.0.1" {
		return nil, fmt.Errorf("dial %s: no route in this test", address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// Dialed returns the addresses that Dial was asked for.
func (w *World) Dialed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.dialed...)
}

// Proxy starts an HTTP proxy that connects every host:443 with the hosts, for
// programs that can be given no dialer, and returns its URL.
func (w *World) Proxy() string {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, port, err := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || err != nil || port != "443" || host != PageHost && host != GitHost {
			http.Error(rw, "no such host", http.StatusBadGateway)
			return
		}
		if err := Tunnel(rw, w.Addr()); err != nil {
			http.Error(rw, "down", http.StatusBadGateway)
		}
	}))
	w.t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// Tunnel connects the client of a CONNECT with a server, until one of them ends. After an error nothing was
// written to the client.
func Tunnel(rw http.ResponseWriter, server string) error {
	out, err := net.Dial("tcp", server)
	if err != nil {
		return err
	}
	defer out.Close()
	in, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return err
	}
	defer in.Close()
	fmt.Fprint(in, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(out, buffered)
		out.Close()
	}()
	_, _ = io.Copy(in, out)
	return nil
}

// Page makes the page host answer for path (without the host) with a go-import tag.
func (w *World) Page(path, content string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[strings.Trim(path, "/")] = content
}

// Host adds a host below corp.example that h answers for.
func (w *World) Host(name string, h http.Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[name] = h
}

// Rename makes the git host redirect, as the large ones do, from the old name of a repository to its new one.
func (w *World) Rename(from, to string) { w.code.rename(from, to) }

// Git answers for the repositories as the git host does, for more hosts that have them.
func (w *World) Git() http.Handler { return w.code }

// Password makes the git host require basic authentication; with an empty user it does
// not.
func (w *World) Password(user, password string) {
	w.front.mu.Lock()
	defer w.front.mu.Unlock()
	w.front.login = login{user, password}
}

// PagePassword is Password for the page host.
func (w *World) PagePassword(user, password string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pageLogin = login{user, password}
}

// Status makes the git host answer everything with a status; 0 ends it.
func (w *World) Status(status int) {
	w.front.mu.Lock()
	defer w.front.mu.Unlock()
	w.front.status = status
}

// Hang makes the git host keep all clients waiting.
func (w *World) Hang(on bool) { w.front.setHang(on) }

// Requests returns what was asked for so far, method, host and path, and forgets it.
func (w *World) Requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	requests := w.requests
	w.requests = nil
	return requests
}

// Sent returns how many bytes the git host has sent in bodies so far.
func (w *World) Sent() int64 {
	w.front.mu.Lock()
	defer w.front.mu.Unlock()
	return w.front.sent
}

func (w *World) serve(rw http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	w.mu.Lock()
	w.requests = append(w.requests, r.Method+" "+host+r.URL.RequestURI())
	page, isPage := w.pages[strings.Trim(r.URL.Path, "/")]
	more, pages := w.hosts[host], w.pageLogin
	w.mu.Unlock()
	if more != nil {
		more.ServeHTTP(rw, r)
		return
	}
	if host == PageHost {
		if !pages.ask(rw, r) {
			return
		}
		if !isPage {
			http.NotFound(rw, r)
			return
		}
		fmt.Fprintf(rw, "<!DOCTYPE html><html><head><meta charset=\"utf-8\"><meta name=\"go-import\" content=\"%s\"></head><body>hello<br></body></html>", html.EscapeString(page))
		return
	}
	w.front.ServeHTTP(rw, r)
}

func (w *World) repos() string { return filepath.Join(w.dir, "repos") }
