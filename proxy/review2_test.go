package proxy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// Names can have 30 kB. What is remembered of those who ask for such does not add up.
func TestLongNames(t *testing.T) {
	r := startReaders(t)
	long := strings.Repeat("/abcdefghi", 2500)
	for i := range 3 {
		if a := r.as("", fmt.Sprint("corp.example/lib", long, i, "/@v/list")); a.status != http.StatusNotFound {
			t.Fatal(a)
		}
	}
	for _, leak := range r.server.Leaks() {
		if len(leak.Module) > 300 {
			t.Errorf("a leak has a name of %d bytes", len(leak.Module))
		}
	}
}

// Many absences of long names are no more than those of short ones.
func TestLongAbsences(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	keep := proxy.Absences(5000, 20000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
		t.Errorf("5000 absences take %d MB", grown>>20)
	}
	runtime.KeepAlive(keep)
}

// What only the credential of this proxy can read is not shown to everybody because
// its name was not said to be private.
func TestDirectCredential(t *testing.T) {
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine git.corp.example login ci password secret-of-git\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startPrivate(t, func(_ *proxy.Config, v *vcs.Config) { v.Netrc = netrc })
	h.code.Module("lib", lib)
	h.code.Password("ci", "secret-of-git")
	h.ok("corp.example/lib/@v/list")
	h.server.Reload(chainOf(t, h.world.URL("404")+",direct"), policyOf(t, "corp.example/other"), h.vcs)
	for _, path := range []string{"@v/list", "@latest", "@v/main.info", "@v/v1.0.0.info"} {
		if a := h.get("corp.example/lib/" + path); a.status < 400 {
			t.Errorf("GET %s = %v", path, a)
		}
	}
}

// What was found to be absent before a push is not remembered after it.
func TestPushDuringAbsence(t *testing.T) {
	h := startPrivate(t, nil)
	repo := h.code.Module("lib", lib)
	h.ok("corp.example/lib/@v/list")
	paths := []string{"corp.example/lib/@v/v1.1.0.info", "corp.example/lib/@v/dev.info"}
	h.code.Requests()
	h.code.Hang(true)
	var clients sync.WaitGroup
	for _, path := range paths {
		clients.Go(func() { h.get(path) })
	}
	waitUntil(t, func() bool { return len(h.code.Requests()) > 0 })
	time.Sleep(100 * time.Millisecond)
	h.server.Pushed(repo.URL())
	h.code.Hang(false)
	clients.Wait()
	repo.Tag("v1.1.0")
	repo.Git("branch", "dev")
	for _, path := range paths {
		h.ok(path)
	}
}
