package daemon

import (
	"context"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/tiered"
)

var updateDocs = flag.Bool("update", false, "rewrite the generated documents")

const docsDir = "../../../docs/"

// metricDescription matches the description of a series.
var metricDescription = regexp.MustCompile(`fqName: "([^"]*)", help: ("(?:[^"\\]|\\.)*"),.*? constLabels: \{(.*?)\}, variableLabels: \{(.*?)\}`)

func TestDocMetrics(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	c, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Data, c.Upstream, c.SumDB, c.Private = "127.0.0.1:0", t.TempDir(), world.URL("ok"), world.GOSUMDB(), "corp.example"
	c.DiskLimit = 1 << 30
	d := newDaemon(c, os.Stderr)
	defer d.log.Close()
	if err := d.listen(noLimit, nil); err != nil {
		t.Fatal(err)
	}
	defer d.listener.Close()
	if err := d.open(t.Context(), Options{}, config.Sources{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.proxy.Close(context.Background()); err != nil { // it still writes absences to the store
			t.Error(err)
		}
		d.close()
	}()

	handler := d.front.routes()
	for _, path := range []string{"/example.com/greet/@v/v1.2.0.zip", "/example.com/greet/@v/v1.2.0.mod", "/livez"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
	}

	collectors := slices.Concat(d.stores.metrics(), d.proxy.Metrics(), d.reloader.metrics.collectors(), d.current.load().metrics(),
		d.front.observer.collectors(), d.access.Metrics(),
		[]prometheus.Collector{buildInfo(""), d.log.lines.metrics(), d.listener.refused, newMemoryCollector(d.memory), newDiskCollector(c.Data), d.certificates.metrics()},
		bucketCollectors(t))
	lines, kinds := map[string]string{}, map[string]string{}
	for _, collector := range collectors {
		for name, text := range describe(t, collector) {
			kinds[name], _, _ = strings.Cut(text, " | ")
			lines[name] = text
		}
	}

	// A running server has no series that are not in the document.
	running := gather(t, d.registry)
	for name, kind := range running {
		switch {
		case strings.HasPrefix(name, "go_"), strings.HasPrefix(name, "process_"):
		case kinds[name] != kind:
			t.Errorf("the server has a %s %s, which is described as %q", kind, name, kinds[name])
		}
	}

	// Counters of rare events are there before the first one, which a rate would otherwise miss.
	for _, name := range []string{"assay_log_appends_total", "assay_sumdb_heads_total", "assay_vcs_runs_total", "assay_vcs_run_seconds"} {
		if running[name] == "" {
			t.Errorf("the server has no %s yet", name)
		}
	}

	var table strings.Builder
	table.WriteString("<!-- series -->\n\n| series | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&table, "| `%s` | %s |\n", name, lines[name])
	}
	name := docsDir + "metrics.md"
	before, _, ok := strings.Cut(assaytest.ReadDoc(t, name), "<!-- series -->\n")
	if !ok {
		t.Fatalf("%s has no place for the series", name)
	}
	assaytest.CompareDoc(t, name, before+table.String(), *updateDocs)
}

// bucketCollectors returns the collectors that a server has with a store in a bucket.
func bucketCollectors(t *testing.T) []prometheus.Collector {
	db, err := OpenBucket(t.Context(), config.Config{Store: "s3://bucket?endpoint=http://127.0.0.1:1"}, s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	local, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	store := tiered.New(t.Context(), tiered.Options{Local: local, Remote: db})
	t.Cleanup(func() { store.Close() })
	return append(store.Metrics(), news.New(db, nil).Metrics()...)
}

// describe returns type, labels and help of the series of a collector by name.
func describe(t *testing.T, collector prometheus.Collector) map[string]string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)
	kinds := gather(t, registry)
	series := map[string]string{}
	descriptions := make(chan *prometheus.Desc, 100)
	collector.Describe(descriptions)
	close(descriptions)
	for d := range descriptions {
		found := metricDescription.FindStringSubmatch(d.String())
		if found == nil {
			t.Fatalf("%s", d)
		}
		kind := kinds[found[1]]
		switch collector.(type) { // collectors that may have no series
		case *prometheus.CounterVec:
			kind = "counter"
		case *prometheus.HistogramVec:
			kind = "histogram"
		}
		if kind == "" {
			t.Fatalf("%s: of what type?", found[1])
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
		series[found[1]] = kind + " | " + strings.Join(labels, ", ") + " | " + help
	}
	return series
}

// gather returns the types of the series that have values in a registry.
func gather(t *testing.T, registry *prometheus.Registry) map[string]string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	return kinds
}

// The catalogue has every error of the proxy, with its status and an action, and no others.
func TestDocErrors(t *testing.T) {
	t.Parallel()
	answers := proxyAnswers(t)
	if len(answers) < 20 {
		t.Fatalf("found only %d answers in the code", len(answers))
	}
	answers["404 "+outside] = true
	answers["401 "+unauthorized], answers["503 "+crowded], answers["503 "+starting] = true, true, true
	documented := map[string]bool{}
	status := ""
	for section := range strings.SplitSeq(assaytest.ReadDoc(t, docsDir+"errors.md"), "\n#") {
		heading, body, _ := strings.Cut(section, "\n")
		if text, ok := strings.CutPrefix(heading, "# "); ok {
			status, _, _ = strings.Cut(text, ":")
			continue
		}
		text, ok := strings.CutPrefix(heading, "## `")
		if !ok {
			continue
		}
		answer := status + " " + strings.TrimSuffix(text, "`")
		documented[answer] = true
		if !strings.Contains(body, "*What to do*: ") {
			t.Errorf("docs/errors.md does not say what to do about %q", answer)
		}
	}
	for text := range answers {
		if !documented[text] {
			t.Errorf("docs/errors.md lacks %q", text)
		}
	}
	for text := range documented {
		if !answers[text] {
			t.Errorf("docs/errors.md has %q, the code does not", text)
		}
	}
}

// proxyAnswers returns the status and the first line of each failure in the source of package
// proxy, with … in place of values.
func proxyAnswers(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../../../proxy/*.go")
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if literal, ok := n.(*ast.CompositeLit); ok {
				if status, what := failureOf(literal); what != "" {
					answers[strconv.Itoa(status)+" "+what] = true
				}
			}
			return true
		})
	}
	return answers
}

// failureOf returns the status and the text of the literal of a failure, "" for other literals.
func failureOf(literal *ast.CompositeLit) (status int, what string) {
	for _, element := range literal.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		switch key, _ := pair.Key.(*ast.Ident); {
		case key == nil:
		case key.Name == "status":
			if s, ok := pair.Value.(*ast.SelectorExpr); ok {
				status = statusNames[s.Sel.Name]
			}
		case key.Name == "what":
			what = template(pair.Value)
		}
	}
	return status, what
}

// statusNames are the statuses of the proxy's errors.
var statusNames = map[string]int{
	"StatusNotFound": http.StatusNotFound, "StatusForbidden": http.StatusForbidden, "StatusMethodNotAllowed": http.StatusMethodNotAllowed,
	"StatusBadGateway": http.StatusBadGateway, "StatusServiceUnavailable": http.StatusServiceUnavailable,
	"StatusGatewayTimeout": http.StatusGatewayTimeout, "StatusLoopDetected": http.StatusLoopDetected,
	"StatusInternalServerError": http.StatusInternalServerError,
}

// template returns the text of an expression, with … in place of values.
func template(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value) // it was parsed
		return strings.ReplaceAll(text, "%s", "…")
	case *ast.BinaryExpr:
		return template(e.X) + template(e.Y)
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" {
			return template(e.Args[0])
		}
	}
	return "…"
}
