package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// property is the schema of one setting, in keywords that draft-07 and draft 2020-12 of JSON Schema have in common: the
// chart of Helm uses the former, because older versions of Helm know nothing else.
type property struct {
	Type        string   `json:"type"`
	Description string   `json:"description"`
	Default     any      `json:"default"`
	Enum        []string `json:"enum,omitempty"`
	Minimum     *int     `json:"minimum,omitempty"`
	Maximum     *int     `json:"maximum,omitempty"`
	Pattern     string   `json:"pattern,omitempty"`
}

// durationPattern matches what time.ParseDuration accepts and is not negative.
const durationPattern = `^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`

// Schema returns the JSON Schema of a setting in the file, in one line.
func (s Setting) Schema() string {
	p := property{Type: "string", Description: s.Help, Default: s.Default, Enum: s.Enum}
	switch {
	case s.field.Type == reflect.TypeFor[time.Duration]():
		p.Pattern = durationPattern
	case s.field.Type == reflect.TypeFor[Size]():
		p.Pattern = sizePattern
	case s.field.Type.Kind() == reflect.Bool:
		p.Type, p.Default = "boolean", s.Default == "true"
	case s.field.Type.Kind() == reflect.Int:
		p.Type, p.Minimum, p.Maximum = "integer", &s.Min, &s.Max
		p.Default, _ = strconv.Atoi(s.Default) // a test has loaded it
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(p) // texts and numbers always have a form in JSON
	return strings.TrimSpace(b.String())
}

// WriteSchema writes the JSON Schema of the file, with a line for each setting.
func WriteSchema(w io.Writer) error {
	var lines []string
	for _, s := range Settings() {
		lines = append(lines, fmt.Sprintf("    %q: %s", s.TOML(), s.Schema()))
	}
	_, err := fmt.Fprintf(w, `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Assay",
  "description": "The settings of assay serve, in a TOML file that --config or ASSAY_CONFIG names.",
  "type": "object",
  "additionalProperties": false,
  "properties": {
%s
  }
}
`, strings.Join(lines, ",\n"))
	return err
}
