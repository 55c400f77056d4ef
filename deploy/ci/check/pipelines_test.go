// Package check reads the pipelines in deploy/ci with the code of the CI systems.
package check

import (
	"os"
	"strings"
	"testing"

	"github.com/buildkite/go-pipeline"
	"github.com/drone/envsubst"
)

// variables are those of the machine that uploads a pipeline.
type variables map[string]string

func (v variables) Get(name string) (string, bool) {
	value, ok := v[name]
	return value, ok
}

func (v variables) Set(name, value string) { v[name] = value }

// The variables of the line for GOAUTH are still there after Buildkite has replaced those with one $.
func TestBuildkite(t *testing.T) {
	data, err := os.ReadFile("../buildkite.yml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Parse(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Interpolate(variables{"token": "expanded"}, false); err != nil {
		t.Fatal(err)
	}
	line, _ := p.Env.Get("GOAUTH")
	want := `sh -c "token=$(buildkite-agent oidc request-token --audience assay) && echo https://proxy.corp.example && echo && echo Authorization: Bearer $token && echo"`
	if line != want {
		t.Errorf("GOAUTH is\n%s, want\n%s", line, want)
	}
	if len(p.RemainingFields) != 0 {
		t.Errorf("unknown keys: %v", p.RemainingFields)
	}
	step, ok := p.Steps[0].(*pipeline.CommandStep)
	if !ok || len(p.Steps) != 1 || !strings.Contains(step.Command, "go test ./...") {
		t.Errorf("the steps are %v", p.Steps)
	}
}

// Drone replaces nothing in the line.
func TestDrone(t *testing.T) {
	data, err := os.ReadFile("../drone.yml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := envsubst.Eval(string(data), func(string) string { return "expanded" })
	if err != nil || text != string(data) {
		t.Errorf("Drone makes %v of it:\n%s", err, text)
	}
}
