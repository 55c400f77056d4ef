package proxy_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// programSize is how many modules the program of these tests imports.
const programSize = 20

// program adds the modules of a program to a world, and returns the files of the program: 20 modules
// that it imports, the 20 that these import, and an old one that leads to versions that are not used.
func program(world *proxytest.World) map[string]string {
	var archive, requires, imports, old strings.Builder
	file := func(name, format string, args ...any) {
		fmt.Fprintf(&archive, "-- %s --\n"+format, append([]any{name}, args...)...)
	}
	for i := range programSize {
		leaf, next, mid := fmt.Sprintf("leaf.example/%d", i), fmt.Sprintf("leaf.example/%d", (i+1)%programSize), fmt.Sprintf("mid.example/%d", i)
		for _, version := range []string{"v0.9.0", "v1.0.0", "v1.1.0"} {
			file(leaf+"@"+version+"/go.mod", "module %s\ngo 1.24\n", leaf)
			file(leaf+"@"+version+"/a.go", "package leaf\n")
		}
		file(mid+"@v1.0.0/go.mod", "module %s\ngo 1.24\nrequire %s v1.1.0\nrequire %s v1.0.0\n", mid, leaf, next)
		file(mid+"@v1.0.0/a.go", "package mid\nimport _ %q\n", leaf)
		fmt.Fprintf(&requires, "\t%s v1.1.0 // indirect\n\t%s v1.0.0\n", leaf, mid)
		fmt.Fprintf(&imports, "import _ %q\n", mid)
		fmt.Fprintf(&old, "\t%s v0.9.0\n", leaf)
	}
	file("old.example/a@v1.0.0/go.mod", "module old.example/a\ngo 1.16\nrequire (\n\told.example/b v1.0.0\n%s)\n", old.String())
	file("old.example/a@v1.0.0/a.go", "package old\n")
	file("old.example/b@v1.0.0/go.mod", "module old.example/b\ngo 1.24\nrequire old.example/c v1.0.0\n")
	file("old.example/b@v1.0.0/a.go", "package old\n")
	file("old.example/c@v1.0.0/go.mod", "module old.example/c\ngo 1.24\n")
	file("old.example/c@v1.0.0/a.go", "package old\n")
	world.Add(archive.String())
	return map[string]string{
		"go.mod":  "module main.example\n\ngo 1.24\n\nrequire (\n" + requires.String() + "\told.example/a v1.0.0\n)\n",
		"main.go": "package main\n\n" + imports.String() + "import _ \"old.example/a\"\n\nfunc main() {}\n",
	}
}

// goCommand runs a go command without a cache in a directory with files.
func goCommand(t *testing.T, dir, goproxy, gosumdb string, args ...string) {
	t.Helper()
	path := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOENV=off", "GOFLAGS=-modcacherw -mod=mod", "GOPROXY="+goproxy, "GOSUMDB="+gosumdb, "GOPRIVATE=", "GONOPROXY=", "GONOSUMDB=",
		"GOTOOLCHAIN=local", "GOWORK=off", "GOPATH="+path, "GOMODCACHE="+filepath.Join(path, "mod"), "GOMAXPROCS=2")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// watched counts the requests of clients, and how many were for what was fetched or begun before.
type watched struct {
	mu    sync.Mutex
	asked map[string]bool
	begun int
}

func (w *watched) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(rw, r)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked[strings.TrimPrefix(r.URL.Path, "/")] = true
		if status := rw.Header().Get("Cache-Status"); isFile(r.URL.Path) && (strings.HasSuffix(status, "hit") || strings.HasSuffix(status, "collapsed")) {
			w.begun++
		}
	})
}

// isFile reports whether a path is of an .info, a go.mod or a zip.
func isFile(path string) bool {
	return slices.Contains([]string{".info", ".mod", ".zip"}, filepath.Ext(path)) && !strings.Contains(path, "sumdb/")
}

// The real go command requests what was predicted: for commands that download everything most of it was
// begun before, for others each fetched zip is requested.
func TestPredictGoCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command string
		begun   float64 // at least, of the files that it requests
		wasted  float64 // at most, of the files that are fetched
	}{
		{"mod download", 0.5, 0.1},
		{"build -o /dev/null .", 0.4, 0},
		{"list -m -u all", 0, 0.1},
		{"list -m all", 0, 0.1},
		{"get mid.example/3@latest", 0, 0.1},
		{"mod graph", 0, 0.1},
	} {
		t.Run(c.command, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			dir, args := t.TempDir(), strings.Fields(c.command)
			for name, content := range program(world) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			goCommand(t, dir, world.URL("ok"), world.GOSUMDB(), args...) // writes go.sum
			far := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Millisecond) // the upstream is far away
				world.ServeHTTP(rw, r)
			}))
			defer far.Close()
			f := start(t, world, far.URL+"/ok", predicting())
			w := &watched{asked: map[string]bool{}}
			front := httptest.NewServer(w.handler(f.server))
			defer front.Close()
			world.ResetCounts()
			goCommand(t, dir, front.URL, world.GOSUMDB(), args...)
			front.Close()
			eventually(t, "nothing is fetched any more", func() bool {
				return f.objects().Running == 0 && f.server.Content().Places()["zips"].Stats().Running == 0
			})

			files := func(paths []string) (of []string) {
				for _, path := range paths {
					if isFile(path) {
						of = append(of, path)
					}
				}
				return of
			}
			fetched, asked := files(world.Paths()), files(slices.Collect(maps.Keys(w.asked)))
			wasted := slices.DeleteFunc(slices.Clone(fetched), func(path string) bool { return w.asked[path] })
			for _, path := range wasted {
				if strings.HasSuffix(path, ".zip") {
					t.Errorf("%s was fetched, and not requested", path)
				}
			}
			for _, path := range fetched {
				if n := world.Count(path); n != 1 {
					t.Errorf("%s was fetched %d times", path, n)
				}
			}
			if share := float64(len(wasted)) / float64(len(fetched)); share > c.wasted {
				t.Errorf("%.2f of the fetched files were not requested, want at most %.2f: %q", share, c.wasted, wasted)
			}
			if share := float64(w.begun) / float64(len(asked)); share < c.begun {
				t.Errorf("%.2f of %d requested files were begun before, want %.2f", share, len(asked), c.begun)
			} else {
				t.Logf("%.2f of %d requested files were begun before, %d of %d wasted", share, len(asked), len(wasted), len(fetched))
			}
		})
	}
}
