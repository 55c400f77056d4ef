package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/spf13/pflag"

	main "github.com/assay-proxy/assay/cmd/assay"
	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

// run returns what a command prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := main.NewCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// compileSchema compiles a schema by the draft that it names.
func compileSchema(t *testing.T, text string) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("assay.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("assay.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate checks a file of settings against the schema.
func validate(t *testing.T, schema *jsonschema.Schema, file string) error {
	t.Helper()
	var values map[string]any
	if err := toml.Unmarshal([]byte(file), &values); err != nil {
		t.Fatalf("%v:\n%s", err, file)
	}
	data, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(document)
}

// load reads a file of settings as the program does.
func load(t *testing.T, file string) error {
	t.Helper()
	name := filepath.Join(t.TempDir(), "assay.toml")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(variable string) string {
		return map[string]string{"ASSAY_CONFIG": name}[variable]
	})
	return err
}

// The schema and the program agree about files.
func TestSchemaAgrees(t *testing.T) {
	t.Parallel()
	text := run(t, "config", "schema")
	if !strings.Contains(text, `"$schema": "https://json-schema.org/draft/2020-12/schema"`) {
		t.Errorf("the schema is of another draft:\n%.200s", text)
	}
	schema := compileSchema(t, text)
	for file, valid := range map[string]bool{
		"": true,
		"listen = \":3000\"\naccess_log = false\nfills = 3\nfresh = \"1m30s\"": true,
		"upstrem = \"off\"":               false,
		"log-level = \"info\"":            false, // the name of the flag
		"[listen]\naddress = \":3000\"":   false,
		"listen = 3000":                   false,
		"access_log = \"false\"":          false,
		"fills = \"3\"":                   false,
		"fills = 3.5":                     false,
		"fills = 0":                       false,
		"fills = -1":                      false,
		"fills = 1073741824":              true,
		"fills = 1073741825":              false,
		"store_limit = 0":                 true,
		"store_limit = -1":                false,
		"memory_budget = 143":             false,
		"memory_budget = 144":             true,
		"breaker_share = 100":             true,
		"breaker_share = 101":             false,
		"access_log_sample = 0":           false,
		"access_log_sample = 1":           true,
		"log_level = \"loud\"":            false,
		"log_format = \"xml\"":            false,
		"fresh = 60":                      false,
		"fresh = \"60\"":                  false,
		"fresh = \"1 minute\"":            false,
		"fresh = \"-1m\"":                 false,
		"fresh = \"1.5h\"":                true,
		"fresh = \".5h1.m2us3µs4μs5ns\"":  true,
		"shutdown_delay = \"0\"":          true,
		"shutdown_delay = \"+1h0m0.25s\"": true,
	} {
		loaded, validated := load(t, file), validate(t, schema, file)
		if (loaded == nil) != valid || (validated == nil) != valid {
			t.Errorf("%q: the program says %v, the schema %v", file, loaded, validated)
		}
	}
	// Each default and each word is one that the program accepts, and no other word is.
	for _, s := range config.Settings() {
		file := s.TOML() + " = " + s.TOMLDefault()
		if loaded, validated := load(t, file), validate(t, schema, file); loaded != nil || validated != nil {
			t.Errorf("%s: the program says %v, the schema %v", file, loaded, validated)
		}
		for _, word := range append(s.Enum, "other") {
			file := s.TOML() + " = \"" + word + "\""
			if len(s.Enum) > 0 && (load(t, file) == nil) != slices.Contains(s.Enum, word) {
				t.Errorf("%s: the program says %v", file, load(t, file))
			}
		}
		if s.Name == "memory-budget" && s.Min != config.LeastMemory {
			t.Errorf("the schema has %d MiB for the smallest budget, the program %d", s.Min, config.LeastMemory)
		}
	}
}

// The files of settings in the documents and in the forms of deployment are valid, and so is what
// assay config prints. The schema of the chart accepts the values that its tests use; helm checks
// that with the same library.
func TestSchemaExamples(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t, run(t, "config", "schema"))
	examples := map[string]string{"what assay config prints": run(t, "config")}
	pages, err := filepath.Glob(docsDir + "*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		for _, block := range tomlBlocks(assaytest.ReadDoc(t, page)) {
			examples[page+":\n"+block] = block
		}
	}
	release := assaytest.ReadDoc(t, "../../deploy/release/assay.toml")
	examples["deploy/release/assay.toml"] = regexp.MustCompile(`(?m)^# (\w+ = )`).ReplaceAllString(release, "$1") // with its examples
	chart := assaytest.ReadDoc(t, "../../deploy/kubernetes/assay.yaml")
	_, block, _ := strings.Cut(chart, "\n  assay.toml: |\n")
	block, _, _ = strings.Cut(block, "\n---")
	examples["deploy/kubernetes/assay.yaml"] = block
	settings := 0
	for name, file := range examples {
		if err := validate(t, schema, file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := load(t, file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		settings += strings.Count(file, " = ")
	}
	if len(examples) < 5 || settings < len(config.Settings())+10 {
		t.Errorf("found only %d examples with %d settings, which cannot be", len(examples), settings)
	}
}

// tomlBlocks returns those indented blocks of a document that are TOML with a setting and no tables:
// files of settings, and not those with credentials or issuers.
func tomlBlocks(text string) []string {
	known := map[string]bool{}
	for _, s := range config.Settings() {
		known[s.TOML()] = true
	}
	var blocks []string
	for block := range strings.SplitSeq(text, "\n\n") {
		if !strings.HasPrefix(block, "    ") {
			continue
		}
		block = regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, "")
		var values map[string]any
		if err := toml.Unmarshal([]byte(block), &values); err != nil {
			continue
		}
		for key := range values {
			if known[key] {
				blocks = append(blocks, block)
				break
			}
		}
	}
	return blocks
}

// The chart's schema is one that helm can read, and has the settings as they are here.
func TestSchemaChart(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t, assaytest.ReadDoc(t, chartDir+"values.schema.json"))
	for values, valid := range map[string]bool{
		`{"config": {"log_level": "debug", "fills": 3, "upstream": "off"}}`:   true,
		`{"config": {"log_level": "loud"}}`:                                   false,
		`{"config": {"fills": 0}}`:                                            false,
		`{"config": {"listen": ":3000"}}`:                                     false,
		`{"secrets": {"upstream_file": {"existingSecret": "a", "key": "b"}}}`: true,
	} {
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(values))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); (err == nil) != valid {
			t.Errorf("%s: %v", values, err)
		}
	}
}
