package fetch_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

func redirect(to string, code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "over there")
	}
}

func TestRedirects(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		err     error
	}{
		{"301", redirect("http://cdn/x?sig=secret", 301), nil},
		{"302", redirect("http://cdn/x?sig=secret", 302), nil},
		{"303", redirect("http://cdn/x?sig=secret", 303), nil},
		{"307", redirect("//cdn/x?sig=secret", 307), nil},
		{"308", redirect("http://user:secret@cdn/x?sig=secret", 308), nil},
		{"ten", countdown(10), nil},
		{"eleven", countdown(11), fetch.ErrUnavailable},
		{"loop", redirect("/again", 302), fetch.ErrUnavailable},
		{"absent there", redirect("http://absent/x?sig=secret", 302), fs.ErrNotExist},
		{"sick there", redirect("http://sick/x?sig=secret", 302), fetch.ErrUnavailable},
		{"nobody there", redirect("http://nobody/x?sig=secret", 302), fetch.ErrUnavailable},
		{"other scheme", redirect("ftp://cdn/x?sig=secret", 302), fetch.ErrUnavailable},
		{"file", redirect("file:///etc/passwd?sig=secret", 302), fetch.ErrUnavailable},
		{"no URL", redirect("http://[::1/x?sig=secret", 302), fetch.ErrUnavailable},
		{"300", redirect("http://cdn/x?sig=secret", 300), fetch.ErrUnavailable},
		{"nowhere", redirect("", 302), fetch.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.serve("localhost", test.handler)
				n.serve("absent", status(404))
				n.serve("sick", status(503))
				n.serve("cdn", func(w http.ResponseWriter, r *http.Request) {
					for _, name := range []string{"Authorization", "Referer", "Cookie"} {
						if v := r.Header.Get(name); v != "" {
							t.Errorf("%s: %s was sent to another host", name, v)
						}
					}
					if r.Header.Get("Via") == "" {
						t.Error("no Via")
					}
					_, _ = io.WriteString(w, "good")
				})
				c := n.chain(fetch.Config{List: "http://user:secret@localhost", Via: "1.1 me"})
				data, err := read(t, c, zipPath)
				if test.err == nil {
					wantData(t, data, err, []byte("good"))
					return
				}
				wantIs(t, err, test.err)
				if s := fmt.Sprintf("%v %#v", err, errors.Unwrap(err)); strings.Contains(s, "secret") {
					t.Errorf("the error tells secrets: %s", s)
				}
			})
		})
	}
}

// countdown redirects n times to itself, then to the CDN's answer.
func countdown(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n--; n == 0 {
			redirect("http://cdn/x", 302)(w, r)
			return
		}
		redirect("/again", 302)(w, r)
	}
}

// A resumed transfer begins at the upstream again, because the target of its redirect may
// have expired.
func TestResumeThroughRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var first counter
		server := &flaky{data: noise(9000), piece: 1000, broken: 2, sized: true, header: etag}
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			redirect(fmt.Sprintf("http://cdn/x?%d", first.next()), 302)(w, r)
		})
		n.serve("cdn", server.ServeHTTP)
		got, err := read(t, n.list("http://host"), zipPath)
		wantData(t, got, err, server.data)
		if first.total() != 3 || server.ranges[2] != "bytes=2000- if "+etag {
			t.Errorf("%d requests at the upstream, ranges %q", first.total(), server.ranges)
		}
	})
}

func TestCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var log bytes.Buffer
		const password = "p%40ss%2Fword" // p@ss/word
		n.serve("localhost", func(w http.ResponseWriter, r *http.Request) {
			user, pass, _ := r.BasicAuth()
			switch {
			case user != "me" || pass != "p@ss/word":
				w.WriteHeader(401)
			case strings.HasSuffix(r.URL.Path, "/list"):
				redirect("http://localhost/moved?"+r.URL.RawQuery, 302)(w, r)
			case r.URL.Path == "/moved":
				_, _ = io.WriteString(w, "good")
			default:
				w.WriteHeader(503)
				_, _ = fmt.Fprintf(w, "debug: %v %s", r.Header, pass)
			}
		})
		c := n.chain(fetch.Config{List: "http://me:" + password + "@localhost/?token=hidden",
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		data, _, err := c.ReadAll(t.Context(), "example.com/a/@v/list", 100)
		wantData(t, data, err, []byte("good"))
		var said []string
		for range 7 {
			_, err = read(t, c, zipPath)
			wantIs(t, err, fetch.ErrUnavailable)
			var e *fetch.Error
			if errors.As(err, &e) {
				said = append(said, e.Source, e.Detail, e.Error(), fmt.Sprintf("%+v", *e))
			}
			synctest.Wait() // for the probe
		}
		said = append(said, c.String(), log.String())
		for _, s := range said {
			for _, secret := range []string{"p@ss", "p%40ss", "bWU6c", "hidden", "me:"} {
				if strings.Contains(s, secret) {
					t.Errorf("%q was told: %s", secret, s)
				}
			}
		}
		if !strings.Contains(log.String(), "circuit breaker") {
			t.Errorf("the log says nothing of the breaker: %s", log.String())
		}
	})
}

// An upstream that quotes our request in its texts does not reveal a secret.
func TestEcho(t *testing.T) {
	for _, test := range []struct{ list, body string }{
		{"http://localhost/x?token=s3cr3t-value", "Cannot GET /x/list?token=s3cr3t-value"},
		{"http://localhost/x?token=s3cr3t%2Dvalue", "the token s3cr3t-value has expired"},
		{"http://localhost/x?s3cr3t-value", "Cannot GET /x/list?s3cr3t-value"},
		{"http://s3cr3t-value@localhost/", "user s3cr3t-value has no access"},
		{"http://s3cr3t-value:x-oauth-basic@localhost/", "user s3cr3t-value has no access"},
		{"http://me:s3cr3t-value@localhost/", strings.Repeat("x", 190) + " s3cr3t-value is wrong"},
		{"http://me:s3cr3t-value@localhost/", strings.Repeat("x", 185) + " s3cr3t-value is wrong"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.serve("localhost", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(404)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := read(t, n.list(test.list), zipPath)
			var e *fetch.Error
			if !errors.As(err, &e) || e.Detail == "" || strings.Contains(e.Error(), "s3cr") {
				t.Errorf("%s: %v", test.list, err)
			}
		})
	}
}

// After any complete answer the connection is reused.
func TestConnectionsAreReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		big := noise(1 << 20)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "404"):
				w.WriteHeader(404)
				_, _ = w.Write(big[:5000])
			case strings.HasSuffix(r.URL.Path, "moved"):
				redirect("/big", 302)(w, r)
			case strings.HasSuffix(r.URL.Path, "chunked"):
				_, _ = io.WriteString(w, "some")
				_ = http.NewResponseController(w).Flush()
			default:
				_, _ = w.Write(big)
			}
		})
		c := n.list("http://host")
		for range 5 {
			for _, path := range []string{"404", "moved", "chunked", "big"} {
				_, err := read(t, c, path)
				if err != nil && path != "404" {
					t.Errorf("%s: %v", path, err)
				}
				_, _, err = c.ReadAll(t.Context(), path, 1<<20)
				if err != nil && path != "404" {
					t.Errorf("%s: %v", path, err)
				}
				synctest.Wait()
			}
		}
		if n.dials["host:80"] != 1 {
			t.Errorf("%d connections for 40 requests in a row, want 1", n.dials["host:80"])
		}
	})
}

// tlsServer is an HTTPS server and the file of its authority.
func tlsServer(t *testing.T, handler http.Handler, http2 bool) (url, caFile string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, caFile
}

func newChain(t *testing.T, config fetch.Config) *fetch.Chain {
	t.Helper()
	c, err := fetch.New(config)
	if err != nil {
		t.Fatalf("New(%q): %v", config.List, err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			t.Parallel()
			server := &flaky{data: noise(500_000), piece: 100_000, broken: 2, sized: true, header: etag}
			var requests counter
			url, ca := tlsServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.next()
				if want := map[bool]int{false: 1, true: 2}[http2]; r.ProtoMajor != want {
					t.Errorf("protocol %s", r.Proto)
				}
				switch r.URL.Path {
				case "/short":
					w.Header().Set("Content-Length", "10")
					_, _ = io.WriteString(w, "12345")
					abort(w)
				case "/chunkedshort":
					_, _ = io.WriteString(w, "12345")
					abort(w)
				case "/down":
					redirect("http://127.0.0.1:1/x?sig=secret", 302)(w, r)
				default:
					server.ServeHTTP(w, r)
				}
			}), http2)

			c := newChain(t, fetch.Config{List: url, CAFile: ca})
			got, err := read(t, c, zipPath)
			wantData(t, got, err, server.data)
			for _, path := range []string{"short", "chunkedshort"} {
				if _, _, err := c.ReadAll(t.Context(), path, 100); !errors.Is(err, fetch.ErrUnavailable) {
					t.Errorf("%s: %v", path, err)
				}
			}
			_, err = read(t, c, "down")
			wantIs(t, err, fetch.ErrUnavailable)
			if !strings.Contains(err.Error(), "from https to http") || strings.Contains(err.Error(), "secret") {
				t.Errorf("error is %v", err)
			}

			before := requests.total()
			stranger := newChain(t, fetch.Config{List: url})
			begin := time.Now()
			_, err = read(t, stranger, zipPath)
			wantIs(t, err, fetch.ErrUnavailable)
			if !strings.Contains(err.Error(), "certificate") || requests.total() != before || time.Since(begin) > 5*time.Second {
				t.Errorf("without the authority: %v", err)
			}
		})
	}
}

func TestCAFile(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, empty + ".not"} {
		if _, err := fetch.New(fetch.Config{List: "off", CAFile: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("New with CAFile %s: %v", file, err)
		}
	}
}

// A reset by the kernel.
func TestReset(t *testing.T) {
	t.Parallel()
	var requests counter
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.next() > 1 {
			_, _ = io.WriteString(w, "good")
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}))
	t.Cleanup(server.Close)
	data, err := read(t, newChain(t, fetch.Config{List: server.URL}), zipPath)
	wantData(t, data, err, []byte("good"))
}

// An upstream that accepts the connection and sends nothing, not even TLS.
func TestSilentTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := newChain(t, fetch.Config{List: "https://" + l.Addr().String(), Budget: fetch.Budget{TLS: 50 * time.Millisecond}, Retries: 1})
	begin := time.Now()
	_, err = read(t, c, zipPath)
	wantIs(t, err, fetch.ErrUnavailable)
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("took %v with a budget of 50 ms", d)
	}
}
