package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answer sends a text like serve.
func answer(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		answer(w, status, "stopping\n")
	}))
	host := strings.TrimPrefix(server.URL, "http://")
	at := address{listen: host}
	var out strings.Builder
	if err := health(t.Context(), at, &out); err != nil || !strings.Contains(out.String(), "/readyz: stopping") {
		t.Errorf("%v, %q", err, out.String())
	}
	status = http.StatusServiceUnavailable
	if err := health(t.Context(), at, &out); err == nil || !strings.Contains(err.Error(), "not ready: 503 stopping") {
		t.Errorf("not ready: %v", err)
	}
	server.Close()
	if err := health(context.Background(), at, &out); err == nil || !strings.Contains(err.Error(), "no answer from http://"+host) {
		t.Errorf("no server: %v", err)
	}
}

func TestHealthURL(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"localhost:3000": "http://localhost:3000/readyz", ":3000": "http://localhost:3000/readyz", "0.0.0.0:80": "http://localhost:80/readyz",
		"[::]:3000": "http://localhost:3000/readyz", "[fe80::1]:3000": "http://[fe80::1]:3000/readyz", "192.0.2.1:3000": "http://192.0.2.1:3000/readyz",
		"3000": "",
	} {
		if got, err := (address{listen: listen}).healthURL(); got != want || (err != nil) != (want == "") {
			t.Errorf("healthURL(%q) = %q, %v, want %q", listen, got, err, want)
		}
	}
}

// The server is below its prefix, and may listen on a socket.
func TestHealthSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "assay") // t.TempDir is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, r.URL.Path+"\n") })}
	defer server.Close()
	go server.Serve(l)
	var out strings.Builder
	if err := health(t.Context(), address{listen: "unix:" + path, prefix: "/go"}, &out); err != nil || out.String() != "http://localhost/go/readyz: /go/readyz\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// A server with TLS is requested over TLS, whatever the name in its certificate.
func TestHealthTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") }))
	defer server.Close()
	var out strings.Builder
	if err := health(t.Context(), address{listen: strings.TrimPrefix(server.URL, "https://"), tls: true}, &out); err != nil || out.String() != server.URL+"/readyz: ok\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// The whole command, with the address from each source that serve reads.
func TestHealthCommand(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") }))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	good := filepath.Join(t.TempDir(), "good.toml")
	bad := filepath.Join(t.TempDir(), "bad.toml")
	for name, text := range map[string]string{good: "listen = \"" + address + "\"\n", bad: "no such setting = 1\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		listen, file string // environment variables
		args         []string
		fails        string
	}{
		"flag":                          {args: []string{"--listen", address}},
		"environment":                   {listen: address},
		"file":                          {file: good},
		"environment beside a bad file": {listen: address, file: bad},
		"bad file":                      {file: bad, fails: "configuration file " + bad},
		"no address":                    {listen: "3000", fails: "missing port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("ASSAY_LISTEN", test.listen)
			t.Setenv("ASSAY_CONFIG", test.file)
			var out strings.Builder
			cmd := newHealthCommand()
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			cmd.SetArgs(append([]string{}, test.args...)) // nil would mean the arguments of the test
			cmd.SetOut(&out)
			err := cmd.ExecuteContext(t.Context())
			switch {
			case test.fails != "":
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v, want one with %q", err, test.fails)
				}
			case err != nil || out.String() != server.URL+"/readyz: ok\n":
				t.Errorf("%v, %q", err, out.String())
			}
		})
	}
}

// The command finds out whether the server has TLS. Flags, environment and file do not decide it:
// they may be those of the next start, and in an image only the address is known.
func TestHealthFindsTLS(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	for _, start := range []func(http.Handler) *httptest.Server{httptest.NewServer, httptest.NewTLSServer} {
		server := start(ok)
		defer server.Close()
		_, listen, _ := strings.Cut(server.URL, "://")
		file := filepath.Join(t.TempDir(), "assay.toml")
		t.Setenv("ASSAY_LISTEN", listen)
		t.Setenv("ASSAY_CONFIG", file)
		for _, text := range []string{"tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n", "no such setting = 1\n", ""} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			cmd := newHealthCommand()
			cmd.SetArgs([]string{})
			cmd.SetOut(&out)
			if err := cmd.ExecuteContext(t.Context()); err != nil || out.String() != server.URL+"/readyz: ok\n" {
				t.Errorf("%s, %q: %v, %q", server.URL, text, err, out.String())
			}
		}
	}
}

// A server that accepts the connection and sends nothing is not ready.
func TestHealthHangs(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := health(ctx, address{listen: listener.Addr().String()}, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging server: %v", err)
	}
}
