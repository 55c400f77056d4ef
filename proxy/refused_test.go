package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
)

// refusing is an upstream that passes requests on to another one, but answers those for
// some paths with a status and a text.
type refusing struct {
	*httptest.Server

	mu     sync.Mutex
	status map[string]int // by a part of the path
	times  map[string]int // how often it answers so, 0 for always
}

func newRefusing(t *testing.T, upstream string) *refusing {
	r := &refusing{status: map[string]int{}, times: map[string]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if status := r.find(req.URL.Path); status != 0 {
			http.Error(w, "blocked by rule 7\nask security@corp.example\nticket 12\nrequest id: forged", status)
			return
		}
		http.Redirect(w, req, upstream+req.URL.Path, http.StatusFound)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *refusing) find(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for part, status := range r.status {
		if !strings.Contains(path, part) {
			continue
		}
		if r.times[part]--; r.times[part] == 0 {
			delete(r.status, part)
		}
		return status
	}
	return 0
}

// refuse makes r answer with status for paths that contain part, so many times, 0 for
// always.
func (r *refusing) refuse(part string, status, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status[part], r.times[part] = status, times
}

// An upstream's refusal is passed on as a refusal, with its text. Clients retry a 502,
// and an absence would send the client elsewhere.
func TestUpstreamRefuses(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	up := newRefusing(t, world.URL("ok"))
	f := start(t, world, up.URL, verified())
	host := strings.TrimPrefix(up.URL, "http://")
	words := "\n" + host + ": blocked by rule 7\n" + host + ": ask security@corp.example\n" + host + ": ticket 12\ncontact that upstream's administrator"
	for _, path := range []string{"@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/list", "@latest", "@v/main.info"} {
		up.refuse(path, http.StatusForbidden, 0)
		a := f.wantStatus("example.com/hello/"+path, http.StatusForbidden, "an upstream refuses example.com/hello/"+path, words)
		if strings.Contains(string(a.body), "forged") || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Retry-After") != "" {
			t.Errorf("%v %v", a, a.header)
		}
		up.refuse(path, http.StatusForbidden, 1)
		if strings.Contains(path, "v1.0.0") { // the client does not see a temporary refusal
			f.want("example.com/hello/" + path)
		}
	}
	// A stored object is served, whatever the upstream answers now.
	up.refuse("example.com", http.StatusForbidden, 0)
	f.want("example.com/hello/@v/v1.0.0.zip")
}

// If an upstream does not accept our credentials, the administrator must act; this says
// nothing about the module.
func TestUpstreamCredentials(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	up := newRefusing(t, world.URL("ok"))
	f := start(t, world, up.URL, verified())
	for _, status := range []int{http.StatusUnauthorized, http.StatusProxyAuthRequired} {
		up.refuse("/@v/list", status, 0)
		f.wantStatus("example.com/hello/@v/list", http.StatusBadGateway, "rejected this proxy's credentials: "+up.URL)
	}
}

// A refusal of the checksum database is no absence either.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"/supported", "/lookup/"} {
		world := newWorld(t)
		up := newRefusing(t, world.URL("ok"))
		f := start(t, world, up.URL, verified())
		up.refuse(part, http.StatusForbidden, 0)
		f.wantStatus("example.com/hello/@v/v1.0.0.mod", http.StatusForbidden, "an upstream refuses ", part, "blocked by rule 7")
		f.wantStatus("sumdb/sum.test.example/lookup/example.com/hello@v1.0.0", http.StatusForbidden, "blocked by rule 7")
	}
}

// A stored list is served for Stale, as after any failure; after that the client gets the
// refusal.
func TestRefusedList(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	up := newRefusing(t, world.URL("ok"))
	o := verified()
	o.config = func(c *proxy.Config) {
		c.Content.Times.Fresh, c.Content.Times.Stale = 100*time.Millisecond, 10*time.Second
	}
	f := start(t, world, up.URL, o)
	const path = "example.com/hello/@v/list"
	f.want("example.com/hello/@v/v1.0.0.zip")
	held := f.want(path)
	up.refuse("/@v/list", http.StatusForbidden, 0)
	time.Sleep(150 * time.Millisecond)
	if a := f.get(path); string(a.body) != string(held.body) {
		t.Errorf("%v", a)
	}
	time.Sleep(10 * time.Second)
	f.wantStatus(path, http.StatusForbidden, "blocked by rule 7")
}
