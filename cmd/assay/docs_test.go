package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

var updateDocs = flag.Bool("update", false, "rewrite the generated documents")

const docsDir = "../../docs/"

func readDoc(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// compareDoc compares a document that is made of the code with what is there.
func compareDoc(t *testing.T, name, want string) {
	t.Helper()
	if *updateDocs {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readDoc(t, name); got != want {
		t.Errorf("%s is not what the code says; run go test ./cmd/assay -run Doc -update", name)
	}
}

func TestDocConfiguration(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- made by go test ./cmd/assay -run Doc -update; edit the struct config in cmd/assay/config.go -->

A setting comes from its flag, else from its environment variable, else from the file, else from the variable of
the go command that means the same, else it is the default. ` + "`assay config`" + ` prints the effective settings, in the
form of the file, with the origin of each.

The file is [TOML](https://toml.io) and has the keys below. Name it with ` + "`--config`" + ` or ` + "`ASSAY_CONFIG`" + `. An unknown key
is an error. SIGHUP reads everything again: what says *reload: yes* is then in force, the rest needs a restart. If
anything is wrong, the settings stay as they were and the log says why.

Durations are like ` + "`30s`, `5m`, `168h`" + `. Of GOPROXY in the environment only the part before ` + "`direct`" + ` counts: the
client still has the rest. GOPRIVATE, GONOPROXY and GONOSUMDB are joined.
`)
	for _, s := range settings() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.TOML(), s.Help)
		fmt.Fprintf(&b, "| flag | environment | file | default | reload |\n|---|---|---|---|---|\n")
		env := "`" + s.Env + "`"
		for _, name := range s.GoEnv {
			env += ", `" + name + "`"
		}
		reload := "no"
		if s.Reload {
			reload = "yes"
		}
		fmt.Fprintf(&b, "| `--%s` | %s | `%s = %s` | `%s` | %s |\n", s.Name, env, s.TOML(), tomlValue(s, s.Default), s.Default, reload)
	}
	text := strings.ReplaceAll(b.String(), "| `` |", "| none |")
	compareDoc(t, docsDir+"configuration.md", text)
}

// metricDescription is what a collector says of one of its series.
var metricDescription = regexp.MustCompile(`fqName: "([^"]*)", help: ("(?:[^"\\]|\\.)*"),.*? constLabels: \{(.*?)\}, variableLabels: \{(.*?)\}`)

func TestDocMetrics(t *testing.T) {
	world := proxytest.New(t)
	c := config{}
	for _, s := range settings() {
		if err := set(fieldOf(&c, s), s.Default); err != nil {
			t.Fatal(err)
		}
	}
	c.Data, c.Upstream, c.SumDB = t.TempDir(), world.URL("ok"), world.GOSUMDB()
	s := &server{config: c, log: newLogger(os.Stderr, c), self: viaName()}
	listener, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := s.open(t.Context(), origins{}, listener.Addr()); err != nil {
		t.Fatal(err)
	}
	defer s.close()

	collectors := slices.Concat(s.store.Metrics(), s.proxy.Metrics(), s.reloads.collectors(), s.upstream.Load().chain.Metrics(),
		newObserver(s.log).collectors(), []prometheus.Collector{buildInfo()})
	for _, m := range s.mirrors {
		collectors = append(collectors, m.Metrics()...)
	}
	lines := map[string]bool{}
	for _, collector := range collectors {
		descriptions := make(chan *prometheus.Desc, 100)
		collector.Describe(descriptions)
		close(descriptions)
		for d := range descriptions {
			found := metricDescription.FindStringSubmatch(d.String())
			if found == nil {
				t.Fatalf("%s", d)
			}
			help, err := strconv.Unquote(found[2])
			if err != nil {
				t.Fatal(err)
			}
			var labels []string
			for pair := range strings.SplitSeq(found[3]+","+found[4], ",") {
				if name, _, _ := strings.Cut(pair, "="); name != "" {
					labels = append(labels, "`"+name+"`")
				}
			}
			lines[fmt.Sprintf("| `%s` | %s | %s |\n", found[1], strings.Join(labels, ", "), help)] = true
		}
	}
	all := slices.Sorted(func(yield func(string) bool) {
		for line := range lines {
			if !yield(line) {
				return
			}
		}
	})
	name := docsDir + "metrics.md"
	before, _, ok := strings.Cut(readDoc(t, name), "<!-- series -->\n")
	if !ok {
		t.Fatalf("%s has no place for the series", name)
	}
	compareDoc(t, name, before+"<!-- series -->\n\n| series | labels | meaning |\n|---|---|---|\n"+strings.Join(all, ""))
}

// What the proxy can answer is in the catalogue, and nothing else is.
func TestDocErrors(t *testing.T) {
	answers := map[string]bool{}
	files, err := filepath.Glob("../../proxy/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if pair, ok := n.(*ast.KeyValueExpr); ok {
				if key, ok := pair.Key.(*ast.Ident); ok && key.Name == "what" {
					answers[firstText(pair.Value)] = true
				}
			}
			return true
		})
	}
	delete(answers, "")
	if len(answers) < 15 {
		t.Fatalf("found only %d answers in the code", len(answers))
	}
	documented := map[string]bool{}
	for line := range strings.Lines(readDoc(t, docsDir+"errors.md")) {
		if text, ok := strings.CutPrefix(line, "### `"); ok {
			documented[strings.TrimSuffix(strings.TrimSpace(text), "`")] = true
		}
	}
	for text := range answers {
		if !documented[text] {
			t.Errorf("docs/errors.md lacks ### `%s`", text)
		}
	}
	for text := range documented {
		if !answers[text] {
			t.Errorf("docs/errors.md has %q, the code does not", text)
		}
	}
}

// firstText returns the text with which an expression begins, without what is
// filled in.
func firstText(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value) // it was parsed
		text, _, _ = strings.Cut(text, "%")
		return strings.TrimRight(text, " :")
	case *ast.BinaryExpr:
		return firstText(e.X)
	case *ast.CallExpr:
		if len(e.Args) > 0 {
			return firstText(e.Args[0])
		}
	case *ast.SelectorExpr: // req.Module + " is private here …"
		return "MODULE is private here"
	}
	return ""
}

// The table of client settings has a row for each of the twelve combinations that
// the script tries.
func TestDocClients(t *testing.T) {
	script := readDoc(t, "testdata/script/matrix.txtar")
	clients := readDoc(t, docsDir+"clients.md")
	for i := 1; i <= 12; i++ {
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^# %d\. `, i)).MatchString(script) {
			t.Errorf("the script lacks combination %d", i)
		}
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|`, i)).MatchString(clients) {
			t.Errorf("docs/clients.md lacks combination %d", i)
		}
	}
}

// Flags that documents and packaging use are flags that there are.
func TestDocFlags(t *testing.T) {
	known := map[string]bool{"config": true, "repair": true, "help": true}
	for _, s := range settings() {
		known[s.Name] = true
	}
	use := regexp.MustCompile(`assay["', ]+(?:serve|verify|config|health)["', ]*[^\n]*`)
	flags := regexp.MustCompile(`--([a-z][a-z-]*)`)
	found := 0
	eachDocument(t, func(name, text string) {
		for _, line := range use.FindAllString(text, -1) {
			for _, f := range flags.FindAllStringSubmatch(line, -1) {
				found++
				if !known[f[1]] {
					t.Errorf("%s: no flag --%s, in %q", name, f[1], line)
				}
			}
		}
	})
	if found == 0 {
		t.Error("no document uses a flag, which cannot be")
	}
}

var (
	markdownLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownHeading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchors    = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Links inside of the tree lead somewhere.
func TestDocLinks(t *testing.T) {
	eachDocument(t, func(name, text string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, link := range markdownLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), filepath.FromSlash(path))
			}
			data, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); err != nil && (statErr != nil || !info.IsDir()) {
				t.Errorf("%s: dead link %s", name, link[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(data)), anchor) {
				t.Errorf("%s: no heading for %s", name, link[1])
			}
		}
	})
}

// anchors returns the anchors of a document's headings.
func anchors(text string) []string {
	var all []string
	for _, heading := range markdownHeading.FindAllStringSubmatch(text, -1) {
		anchor := notInAnchors.ReplaceAllString(strings.ToLower(heading[1]), "")
		all = append(all, strings.ReplaceAll(anchor, " ", "-"))
	}
	return all
}

// eachDocument calls visit for the documents and the packaging.
func eachDocument(t *testing.T, visit func(name, text string)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..":
			return fs.SkipDir
		case d.IsDir() || !slices.Contains([]string{".md", ".yml", ".service", ""}, filepath.Ext(name)):
			return nil
		}
		visit(name, readDoc(t, name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
