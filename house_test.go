// Package assay_test holds the rules of the house: what may import what, and
// that each package says what it is for. It reads the files themselves, because
// a test that asked the go command would keep passing from the test cache.
package assay_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

const modulePath = "github.com/assay-proxy/assay/"

// arrows is the table of docs/design/README.md: what of ours each package may
// import. Tests may import anything.
var arrows = map[string][]string{
	"access":               {"internal/durable", "internal/panics", "internal/text", "internal/watch"},
	"cmd/assay":            {"access", "cmd/assay/admin", "cmd/assay/config", "cmd/assay/daemon", "proxy/content", "proxy/modzip", "storage", "storage/bolt", "storage/news", "storage/s3", "sumdb/pinlog"},
	"cmd/assay/admin":      {"internal/durable", "proxy/content", "storage", "storage/budget", "storage/news", "sumdb", "sumdb/pinlog"},
	"cmd/assay/assaytest":  {},
	"cmd/assay/config":     {"proxy/fetch"},
	"cmd/assay/daemon":     {"access", "cmd/assay/admin", "cmd/assay/config", "internal/descriptors", "internal/durable", "internal/memory", "internal/spans", "internal/text", "internal/watch", "proxy", "proxy/content", "proxy/fetch", "proxy/privacy", "proxy/request", "proxy/vcs", "storage", "storage/bolt", "storage/budget", "storage/news", "storage/s3", "storage/tiered", "sumdb", "sumdb/pinlog"},
	"cmd/bench":            {"access", "proxy/vcs/vcstest", "storage", "storage/bolt", "sumdb/sumdbtest"},
	"internal/panics":      {},
	"internal/parallel":    {},
	"internal/bindings":    {"storage", "storage/news"},
	"internal/descriptors": {},
	"internal/durable":     {},
	"internal/egress":      {},
	"internal/evidence":    {"internal/durable"},
	"internal/flight":      {"internal/panics", "internal/places", "internal/spans"},
	"internal/memo":        {},
	"internal/memory":      {},
	"internal/notfound":    {},
	"internal/places":      {},
	"internal/spans":       {},
	"internal/text":        {},
	"internal/watch":       {},
	"proxy":                {"access", "internal/bindings", "internal/descriptors", "internal/memory", "internal/panics", "internal/places", "internal/spans", "internal/text", "proxy/content", "proxy/content/gate", "proxy/fetch", "proxy/modzip", "proxy/privacy", "proxy/request", "proxy/vcs", "storage", "sumdb", "sumdb/pinlog"},
	"proxy/content":        {"internal/bindings", "internal/evidence", "internal/flight", "internal/memo", "internal/memory", "internal/notfound", "internal/panics", "internal/places", "internal/spans", "internal/text", "proxy/content/gate", "proxy/fetch", "proxy/modzip", "proxy/predict", "proxy/privacy", "proxy/request", "proxy/vcs", "storage", "storage/news", "sumdb", "sumdb/pinlog"},
	"proxy/content/gate":   {"proxy/fetch", "proxy/privacy", "proxy/vcs", "storage", "sumdb", "sumdb/pinlog"},
	"proxy/fetch":          {"internal/descriptors", "internal/egress", "internal/memo", "internal/memory", "internal/notfound", "internal/spans"},
	"proxy/modzip":         {"internal/panics"},
	"proxy/predict":        {"internal/memo", "proxy/request"},
	"proxy/privacy":        {},
	"proxy/proxytest":      {"sumdb/sumdbtest"},
	"proxy/request":        {"sumdb"},
	"proxy/vcs":            {"internal/descriptors", "internal/egress", "internal/flight", "internal/memo", "internal/memory", "internal/notfound", "internal/panics", "internal/places", "internal/spans", "proxy/vcs/credential", "proxy/vcs/guard"},
	"proxy/vcs/credential": {"internal/descriptors", "internal/egress", "internal/notfound", "internal/panics", "proxy/vcs/guard"},
	"proxy/vcs/guard":      {"internal/descriptors", "internal/egress", "internal/notfound"},
	"proxy/vcs/vcstest":    {},
	"sumdb":                {"internal/evidence", "internal/flight", "internal/memo", "internal/memory", "internal/notfound", "internal/panics", "internal/spans", "storage", "storage/news"},
	"sumdb/pinlog":         {"internal/durable", "internal/memory", "internal/notfound", "storage", "sumdb"},
	"sumdb/sumdbtest":      {"internal/notfound"},
	"storage":              {},
	"storage/athens":       {"storage"},
	"storage/bolt":         {"internal/durable", "internal/memory", "storage"},
	"storage/budget":       {"storage"},
	"storage/news":         {"storage"},
	"storage/s3":           {"internal/memory", "storage"},
	"storage/s3/s3test":    {},
	"storage/storagetest":  {"storage"},
	"storage/tiered":       {"internal/flight", "internal/memory", "storage"},
}

// confined are modules that only these packages may import.
var confined = map[string][]string{
	"github.com/gomods/athens":     {"storage/athens"},
	"go.etcd.io/bbolt":             {"storage/bolt"},
	"github.com/go-chi/chi":        {"cmd/assay/daemon"},
	"github.com/spf13/cobra":       {"cmd/assay"},
	"github.com/BurntSushi/toml":   {"access", "cmd/assay/config", "cmd/assay/daemon"},
	"github.com/coreos/go-oidc":    {"access"},
	"github.com/coreos/go-systemd": {"cmd/assay/daemon"},
	"github.com/go-jose/go-jose":   {"proxy/vcs/credential"},
	"github.com/go-logr":           {"cmd/assay/daemon"},
	"github.com/aws":               {"storage/s3"},
	"go.opentelemetry.io/otel":     {"cmd/assay/daemon", "internal/spans"},
	"golang.org/x/crypto":          {"access", "proxy/vcs", "proxy/vcs/credential", "proxy/vcs/vcstest"},
	"os/exec":                      {"cmd/bench", "proxy/vcs", "proxy/vcs/vcstest", "storage/s3/s3test"},
}

// goFiles calls visit for each Go file that is not a test, with its package's
// folder.
func goFiles(t *testing.T, visit func(folder, name string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go"):
			visit(path.Dir(p), filepath.FromSlash(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestArrows(t *testing.T) {
	goFiles(t, func(folder, name string) {
		allowed, known := arrows[folder]
		if !known {
			t.Errorf("package %s is not in the table of arrows", folder)
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		for _, spec := range f.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(imported, modulePath); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which is not below it", name, ours)
			}
			for module, only := range confined {
				if strings.HasPrefix(imported, module) && !slices.Contains(only, folder) && folder != "storage/storagetest" {
					t.Errorf("%s imports %s, which is for %v alone", name, imported, only)
				}
			}
		}
	})
}

func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	goFiles(t, func(folder, name string) {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		documented[folder] = documented[folder] || f.Doc != nil
	})
	for folder, ok := range documented {
		if !ok {
			t.Errorf("package %s has no comment", folder)
		}
	}
}

// No package has an init, and only sentinels, tables and compiled expressions
// stand outside functions: nothing that changes.
func TestNoInit(t *testing.T) {
	goFiles(t, func(_, name string) {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			return
		}
		if strings.Contains(string(src), "\nfunc init()") {
			t.Errorf("%s has an init", name)
		}
	})
}

// Whether a module is private is a choice of its origin, made once: no function is told it.
func TestNoPrivateBool(t *testing.T) {
	goFiles(t, func(_, name string) {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			fn, ok := n.(*ast.FuncType)
			if !ok {
				return true
			}
			for _, field := range fn.Params.List {
				if kind, ok := field.Type.(*ast.Ident); !ok || kind.Name != "bool" {
					continue
				}
				for _, parameter := range field.Names {
					if lower := strings.ToLower(parameter.Name); strings.Contains(lower, "private") || strings.Contains(lower, "public") {
						t.Errorf("%s: a function has the parameter %s bool", name, parameter.Name)
					}
				}
			}
			return true
		})
	})
}

// Older versions of x/mod do not verify tiles and lookups (CVE-2026-56865,
// CVE-2026-56864). Athens stays where its storage interface is known.
func TestVersions(t *testing.T) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, r := range f.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	if v := versions["golang.org/x/mod"]; semver.Compare(v, "v0.42.0") < 0 {
		t.Errorf("golang.org/x/mod is %s, want at least v0.42.0", v)
	}
	if v := versions["github.com/gomods/athens"]; v != "v0.18.0" {
		t.Errorf("github.com/gomods/athens is %s, want exactly v0.18.0", v)
	}
	if len(f.Replace) > 0 {
		t.Error("go.mod has replace directives, so go install would not work")
	}
}

// Every test that docs/design/threats.md names exists.
func TestThreats(t *testing.T) {
	page, err := os.ReadFile("docs/design/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	err = fs.WalkDir(os.DirFS("."), ".", func(p string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(p), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				tests[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], "-") || strings.HasSuffix(strings.TrimSpace(cells[1]), " can") {
			continue
		}
		rows++
		named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 {
			t.Errorf("no test in the row %q", line)
		}
		for _, name := range named {
			if !tests[name[1]] {
				t.Errorf("%s, which the page names, does not exist", name[1])
			}
		}
	}
	if rows < 30 {
		t.Errorf("%d rows in the page, which is not what it was", rows)
	}
}
