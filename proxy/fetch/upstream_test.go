package fetch_test

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// sequence answers each request with the next handler, the last one forever.
func sequence(c *counter, handlers ...http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		handlers[min(c.next(), len(handlers))-1](w, r)
	}
}

func TestStatuses(t *testing.T) {
	const list = "example.com/a/@v/list"
	for _, test := range []struct {
		status   int
		path     string
		want     error
		requests int
	}{
		{404, zipPath, fs.ErrNotExist, 1},
		{410, zipPath, fs.ErrNotExist, 1},
		{400, zipPath, fetch.ErrUnavailable, 1},
		{401, zipPath, fetch.ErrUnavailable, 1},
		{403, zipPath, fetch.ErrRefused, 2},
		{403, "example.com/a/@v/v1.0.0.mod", fetch.ErrRefused, 2},
		{403, list, fetch.ErrRefused, 1},
		{403, "example.com/a/@latest", fetch.ErrRefused, 1},
		{407, zipPath, fetch.ErrUnavailable, 1},
		{408, list, fetch.ErrUnavailable, 3},
		{429, list, fetch.ErrUnavailable, 3},
		{451, list, fetch.ErrRefused, 1},
		{500, list, fetch.ErrUnavailable, 3},
		{501, list, fetch.ErrUnavailable, 1},
		{502, list, fetch.ErrUnavailable, 3},
		{503, list, fetch.ErrUnavailable, 3},
		{504, list, fetch.ErrUnavailable, 3},
		{508, list, fetch.ErrUnavailable, 1},
		{204, list, fetch.ErrUnavailable, 1},
		{206, list, fetch.ErrUnavailable, 1},
		{302, list, fetch.ErrUnavailable, 1}, // without a Location
		{304, list, fetch.ErrUnavailable, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var requests counter
			n := newNetwork(t)
			n.serve("host", lives(sequence(&requests, status(test.status))))
			c := n.list("http://host")
			_, err := read(t, c, test.path)
			var e *fetch.Error
			if !errors.As(err, &e) || e.Status != test.status || !errors.Is(err, test.want) || e.Path != test.path {
				t.Errorf("status %d: %v, want %v", test.status, err, test.want)
			}
			if test.want != fs.ErrNotExist {
				wantIsNot(t, err, fs.ErrNotExist)
			}
			if requests.total() != test.requests {
				t.Errorf("status %d of %s: %d requests, want %d", test.status, test.path, requests.total(), test.requests)
			}
			if _, _, err := c.ReadAll(t.Context(), test.path, 100); !errors.Is(err, test.want) {
				t.Errorf("status %d: ReadAll %v, want %v", test.status, err, test.want)
			}
		})
	}
}

// The caller never sees a single transient failure.
func TestPassingTrouble(t *testing.T) {
	for name, trouble := range map[string]http.HandlerFunc{
		"503":       status(503),
		"403":       status(403),
		"429":       status(429),
		"reset":     handlers["breaks"],
		"truncated": handlers["breaksoff"],
		"hang":      hang,
		"stall": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		},
		"Retry-After": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(503)
		},
		"Retry-After, a date": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(5*time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(429)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				var one, two counter
				server := &flaky{data: []byte("good"), sized: true}
				n.serve("one", sequence(&one, trouble, server.ServeHTTP))
				n.serve("two", sequence(&two, trouble, server.ServeHTTP))
				begin := time.Now()
				data, err := read(t, n.list("http://one"), zipPath)
				if name != "truncated" && name != "stall" { // their size differs
					wantData(t, data, err, []byte("good"))
				}
				if strings.HasPrefix(name, "Retry-After") && time.Since(begin) < 4*time.Second {
					t.Errorf("came back after %v", time.Since(begin))
				}
				data, _, err = n.list("http://two").ReadAll(t.Context(), zipPath, 100)
				wantData(t, data, err, []byte("good"))
			})
		})
	}
}

// A Retry-After that does not fit into the budget is returned at once.
func TestRetryAfterTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(429)
			_, _ = io.WriteString(w, "slow down")
		})
		begin := time.Now()
		_, err := read(t, n.list("http://host"), zipPath)
		var e *fetch.Error
		if !errors.As(err, &e) || e.RetryAfter != 2*time.Minute || e.Status != 429 || e.Detail != "slow down" {
			t.Errorf("error %#v", err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("took %v", d)
		}
	})
}

func TestDetail(t *testing.T) {
	for _, test := range []struct{ contentType, body, want string }{
		{"text/plain", "not found: module example.com/a: no matching versions\n", "not found: module example.com/a: no matching versions"},
		{"text/plain", "two\nlines\r\n\tand a tab", "two lines and a tab"},
		{"text/plain", "\x1b[31mred\x00\xff\u202eder", "[31mredder"},
		{"text/html; charset=utf-8", "<html><head><title>404 Not\nFound</title></head><body>x</body></html>", "404 Not Found"},
		{"text/html", "<html><head><style>p{}</style></head><body><p>No &amp; nothing</p><script>alert(1)</script></body>", "No & nothing"},
		{"", "<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "NoSuchKey"},
		{"text/plain", strings.Repeat("ä", 300), strings.Repeat("ä", 98) + "..."},
		{"text/plain", "see https://user:pw@cdn.example/x?X-Goog-Signature=abc and that", "see https://cdn.example/x and that"},
		{"text/plain", "", ""},
		{"application/octet-stream", strings.Repeat("\x01\x02", 5000), ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.serve("host", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.contentType)
				w.WriteHeader(404)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := read(t, n.list("http://host"), zipPath)
			var e *fetch.Error
			if !errors.As(err, &e) || e.Detail != test.want {
				t.Errorf("Detail of %q is %q, want %q", test.body, e.Detail, test.want)
			}
		})
	}
}

// The text of a refusal is passed on to clients as far as it fits, marked as the
// upstream's, and without secrets.
func TestWords(t *testing.T) {
	for _, test := range []struct{ contentType, body, want string }{
		{"text/plain", "forbidden by policy 7\n", "localhost: forbidden by policy 7"},
		{"text/plain", "one\n\n \t\r\ntwo\r\nthree\nfour\n", "localhost: one\nlocalhost: two\nlocalhost: three"},
		{"text/plain", "\x1b[31mred\x00\xff\u202eder\n\x07\nmore", "localhost: [31mredder\nlocalhost: more"},
		{"text/plain", strings.Repeat("ä", 200) + "\nmore", "localhost: " + strings.Repeat("ä", 148) + "..."},
		{"text/plain", strings.Repeat("a", 280) + "\n" + strings.Repeat("b", 280) + "\nc", "localhost: " + strings.Repeat("a", 280) + "\nlocalhost: " + strings.Repeat("b", 17) + "..."},
		{"text/plain", "user me and s3cr3t-value are wrong, see http://me:s3cr3t-value@localhost/?token=h1dden-value", "localhost: user me and xxxxx are wrong, see http://localhost/"},
		{"text/plain", "s3cr\x003t-value", "localhost: xxxxx"},
		{"text/plain", strings.Repeat("x", 295) + " s3cr3t-value", "localhost: " + strings.Repeat("x", 295) + " x..."},
		{"text/html", "<html><head><title>Blocked\nhere</title></head><body>x</body></html>", "localhost: Blocked\nlocalhost: here"},
		{"application/json", "{\n  \"errors\": [ {\n    \"status\": 403,\n    \"message\": \"blocked by curation\"\n  } ]\n}", `localhost: {"errors":[{"status":403,"message":"blocked by curation"}]}`},
		{"text/plain", "", ""},
		{"application/octet-stream", strings.Repeat("\x01\x02\n", 3000), ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.serve("localhost", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.contentType)
				w.WriteHeader(403)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := read(t, n.list("http://me:s3cr3t-value@localhost/?token=h1dden-value"), zipPath)
			wantIs(t, err, fetch.ErrRefused)
			var e *fetch.Error
			if !errors.As(err, &e) || e.Words != test.want {
				t.Errorf("Words of %.50q are %q, want %q", test.body, e.Words, test.want)
			}
		})
	}
}

// A refusal after a redirect is a refusal, but its text is not passed on to clients.
func TestWordsAfterRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", redirect("http://cdn/x", 302))
		n.serve("cdn", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "the secret of the cdn", http.StatusForbidden)
		})
		_, err := read(t, n.list("http://host"), zipPath)
		wantIs(t, err, fetch.ErrRefused)
		var e *fetch.Error
		if !errors.As(err, &e) || e.Detail != "" || e.Words != "host: it redirects to a host that refuses" {
			t.Errorf("%#v", err)
		}
	})
}

// The status of a 404 counts even if its text never comes.
func TestDetailHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(404)
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		})
		begin := time.Now()
		_, err := read(t, n.list("http://host"), zipPath)
		wantIs(t, err, fs.ErrNotExist)
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got *http.Request
		n := newNetwork(t)
		n.serve("host", func(_ http.ResponseWriter, r *http.Request) { got = r })
		c := n.chain(fetch.Config{List: "http://host/base%20d/?t=1", UserAgent: "assay/1.2", Via: "1.1 assay-x"})
		if _, err := read(t, c, "example.com/!a/@v/v1.0.0+incompatible.zip"); err != nil {
			t.Fatal(err)
		}
		if got.Method != "GET" || got.RequestURI != "/base%20d/example.com/%21a/@v/v1.0.0+incompatible.zip?t=1" {
			t.Errorf("request %s %s", got.Method, got.RequestURI)
		}
		for name, want := range map[string]string{"User-Agent": "assay/1.2", "Via": "1.1 assay-x", "Accept-Encoding": "identity", "Authorization": "", "Referer": ""} {
			if v := got.Header.Get(name); v != want {
				t.Errorf("%s: %q, want %q", name, v, want)
			}
		}
	})
}

// What is no longer permitted is not requested again, at any upstream, and this is
// no absence.
func TestPermit(t *testing.T) {
	for _, separator := range []string{",", "|"} {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			permitted := true
			n := newNetwork(t)
			n.serve("one", func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Path)
				permitted = false
				http.Error(w, "", http.StatusServiceUnavailable)
			})
			n.serve("two", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("two was asked for %s", r.URL.Path) })
			errSecret := errors.New("a secret")
			c := n.chain(fetch.Config{List: "http://one" + separator + "http://two", Permit: func(modulePath string) error {
				if modulePath == "a.example" && !permitted {
					return errSecret
				}
				return nil
			}})
			_, _, err := c.ReadAll(fetch.WithModule(t.Context(), "a.example"), "a.example/@v/list", 100)
			if !errors.Is(err, errSecret) || errors.Is(err, fs.ErrNotExist) || len(asked) != 1 {
				t.Errorf("%v after %q", err, asked)
			}
		})
	}
}

// A lack of file descriptors can be told from the error, whatever was opened: it is ours,
// and transient.
func TestExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{
			os.NewSyscallError("socket", syscall.EMFILE), os.NewSyscallError("socket", syscall.ENFILE),
			&net.DNSError{Err: "dial udp 192.0.2.1:53: socket: " + syscall.EMFILE.Error(), Name: "good"},
		} {
			n := newNetwork(t)
			n.serve("good", text("good"))
			n.refuse("good:80", err)
			_, got := read(t, n.list("http://good"), "x")
			if !errors.Is(got, syscall.EMFILE) || !errors.Is(got, fetch.ErrUnavailable) {
				t.Errorf("%v becomes %v, want EMFILE", err, got)
			}
		}
	})
}
