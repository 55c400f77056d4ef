package proxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// These tests are about the bytes of predicted files that are still arriving.

// zipUpstream is an upstream that answers the first request for each of some zips in another way.
type zipUpstream struct {
	list string
	gone chan string // the paths whose requests Assay has ended

	mu    sync.Mutex
	asked map[string]bool
}

// newZipUpstream makes one with the files of a world. first answers the first request for a zip whose path
// contains text, until Assay ends it or it returns.
func newZipUpstream(t *testing.T, world *proxytest.World, text string, first func(w http.ResponseWriter, r *http.Request)) *zipUpstream {
	u := &zipUpstream{gone: make(chan string, 100), asked: map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, text) || !strings.HasSuffix(r.URL.Path, ".zip") || !u.isFirst(r.URL.Path) {
			world.ServeHTTP(w, r)
			return
		}
		first(w, r)
		if r.Context().Err() != nil {
			u.gone <- strings.TrimPrefix(r.URL.Path, "/ok/")
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	u.list = server.URL + "/ok"
	return u
}

func (u *zipUpstream) isFirst(path string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	asked := u.asked[path]
	u.asked[path] = true
	return !asked
}

// patient is a budget for upstreams that hang as long as a test needs.
func patient() fetch.Budget {
	return fetch.Budget{FirstByte: 5 * time.Minute, IdleBody: 5 * time.Minute, Answer: 5 * time.Minute}
}

// zipsStats returns the counts of the places for zips.
func (f *fixture) zipsStats() (running int, abandoned uint64) {
	stats := f.server.Content().Places()["zips"].Stats()
	return stats.Running, stats.Abandoned
}

// wantGraph requests what go mod download requests before the zips.
func (f *fixture) wantGraph(paths []string) {
	f.t.Helper()
	f.want("graph.example/old/@v/v1.0.0.mod")
	for _, kind := range []string{"mod", "info"} {
		for _, path := range paths {
			f.want(path + kind)
		}
	}
	f.idle()
}

// Predicted zips that arrive at the same time have together no more bytes than their client may have. The one
// that exceeds them ends, and is fetched when the client requests it.
func TestPredictZipsTogether(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 6, "")
	release := make(chan struct{})
	upstream := newZipUpstream(t, world, "/graph.example/", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			world.ServeHTTP(w, r)
			return
		default:
		}
		if strings.Contains(r.URL.Path, "/graph.example/0/") {
			world.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(predict.MaxZip*3/10))
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	o := predicting()
	o.budget = patient()
	f := start(t, world, upstream.list, o)
	f.wantGraph(paths)
	f.get(paths[0] + "zip") // four others follow
	ended := <-upstream.gone
	eventually(t, "the others go on", func() bool {
		running, abandoned := f.zipsStats()
		return running == 3 && abandoned == 1
	})
	f.want(ended)
	close(release)
	f.idle()
	for _, path := range paths {
		f.want(path + "zip")
	}
	f.wantPredicted()
}

// A predicted zip that does not say how large it is ends when it is larger than what its client may have.
func TestPredictZipWithoutLength(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 3, "")
	const most = predict.MaxZip + 16<<20 // with what is on its way
	sent := make(chan int, 1)
	upstream := newZipUpstream(t, world, "/graph.example/1/", func(w http.ResponseWriter, r *http.Request) {
		n, piece := 0, make([]byte, 1<<20)
		for n < most {
			if _, err := w.Write(piece); err != nil {
				break
			}
			n += len(piece)
		}
		sent <- n
		<-r.Context().Done()
	})
	f := start(t, world, upstream.list, predicting())
	f.wantGraph(paths)
	f.want(paths[0] + "zip")
	if n := <-sent; n >= most {
		t.Errorf("%d bytes of a predicted zip are fetched", n)
	}
	eventually(t, "it is given up", func() bool {
		_, abandoned := f.zipsStats()
		return abandoned == 1
	})
	f.idle()
	f.want(paths[1] + "zip")
	f.wantPredicted()
}

// Predicted zips that arrive slowly, and do not say how large they are, hold the places of predictions for a
// limited time. A zip that a client waits for arrives.
func TestPredictSlowZips(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 6, "")
	release := make(chan struct{})
	upstream := newZipUpstream(t, world, "/graph.example/", func(w http.ResponseWriter, r *http.Request) {
		file := world.File(strings.TrimPrefix(r.URL.Path, "/ok/"))
		_, _ = w.Write(file[:1])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = w.Write(file[1:])
		case <-r.Context().Done():
		}
	})
	o := predictingWith(func(c *proxy.Config) { c.Content.Times.Ahead = 100 * time.Millisecond })
	o.budget = patient()
	f := start(t, world, upstream.list, o)
	f.wantGraph(paths)
	answered := make(chan response)
	go func() { answered <- f.get(paths[0] + "zip") }()
	for range 4 { // so many others follow
		if ended := <-upstream.gone; ended == paths[0]+"zip" {
			t.Error("what a client waits for ends")
		}
	}
	close(release)
	if a := <-answered; a.status != http.StatusOK {
		t.Errorf("the client gets %v", a)
	}
	for _, path := range paths {
		f.want(path + "zip")
	}
	f.wantPredicted()
}
