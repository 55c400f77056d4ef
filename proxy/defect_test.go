package proxy_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// startDefect starts a server with a defect: it panics when a request to the upstream has
// failed, in the goroutine that made it. The requests fail for which fails returns true.
func startDefect(t *testing.T, fault string, fails func(path string) bool) *fixture {
	world := newWorld(t)
	big(world, 2<<20)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fails(r.URL.Path) {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		world.ServeHTTP(w, r)
	}))
	t.Cleanup(upstream.Close)
	o := verified()
	o.log = func(h slog.Handler) slog.Handler { return brokenHandler{h, "upstream request failed"} }
	return start(t, world, upstream.URL+"/"+fault, o)
}

// After a panic in work for several clients, or for none, the waiting clients get a 500,
// the program continues, and the log has the stack.
func TestSharedWorkPanics(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]string{
		"example.com/hello/@v/v1.0.0.info":                       "v1.0.0.info",
		"example.com/hello/@v/v1.0.0.mod":                        "v1.0.0.mod",
		"example.com/big/@v/v1.0.0.zip":                          "v1.0.0.zip",
		"example.com/hello/@v/list":                              "list",
		"example.com/hello/@latest":                              "latest",
		"example.com/hello/@v/v1.1.0.mod":                        "/lookup/", // goroutines of its own send the lookups
		"example.com/hello/@v/v1.1.0.zip":                        "/tile/",
		"sumdb/sum.test.example/lookup/example.com/hello@v1.0.0": "/lookup/",
		"sumdb/sum.test.example/latest":                          "test.example/latest",
	} {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			f := startDefect(t, "ok", func(path string) bool { return strings.Contains(path, part) })
			f.wantStatus(name, http.StatusInternalServerError, "internal error")
			f.wantLogged(t, "a defect", "brokenHandler")
			f.server.Reload(content.Settings{Upstream: chainOf(t, f.world.URL("ok")), Policy: noPolicy(t)})
			f.want("example.com/major/v2/@v/v2.3.4.info")
		})
	}
}

// wantLogged waits until the log has all of the texts.
func (f *fixture) wantLogged(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		waitUntil(t, func() bool { return strings.Contains(f.logs.String(), text) })
	}
}

// The goroutine that receives a zip is guarded too: here it panics in the middle.
func TestReceiverPanics(t *testing.T) {
	t.Parallel()
	var zips atomic.Int64
	f := startDefect(t, "reset-mid", func(path string) bool {
		return strings.HasSuffix(path, ".zip") && zips.Add(1) > 1 // to go on
	})
	if a := f.get("example.com/big/@v/v1.0.0.zip"); a.err == nil && a.status == http.StatusOK {
		t.Errorf("status %d, %d bytes, and no error", a.status, len(a.body))
	}
	f.wantLogged(t, "a defect", "transfer")
	f.want("example.com/hello/@v/v1.0.0.mod")
}

// No client waits any more when it happens.
func TestPanicWithoutClient(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan struct{})
	f := startDefect(t, "ok", func(path string) bool {
		if !strings.HasSuffix(path, "/hello/@v/v1.0.0.info") {
			return false
		}
		close(begun)
		<-gone
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/example.com/hello/@v/v1.0.0.info", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
			resp.Body.Close()
		}
	}()
	<-begun
	cancel()
	<-ended
	time.Sleep(50 * time.Millisecond) // the server notices that the client left a little later
	close(gone)
	f.wantLogged(t, "a defect", "brokenHandler")
	f.want("example.com/hello/@v/v1.1.0.info")
	if n := f.metric(t, "assay_fill_panics_total"); n != 1 {
		t.Errorf("%v panics are counted", n)
	}
}

// The same for private modules and their repositories.
func TestPrivateWorkPanics(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(_ *proxy.Config, v *vcs.Config) {
		v.Logger = slog.New(brokenHandler{slog.DiscardHandler, "go command failed"})
	})
	h.code.Module("lib", lib)
	for _, path := range []string{"corp.example/lib/@v/v1.9.0.zip", "corp.example/lib/@v/main2.info"} {
		h.wantStatus(path, http.StatusInternalServerError, "internal error")
	}
	h.wantLogged(t, "a defect", "brokenHandler")
	h.ok("corp.example/lib/@v/list")
	h.ok("corp.example/lib/@v/v1.0.0.zip")
}

// brokenHandler panics at one message.
type brokenHandler struct {
	slog.Handler
	at string
}

func (brokenHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h brokenHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.at {
		panic("a defect")
	}
	return h.Handler.Handle(ctx, r)
}
