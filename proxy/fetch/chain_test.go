package fetch_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

const zipPath = "example.com/a/@v/v1.0.0.zip"

// handlers are the upstreams of the tests of a list, by host.
var handlers = map[string]http.HandlerFunc{
	"good":      text("good"),
	"other":     text("other"),
	"absent":    status(404),
	"gone":      status(410),
	"denied":    status(403),
	"sick":      status(503),
	"teapot":    status(418),
	"empty":     status(204),
	"stuck":     hang,
	"breaks":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"breaksoff": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9"); abort(w) },
}

func TestSeparators(t *testing.T) {
	for _, test := range []struct {
		list string
		want string // the body
		err  []error
		not  []error
	}{
		{"http://good", "good", nil, nil},
		{" http://good , http://other ", "good", nil, nil},
		{",,http://good||", "good", nil, nil},
		{"http://absent,http://good", "good", nil, nil},
		{"http://gone,http://good", "good", nil, nil},
		{"http://absent|http://good", "good", nil, nil},
		{"http://sick|http://good", "good", nil, nil},
		{"http://denied|http://good", "good", nil, nil},
		{"http://stuck|http://good", "good", nil, nil},
		{"http://breaks|http://good", "good", nil, nil},
		{"http://nobody|http://good", "good", nil, nil},
		{"http://stuck|http://stuck2|http://stuck3|http://good", "good", nil, nil},
		{"http://absent", "", []error{fs.ErrNotExist}, []error{fetch.ErrUnavailable}},
		{"http://absent,http://gone", "", []error{fs.ErrNotExist}, []error{fetch.ErrUnavailable}},
		{"http://sick,http://good", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://denied,http://good", "", []error{fetch.ErrRefused}, []error{fs.ErrNotExist, fetch.ErrUnavailable}},
		{"http://denied|http://absent", "", []error{fetch.ErrRefused}, []error{fs.ErrNotExist}},
		{"http://absent,http://denied", "", []error{fetch.ErrRefused}, []error{fs.ErrNotExist}},
		{"http://denied|off", "", []error{fetch.ErrRefused}, []error{fs.ErrNotExist}},
		// A transient failure says more than a refusal: that upstream may have the object.
		{"http://denied|http://sick", "", []error{fetch.ErrUnavailable}, []error{fetch.ErrRefused}},
		{"http://sick|http://denied", "", []error{fetch.ErrUnavailable}, []error{fetch.ErrRefused}},
		{"http://teapot,http://good", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://empty,http://good", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://breaks,http://good", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://nobody,http://good", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://stuck,http://good", "", []error{fetch.ErrUnavailable, context.DeadlineExceeded}, []error{fs.ErrNotExist}},
		{"http://hole,http://good", "", []error{fetch.ErrUnavailable, context.DeadlineExceeded}, []error{fs.ErrNotExist}},
		// The best error is one that is not about absence.
		{"http://sick|http://absent", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://absent,http://sick", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://sick|http://absent,off", "", []error{fetch.ErrUnavailable}, []error{fs.ErrNotExist}},
		{"http://absent,off", "", []error{fs.ErrNotExist}, nil},
		{"off", "", []error{fs.ErrNotExist}, nil},
		{"http://absent,direct", "", []error{fetch.ErrDirect}, []error{fs.ErrNotExist}},
		{"http://sick|direct", "", []error{fetch.ErrDirect}, []error{fetch.ErrUnavailable}},
		{"http://sick,direct", "", []error{fetch.ErrUnavailable}, []error{fetch.ErrDirect}},
		{"http://good,direct", "good", nil, nil},
		{"direct", "", []error{fetch.ErrDirect}, nil},
		{"off,http://good", "", []error{fs.ErrNotExist}, nil},
	} {
		t.Run(test.list, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				for host, handler := range handlers {
					n.serve(host, handler)
				}
				n.serve("stuck2", hang)
				n.serve("stuck3", hang)
				n.host("hole:80", nil)
				c := n.list(test.list)
				begin := time.Now()
				data, err := read(t, c, zipPath)
				if string(data) != test.want || err == nil != (test.err == nil) {
					t.Errorf("Fetch: %q, %v, want %q", data, err, test.want)
				}
				wantIs(t, err, test.err...)
				wantIsNot(t, err, test.not...)
				c = n.list(test.list) // without remembered failures
				all, source, err2 := c.ReadAll(t.Context(), "example.com/b/@v/list", 100)
				if string(all) != test.want || err2 == nil != (test.err == nil) {
					t.Errorf("ReadAll: %q, %v, want %q", all, err2, test.want)
				}
				if err2 == nil && source != "http://"+test.want {
					t.Errorf("ReadAll: source %q, want http://%s", source, test.want)
				}
				wantIs(t, err2, test.err...)
				if d := time.Since(begin); d > 2*25*time.Second {
					t.Errorf("Fetch and ReadAll took %v, want at most 25 s each", d)
				}
			})
		})
	}
}

// A broken body is a failure of the entry in ReadAll, and of the transfer in Fetch.
func TestReadAllGoesOnAfterBrokenBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("good", text("good"))
		n.serve("breaksoff", handlers["breaksoff"])
		data, source, err := n.list("http://breaksoff|http://good").ReadAll(t.Context(), zipPath, 100)
		wantData(t, data, err, []byte("good"))
		if source != "http://good" {
			t.Errorf("source is %s", source)
		}
		_, _, err = n.list("http://breaksoff,http://good").ReadAll(t.Context(), zipPath, 100)
		wantIs(t, err, fetch.ErrUnavailable)
		wantIsNot(t, err, fs.ErrNotExist)
	})
}

// If entries hang, the answer still comes within its budget, and the last entry is asked in
// time.
func TestAnswerBudget(t *testing.T) {
	for _, list := range []string{
		"http://stuck", "http://hole", "http://stuck,http://hole", "http://stuck|http://hole", "http://hole|http://hole|http://stuck|http://stuck|http://hole",
		"http://wait", "http://drip",
	} {
		t.Run(list, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.host("hole:80", nil)
				n.serve("stuck", hang)
				n.serve("wait", func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", "7")
					w.WriteHeader(503)
				})
				n.serve("drip", func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "100000")
					for r.Context().Err() == nil {
						_, _ = io.WriteString(w, ".")
						_ = http.NewResponseController(w).Flush()
						select {
						case <-time.After(time.Second):
						case <-r.Context().Done():
						}
					}
				})
				c := n.list(list)
				begin := time.Now()
				_, _, err := c.ReadAll(t.Context(), zipPath, 1<<20)
				wantIs(t, err, fetch.ErrUnavailable)
				if d := time.Since(begin); d > 25*time.Second {
					t.Errorf("ReadAll took %v, want at most 25 s", d)
				}
				if list == "http://drip" {
					return // its headers are there in time
				}
				begin = time.Now()
				_, err = c.Fetch(t.Context(), zipPath, 1<<20)
				wantIs(t, err, fetch.ErrUnavailable)
				if d := time.Since(begin); d > 25*time.Second {
					t.Errorf("Fetch took %v, want at most 25 s", d)
				}
			})
		})
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("stuck", hang)
		n.serve("sick", status(503))
		n.host("hole:80", nil)
		for _, list := range []string{"http://stuck|http://stuck", "http://sick", "http://hole"} {
			ctx, cancel := context.WithCancel(t.Context())
			c := n.list(list)
			begin := time.Now()
			time.AfterFunc(150*time.Millisecond, cancel)
			_, err := c.Fetch(ctx, zipPath, 100)
			wantIs(t, err, context.Canceled)
			wantIsNot(t, err, fs.ErrNotExist)
			if d := time.Since(begin); d > 150*time.Millisecond && list != "http://sick" {
				t.Errorf("%s: Fetch took %v after a cancellation", list, d)
			}
			wantErrorType(t, err)
		}
	})
}

func TestInvalidPath(t *testing.T) {
	c, err := fetch.New(fetch.Config{List: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", ".", "/a", "a//b", "a/../b", "../a", "a/", "./a"} {
		if _, err := c.Fetch(t.Context(), path, 10); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Fetch(%q): %v, want fs.ErrNotExist", path, err)
		}
	}
}

func TestOfflineAndString(t *testing.T) {
	for _, test := range []struct {
		list, text string
		offline    bool
	}{
		{"off", "off", true},
		{"off,https://a.example", "off", true},
		{"https://user:secret@a.example/x?token=secret|file:///srv , off", "https://a.example/x|file:///srv,off", false},
		{"a.example/x", "https://a.example/x", false},
	} {
		c, err := fetch.New(fetch.Config{List: test.list})
		if err != nil {
			t.Errorf("New(%q): %v", test.list, err)
			continue
		}
		if c.Offline() != test.offline || c.String() != test.text {
			t.Errorf("New(%q): Offline %v, String %q, want %v, %q", test.list, c.Offline(), c.String(), test.offline, test.text)
		}
		if _, ok := any(c).(fetch.Source); !ok || strings.Contains(c.String(), "secret") {
			t.Errorf("New(%q) is no Source, or tells secrets: %v", test.list, c)
		}
	}
}

// A setting is the same in every process, differs for different lists, and has no secret
// in it.
func TestSetting(t *testing.T) {
	seen := map[string]string{}
	for _, list := range []string{
		"https://a.example", "https://a.example,https://b.example", "https://a.example|https://b.example", "https://b.example,https://a.example",
		"https://a.example,direct", "off", "https://user:secret@a.example", "https://user:secret2@a.example", "https://secret@a.example",
		"https://a.example?token=secret", "https://a.example,https://user:secret@b.example",
	} {
		c := newChain(t, fetch.Config{List: list})
		setting := c.Setting()
		if again := newChain(t, fetch.Config{List: list}).Setting(); again != setting {
			t.Errorf("%s: %q, then %q", list, setting, again)
		}
		if other, taken := seen[setting]; taken {
			t.Errorf("%s and %s are both %q", list, other, setting)
		}
		if strings.Contains(setting, "secret") || strings.Contains(setting, "user") {
			t.Errorf("%q has a secret", setting)
		}
		seen[setting] = list
	}
}
