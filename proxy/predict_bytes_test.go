package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
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
	eventually(t, "the four others that follow are given up", func() bool {
		_, abandoned := f.zipsStats()
		return abandoned == 4
	})
	close(release)
	if a := <-answered; a.status != http.StatusOK {
		t.Errorf("the client gets %v", a)
	}
	for len(upstream.gone) > 0 {
		if ended := <-upstream.gone; ended == paths[0]+"zip" {
			t.Error("what a client waits for ends")
		}
	}
	for _, path := range paths {
		f.want(path + "zip")
	}
	f.wantPredicted()
}

// twelveZips adds twelve modules with zips to a world, and returns the paths of these.
func twelveZips(world *proxytest.World) (paths []string) {
	for i := range 12 {
		world.Add(fmt.Sprintf("-- zip.example/%d@v1.0.0/go.mod --\nmodule zip.example/%d\n", i, i))
		paths = append(paths, fmt.Sprintf("zip.example/%d/@v/v1.0.0.zip", i))
	}
	return paths
}

// Predictions of a zip that arrives slowly for a client take no room from predictions of others.
func TestPredictJoins(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := twelveZips(world)
	g := newGate(t, world, paths[0])
	o := verified()
	o.budget = patient()
	f := start(t, world, g.url, o)
	answered := make(chan response)
	go func() { answered <- f.get(paths[0]) }()
	<-g.came
	for range 8 { // half of the places for zips
		f.prefetch(paths[0])
	}
	f.prefetch(paths[1])
	eventually(t, "another zip is prefetched", func() bool { return f.holds(paths[1]) })
	g.release()
	if a := <-answered; a.status != http.StatusOK {
		t.Errorf("the client gets %v", a)
	}
}

// Predicted zips that clients request, and leave, take no room from predictions, although nothing ends them.
func TestPredictAdopted(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := twelveZips(world)
	g := newGate(t, world, "/v1.0.0.zip")
	o := verified()
	o.budget = patient()
	f := start(t, world, g.url, o)
	for _, path := range paths[:8] {
		f.prefetch(path)
		<-g.came
	}
	f.prefetch(paths[8])
	for _, path := range paths[:8] {
		f.visit(path)
	}
	begun := make(chan struct{})
	go func() {
		<-g.came
		close(begun)
	}()
	eventually(t, "another zip is prefetched", func() bool {
		f.prefetch(paths[9])
		select {
		case <-begun:
			return true
		default:
			return false
		}
	})
	if running, abandoned := f.zipsStats(); running != 9 || abandoned != 0 {
		t.Errorf("%d zips are fetched, %d were given up", running, abandoned)
	}
	if n := world.Count(paths[8]); n != 0 {
		t.Error("a zip is prefetched that found no room")
	}
	g.release()
	f.idle()
	for _, path := range paths[:8] {
		if !f.holds(path) {
			t.Errorf("%s is not stored, and a client has requested it", path)
		}
	}
}

// A store at the limit of its large objects gets no predicted zip for a while, and the ones that arrive give up
// their space: it is for what clients request. Other files are predicted.
func TestPredictNoZips(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	paths := graph(world, 9, "")
	noise := make([]byte, 100<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	world.Add(fmt.Sprintf("-- large.example/m@v1.0.0/go.mod --\nmodule large.example/m\n-- large.example/m@v1.0.0/data --\n%x\n", noise))
	world.Add("-- later.example/old@v1.0.0/go.mod --\nmodule later.example/old\nrequire later.example/0 v1.0.0\n" +
		"-- later.example/0@v1.0.0/go.mod --\nmodule later.example/0\n")
	g := newGate(t, world, paths[1]+"zip")
	o := predicting()
	o.budget = patient()
	o.storage = func(b *bolt.Options) { b.FileLimit = bolt.LeastLimit }
	f := start(t, world, g.url, o)
	var err error
	for i, size := 0, 4<<20; size >= 64<<10; i++ {
		info := storage.Info{Key: fmt.Sprint("full/", i), Size: int64(size)}
		if err = f.store.Create(t.Context(), info, bytes.NewReader(storagetest.Content(uint64(i), size))); err != nil {
			size /= 4
		}
	}
	if !errors.Is(err, storage.ErrNoLarge) {
		t.Fatalf("the store is not full: %v", err)
	}
	f.wantGraph(paths)
	f.want(paths[0] + "zip")
	<-g.came // a predicted zip arrives
	eventually(t, "the other predicted zips are stored", func() bool { running, _ := f.zipsStats(); return running == 1 })
	if a := f.get("large.example/m/@v/v1.0.0.zip"); a.status < 500 {
		t.Errorf("a client gets %d", a.status)
	}
	f.idle() // although one still hangs
	if _, abandoned := f.zipsStats(); abandoned != 1 {
		t.Errorf("%d predicted zips were given up, want the one that arrives", abandoned)
	}
	for _, path := range paths[2:5] {
		f.want(path + "zip")
	}
	f.idle()
	for _, path := range paths[5:] {
		if n := world.Count(path + "zip"); n != 0 {
			t.Errorf("%szip is predicted", path)
		}
	}
	f.want("later.example/old/@v/v1.0.0.mod")
	eventually(t, "a go.mod is predicted", func() bool { return f.holds("later.example/0/@v/v1.0.0.mod") })
	if n := strings.Count(f.logs.String(), "no zip is predicted for a while"); n != 1 {
		t.Errorf("%d lines in the log say it", n)
	}
}

// A predicted file that a client has requested is that client's also when it has left: its failure is
// remembered as any other.
func TestPredictAdoptedFails(t *testing.T) {
	t.Parallel()
	const path = "example.com/hello/@v/v1.0.0.mod"
	world := newWorld(t)
	var requests atomic.Int64
	came, release := make(chan struct{}, 100), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, path) {
			world.ServeHTTP(w, r)
			return
		}
		requests.Add(1)
		came <- struct{}{}
		<-release
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer upstream.Close()
	o := verified()
	o.budget = patient()
	f := start(t, world, upstream.URL+"/ok", o)
	f.prefetch(path)
	<-came
	f.visit(path)
	close(release)
	f.idle()
	before := requests.Load()
	f.wantStatus(path, http.StatusBadGateway)
	if n := requests.Load() - before; n != 0 {
		t.Errorf("%d more requests for a file that has just failed", n)
	}
}
