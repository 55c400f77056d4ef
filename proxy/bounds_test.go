package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"
)

// Names can have 30 kB. Requests for such names do not use up memory.
func TestLongNames(t *testing.T) {
	t.Parallel()
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

// A path that is too long for a key of the store is served and stored like any other.
func TestLongPaths(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	var paths []string
	for _, name := range []string{"example.com" + strings.Repeat("/abcdefghi", 90), "example.com/" + strings.Repeat("w", 300)} {
		world.AddModule(module.Version{Path: name, Version: "v1.0.0"}, []txtar.File{{Name: "go.mod", Data: []byte("module " + name + "\n")}})
		for _, file := range []string{"/@v/list", "/@latest", "/@v/v1.0.0.info", "/@v/v1.0.0.mod", "/@v/v1.0.0.zip"} {
			paths = append(paths, name+file)
		}
	}
	f := start(t, world, world.URL("ok"), verified())
	for _, path := range paths {
		f.want(path)
	}
	f.close()
	f.open("off", verified())
	for _, path := range paths {
		f.want(path)
	}
	f.wantStatus(strings.TrimSuffix(paths[0], "list")+"v1.1.0.info", http.StatusNotFound)
}
