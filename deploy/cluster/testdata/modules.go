package main

import (
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// part is one half of the modules: the first is for the go commands that nothing disturbs.
type part struct {
	name    string
	public  []*mod
	private []*mod // all versions
}

// mod is a version of a module. Its package has a function Value, whose result depends on each module below it.
type mod struct {
	module.Version
	below []*mod
	value uint64
}

// modules are all modules of the test, the same ones for one seed.
type modules struct {
	world *proxytest.World
	parts map[string]*part
}

// versions is how many a private module has.
const versions = 3

// newModules makes the modules.
func newModules() *modules {
	m := &modules{world: proxytest.NewWith(tb{}, proxytest.Database), parts: map[string]*part{}}
	m.world.Log.Fill(700) // a log that has full tiles
	random := rand.New(rand.NewPCG(uint64(number("SEED")), 1))
	for _, name := range []string{"quiet", "disturbed"} {
		p := &part{name: name}
		m.parts[name] = p
		for i := range number("MODULES") {
			v := &mod{Version: module.Version{Path: fmt.Sprintf("example.com/%s/m%d", name, i), Version: "v1.0.0"}}
			for range min(i, 3) {
				if other := p.public[random.IntN(i)]; !slices.Contains(v.below, other) {
					v.below = append(v.below, other)
				}
			}
			v.value = random.Uint64()
			for _, other := range v.below {
				v.value += other.value
			}
			p.public = append(p.public, v)
			m.world.AddModule(v.Version, append(v.files(), txtar.File{Name: "data", Data: data(random, i)}))
		}
		for i := range number("PRIVATE") {
			for minor := range versions {
				version := module.Version{Path: fmt.Sprintf("corp.example/%s%d.git", name, i), Version: fmt.Sprintf("v1.%d.0", minor)}
				p.private = append(p.private, &mod{Version: version, value: random.Uint64()})
			}
		}
	}
	return m
}

// data returns bytes that cannot be compressed: mostly some kilobytes, and now and then megabytes.
func data(random *rand.Rand, i int) []byte {
	size := 1000 + random.IntN(60_000)
	if i%30 == 7 {
		size = 2_000_000 + random.IntN(3_000_000)
	}
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = byte(random.Uint32())
	}
	return bytes
}

// files are those that the go command reads.
func (v *mod) files() []txtar.File {
	var mod, code strings.Builder
	fmt.Fprintf(&mod, "module %s\n\ngo 1.21\n", v.Path)
	fmt.Fprintf(&code, "package m\n")
	sum := v.value
	for i, other := range v.below {
		fmt.Fprintf(&mod, "\nrequire %s %s\n", other.Path, other.Version.Version)
		fmt.Fprintf(&code, "\nimport m%d %q\n", i, other.Path)
		sum -= other.value
	}
	fmt.Fprintf(&code, "\nfunc Value() uint64 {\n\tsum := uint64(%d)\n", sum)
	for i := range v.below {
		fmt.Fprintf(&code, "\tsum += m%d.Value()\n", i)
	}
	fmt.Fprintf(&code, "\treturn sum\n}\n")
	return []txtar.File{{Name: "go.mod", Data: []byte(mod.String())}, {Name: "m.go", Data: []byte(code.String())}}
}

// withBelow adds a module, and all modules that it needs, to a set.
func (v *mod) withBelow(set map[*mod]bool) {
	if !set[v] {
		set[v] = true
		for _, other := range v.below {
			other.withBelow(set)
		}
	}
}

// repositories writes a repository for each private module, with a tag for each version.
func (m *modules) repositories(dir string) error {
	work, err := os.MkdirTemp(dir, "work")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, p := range m.parts {
		for _, v := range p.private {
			name := strings.TrimPrefix(v.Path, "corp.example/")
			bare, checkout := filepath.Join(dir, name), filepath.Join(work, name)
			if v.Version.Version == "v1.0.0" {
				if err := git(dir, "init", "-q", "--bare", "-b", "main", bare); err != nil {
					return err
				}
				if err := git(dir, "init", "-q", "-b", "main", checkout); err != nil {
					return err
				}
			}
			for _, f := range v.files() {
				if err := os.WriteFile(filepath.Join(checkout, f.Name), f.Data, 0o644); err != nil {
					return err
				}
			}
			for _, args := range [][]string{
				{"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@corp.example", "commit", "-q", "-m", v.Version.Version},
				{"tag", v.Version.Version}, {"push", "-q", bare, "main", v.Version.Version},
			} {
				if err := git(checkout, args...); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func git(dir string, args ...string) error {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// upstream serves the modules below /ok, and at /-/counts how often each object was requested since the last time.
func upstream(m *modules) error {
	mux := http.NewServeMux()
	mux.Handle("/ok/", m.world)
	mux.HandleFunc("/-/counts", func(w http.ResponseWriter, _ *http.Request) {
		counts := map[string]int{}
		for _, path := range m.world.Paths() {
			counts[path] = m.world.Count(path)
		}
		m.world.ResetCounts()
		if err := json.NewEncoder(w).Encode(counts); err != nil {
			log.Print(err)
		}
	})
	return http.ListenAndServe(":8080", mux)
}

// tb ends the program where a test would fail.
type tb struct{ testing.TB }

func (tb) Helper()                      {}
func (tb) Cleanup(func())               {}
func (tb) Fatal(args ...any)            { log.Fatal(args...) }
func (tb) Fatalf(f string, args ...any) { log.Fatalf(f, args...) }
func (tb) Errorf(f string, args ...any) { log.Fatalf(f, args...) }
