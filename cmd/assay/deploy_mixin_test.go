package main_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

const (
	mixinDir   = "../../deploy/mixin/"
	runbook    = docsDir + "runbook.md"
	runbookURL = "https://github.com/assay-proxy/assay/blob/main/docs/runbook.md#"
)

var (
	metricRow     = regexp.MustCompile("(?m)^\\| `(assay_\\w+)` \\| (\\w+) \\| (.*?) \\|")
	metricUse     = regexp.MustCompile(`\b(assay_[a-z_]+)(?:\{([^}]*)\})?`)
	recordedUse   = regexp.MustCompile(`\bassay:[a-z_]+:?[a-z0-9_]*`)
	record        = regexp.MustCompile(`(?m)record: "(.*)"$`)
	labelMatch    = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	histogramPart = regexp.MustCompile(`_(?:bucket|sum|count)$`)
)

// Each metric in the dashboard, the alerts, the rules and their tests is one that the program has,
// with the labels that it has; what is read from a recording rule is recorded.
func TestDeployMixin(t *testing.T) {
	t.Parallel()
	labels := map[string]string{} // of each series
	for _, row := range metricRow.FindAllStringSubmatch(assaytest.ReadDoc(t, docsDir+"metrics.md"), -1) {
		labels[row[1]] = row[3] + "`job``instance`"
		if row[2] == "histogram" {
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				labels[row[1]+part] = labels[row[1]] + "`le`"
			}
		}
	}
	recorded := map[string]bool{}
	for _, found := range record.FindAllStringSubmatch(assaytest.ReadDoc(t, mixinDir+"out/rules.yaml"), -1) {
		recorded[found[1]] = true
	}
	used := map[string]bool{}
	files, err := filepath.Glob(mixinDir + "tests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, mixinDir+"out/dashboard.json", mixinDir+"out/alerts.yaml", mixinDir+"out/rules.yaml", docsDir+"monitoring.md", runbook) {
		text := assaytest.ReadDoc(t, name)
		for _, use := range metricUse.FindAllStringSubmatch(text, -1) {
			known, ok := labels[use[1]]
			if !ok {
				t.Errorf("%s: no series %s", name, use[1])
			}
			used[histogramPart.ReplaceAllString(use[1], "")] = true
			for _, label := range labelMatch.FindAllStringSubmatch(use[2], -1) {
				if !strings.Contains(known, "`"+label[1]+"`") {
					t.Errorf("%s: %s has no label %s", name, use[1], label[1])
				}
			}
		}
		for _, use := range recordedUse.FindAllString(text, -1) {
			if !recorded[use] {
				t.Errorf("%s: nothing records %s", name, use)
			}
		}
	}
	if len(used) < 40 || len(recorded) < 10 {
		t.Errorf("%d series and %d recorded ones in the files, which cannot be", len(used), len(recorded))
	}
}

var (
	alertRule = regexp.MustCompile(`(?m)^ +- alert: "(\w+)"\n(?: {8}.*\n)+`)
	alertTest = regexp.MustCompile(`alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:( \[\])?\n`)
)

// Each alert has a severity, a summary, and a section of the runbook that says what happened, what
// to look at and what to do; promtool tests that it fires, and that it does not. The runbook has no
// other sections, and a table of the alerts.
func TestDeployAlerts(t *testing.T) {
	t.Parallel()
	sections := strings.Split(assaytest.ReadDoc(t, runbook), "\n### ")
	parts := map[string]string{} // by the name of the alert
	for _, section := range sections[1:] {
		name, text, _ := strings.Cut(section, "\n")
		parts[name] = text
	}
	tested := map[string]bool{}
	files, err := filepath.Glob(mixinDir + "tests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		for _, test := range alertTest.FindAllStringSubmatch(assaytest.ReadDoc(t, name), -1) {
			tested[test[1]+test[2]] = true
		}
	}
	table := "\n| Alert | Severity | Summary |\n|---|---|---|\n"
	for _, rule := range alertRule.FindAllStringSubmatch(assaytest.ReadDoc(t, mixinDir+"out/alerts.yaml"), -1) {
		name := rule[1]
		severity, summary := valueOf(rule[0], "severity"), valueOf(rule[0], "summary")
		if !slices.Contains([]string{"critical", "warning"}, severity) || !strings.HasSuffix(summary, ".") {
			t.Errorf("%s has the severity %q and the summary %q", name, severity, summary)
		}
		if url := valueOf(rule[0], "runbook_url"); url != runbookURL+strings.ToLower(name) {
			t.Errorf("%s is explained at %s", name, url)
		}
		for _, what := range []string{"*What happened*: ", "*Look at*: ", "*What to do*: "} {
			if !strings.Contains(parts[name], what) {
				t.Errorf("the runbook does not say %sof %s", what, name)
			}
		}
		if !tested[name] || !tested[name+" []"] {
			t.Errorf("%s is tested to fire: %t, and not to fire: %t", name, tested[name], tested[name+" []"])
		}
		delete(parts, name)
		table += fmt.Sprintf("| [%s](#%s) | %s | %s |\n", name, strings.ToLower(name), severity, plainSummary(summary))
	}
	if len(parts) > 0 {
		t.Errorf("no alerts for these sections of the runbook: %v", slices.Sorted(maps.Keys(parts)))
	}
	const begin, end = "<!-- alerts:begin -->\n", "<!-- alerts:end -->"
	text := assaytest.ReadDoc(t, runbook)
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the runbook has no place for the table")
	}
	assaytest.CompareDoc(t, runbook, before+begin+table+"\n"+end+after, *updateDocs)
}

// valueOf returns the value of a key of a rule, in the form that jsonnet writes.
func valueOf(rule, key string) string {
	found := regexp.MustCompile(`(?m)^ +` + key + `: "(.*)"$`).FindStringSubmatch(rule)
	if found == nil {
		return ""
	}
	return found[1]
}

// plainSummary returns a summary with … for what Prometheus inserts.
func plainSummary(summary string) string {
	summary = regexp.MustCompile(`\{\{ with .*?\{\{ end \}\}`).ReplaceAllString(summary, "")
	return regexp.MustCompile(`\{\{.*?\}\}`).ReplaceAllString(summary, "…")
}
