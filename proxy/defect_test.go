package proxy_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// startDefect starts a server whose requests to the upstream call permit first, in the
// goroutines that make them, so that a test can make each of these panic.
func startDefect(t *testing.T, fault string, permit func(path string)) *fixture {
	world := newWorld(t)
	big(world, 2<<20)
	o := verified()
	o.permit = func(path string) error { permit(path); return nil }
	return start(t, world, world.URL(fault), o)
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
			f := startDefect(t, "ok", func(path string) {
				if strings.Contains(path, part) {
					panic("a defect")
				}
			})
			f.wantStatus(name, http.StatusInternalServerError, "internal error")
			f.wantLogged(t, "a defect", "startDefect")
			f.server.Reload(chainOf(t, f.world.URL("ok")), noPolicy(t), nil)
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
	zips := 0
	f := startDefect(t, "reset-mid", func(path string) {
		if strings.HasSuffix(path, ".zip") {
			if zips++; zips > 1 { // to go on
				panic("a defect")
			}
		}
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
	f := startDefect(t, "ok", func(path string) {
		if strings.HasSuffix(path, "/hello/@v/v1.0.0.info") {
			close(begun)
			<-gone
			panic("a defect")
		}
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
	f.wantLogged(t, "a defect", "startDefect")
	f.want("example.com/hello/@v/v1.1.0.info")
	if n := f.metric(t, "assay_fill_panics_total"); n != 1 {
		t.Errorf("%v panics are counted", n)
	}
}

// The same for private modules and their repositories.
func TestPrivateWorkPanics(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, func(_ *proxy.Config, v *vcs.Config) { v.Logger = slog.New(brokenHandler{slog.DiscardHandler}) })
	h.code.Module("lib", lib)
	for _, path := range []string{"corp.example/lib/@v/v1.9.0.zip", "corp.example/lib/@v/main2.info"} {
		h.wantStatus(path, http.StatusInternalServerError, "internal error")
	}
	h.wantLogged(t, "a defect", "brokenHandler")
	h.ok("corp.example/lib/@v/list")
	h.ok("corp.example/lib/@v/v1.0.0.zip")
}

// brokenHandler panics where a module or a version was not found.
type brokenHandler struct{ slog.Handler }

func (brokenHandler) Enabled(context.Context, slog.Level) bool { return true }

func (brokenHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "go command failed" {
		panic("a defect")
	}
	return nil
}
