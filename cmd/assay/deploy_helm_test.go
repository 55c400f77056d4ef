package main_test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

const chartDir = "../../deploy/helm/assay/"

// chartSets are the settings that the chart itself sets. The value config cannot have them: a
// variable would overrule the file without a word.
var chartSets = []string{"listen", "metrics_listen", "data", "shutdown_delay", "shutdown_timeout", "tls_cert", "tls_key"}

// chartLacks are settings without a use in a pod that owns its volume.
var chartLacks = []string{"read_only"}

var (
	// The part of values.schema.json that describes the value config, and the settings that are
	// files from Secrets.
	schemaConfig = regexp.MustCompile(`(?ms)^    "config": \{$.*?^    \},$`)
	schemaSecret = regexp.MustCompile(`(?m)^        "(\w+)": \{"\$ref": "#/\$defs/file"\}`)
)

// The schema of the chart has every setting with the same schema as assay config schema, so that helm
// refuses what the server would refuse at its start.
func TestDocChart(t *testing.T) {
	t.Parallel()
	name := chartDir + "values.schema.json"
	schema := assaytest.ReadDoc(t, name)
	elsewhere := slices.Concat(chartSets, chartLacks)
	for _, match := range schemaSecret.FindAllStringSubmatch(schema, -1) {
		elsewhere = append(elsewhere, match[1])
	}
	var settings []string
	for _, s := range config.Settings() {
		if i := slices.Index(elsewhere, s.TOML()); i >= 0 {
			elsewhere = slices.Delete(elsewhere, i, i+1)
			continue
		}
		settings = append(settings, fmt.Sprintf("        %q: %s", s.TOML(), s.Schema()))
		if !s.Secret {
			continue
		}
		if i := slices.Index(elsewhere, s.TOML()+"_file"); i >= 0 { // its value can be a file from a Secret
			elsewhere = slices.Delete(elsewhere, i, i+1)
		} else {
			t.Errorf("the chart has no secrets.%s_file", s.TOML())
		}
	}
	if len(elsewhere) > 0 {
		t.Errorf("%v are no settings, but the chart has them", elsewhere)
	}
	part := schemaConfig.FindString(schema)
	if part == "" {
		t.Fatalf("%s has no config", name)
	}
	want := `    "config": {
      "type": "object",
      "additionalProperties": false,
      "properties": {
` + strings.Join(settings, ",\n") + `
      }
    },`
	assaytest.CompareDoc(t, name, strings.Replace(schema, part, want, 1), *updateDocs)
}

// The chart has copies of the rules, because a chart may have only files below its own directory.
func TestChartRules(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"alerts.yaml", "rules.yaml"} {
		built := "../../deploy/mixin/out/" + name
		if _, err := os.Stat(built); err != nil {
			t.Skip(err)
		}
		assaytest.CompareDoc(t, chartDir+"files/"+name, assaytest.ReadDoc(t, built), *updateDocs)
	}
}

// deploy/kubernetes/build needs helm, so a change of the rules is easily forgotten there.
func TestManifestRules(t *testing.T) {
	t.Parallel()
	type rules struct {
		Kind   string
		Groups []any
		Spec   struct{ Groups []any }
	}
	decode := func(name string) (all []rules) {
		for dec := yaml.NewDecoder(strings.NewReader(assaytest.ReadDoc(t, name))); ; {
			var r rules
			if err := dec.Decode(&r); err == io.EOF {
				return all
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = append(all, r)
		}
	}
	var want, got []any
	for _, name := range []string{"rules.yaml", "alerts.yaml"} {
		for _, r := range decode("../../deploy/mixin/out/" + name) {
			want = append(want, r.Groups...)
		}
	}
	for _, r := range decode("../../deploy/kubernetes/monitoring.yaml") {
		if r.Kind == "PrometheusRule" {
			got = append(got, r.Spec.Groups...)
		}
	}
	if diff := cmp.Diff(want, got); len(want) == 0 || diff != "" {
		t.Errorf("run deploy/kubernetes/build (-rules of deploy/mixin/out +deploy/kubernetes/monitoring.yaml):\n%s", diff)
	}
}
