// Command schemas writes JSON schemas for kubeconform, one for each kind, from what Go modules have: the
// description of the Kubernetes API (swagger.json), and definitions of other kinds (CustomResourceDefinition):
//
//	go run testdata/schemas.go OUT swagger.json DEFINITION.yaml...
//
// Like the API server's strict validation, a schema refuses fields that it does not name.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

type schema = map[string]any

func main() {
	out := os.Args[1]
	for _, name := range os.Args[2:] {
		data, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		var document schema
		if err := yaml.Unmarshal(data, &document); err != nil { // JSON is YAML
			log.Fatalf("%s: %v", name, err)
		}
		if definitions, ok := document["definitions"].(schema); ok {
			err = api(out, definitions)
		} else if document["kind"] == "CustomResourceDefinition" {
			err = custom(out, document["spec"].(schema))
		}
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
	}
}

// api writes the schemas of the kinds that the Kubernetes API has.
func api(out string, definitions schema) error {
	for name, text := range map[string]string{
		"io.k8s.apimachinery.pkg.api.resource.Quantity":   `{"type": ["string", "number"]}`,
		"io.k8s.apimachinery.pkg.util.intstr.IntOrString": `{"type": ["string", "integer"]}`,
		"io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1":   `{"type": "object"}`,
		"io.k8s.apimachinery.pkg.runtime.RawExtension":    `{"type": "object"}`,
	} {
		var s schema
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return err
		}
		definitions[name] = s
	}
	for _, d := range definitions {
		strict(d.(schema))
	}
	for name, d := range definitions {
		kinds, _ := d.(schema)["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue // options and the like, which belong to all groups
		}
		kind := kinds[0].(schema)
		s := maps.Clone(d.(schema))
		used := schema{}
		collect(used, definitions, name)
		s["definitions"] = used
		if err := write(out, kind["group"].(string), kind["version"].(string), kind["kind"].(string), s); err != nil {
			return err
		}
	}
	return nil
}

// collect adds a definition, and those to which it refers.
func collect(used, definitions schema, name string) {
	if used[name] != nil {
		return
	}
	used[name] = definitions[name]
	var references func(value any)
	references = func(value any) {
		switch value := value.(type) {
		case schema:
			if ref, ok := value["$ref"].(string); ok {
				collect(used, definitions, strings.TrimPrefix(ref, "#/definitions/"))
			}
			for _, v := range value {
				references(v)
			}
		case []any:
			for _, v := range value {
				references(v)
			}
		}
	}
	references(definitions[name])
}

// custom writes the schemas of a kind that a CustomResourceDefinition adds.
func custom(out string, spec schema) error {
	for _, v := range spec["versions"].([]any) {
		version := v.(schema)
		s := version["schema"].(schema)["openAPIV3Schema"].(schema)
		strict(s)
		if err := write(out, spec["group"].(string), version["name"].(string), spec["names"].(schema)["kind"].(string), s); err != nil {
			return err
		}
	}
	return nil
}

// strict refuses the fields that a schema does not name. Parts such as anyOf name only some of the fields.
func strict(s schema) {
	properties, _ := s["properties"].(schema)
	for _, p := range properties {
		strict(p.(schema))
	}
	for _, part := range []string{"items", "additionalProperties"} {
		if p, ok := s[part].(schema); ok {
			strict(p)
		}
	}
	if properties != nil && s["additionalProperties"] == nil && s["x-kubernetes-preserve-unknown-fields"] != true {
		s["additionalProperties"] = false
	}
}

// write writes the schema of a kind under the name by which kubeconform looks for it, which has no upper case:
// the schema itself says how the kind is written.
func write(out, group, version, kind string, s schema) error {
	properties := maps.Clone(s["properties"].(schema))
	properties["kind"] = schema{"enum": []string{kind}} // kubeconform reads draft 4, which has no const
	s["properties"] = properties
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	name := kind + "-" + version
	if group != "" {
		group, _, _ = strings.Cut(group, ".")
		name = fmt.Sprintf("%s-%s-%s", kind, group, version)
	}
	return os.WriteFile(filepath.Join(out, strings.ToLower(name)+".json"), data, 0o644)
}
