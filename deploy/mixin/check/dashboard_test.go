// Package check_test checks the dashboard against Grafana's schema. It is a module of its own, because
// the program does not depend on Grafana's types.
package check_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// readDashboard returns the built dashboard, and makes the types of its panels and queries known.
func readDashboard(t *testing.T) []byte {
	t.Helper()
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	data, err := os.ReadFile("../out/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// strict returns what the schema does not allow: UnmarshalJSONStrict returns an error that lists
// nothing if all is well.
func strict(data []byte) error {
	var d dashboard.Dashboard
	err := d.UnmarshalJSONStrict(data)
	var list cog.BuildErrors
	if errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}

// The dashboard has all fields that Grafana requires, and no others.
func TestSchema(t *testing.T) {
	data := readDashboard(t)
	if err := strict(data); err != nil {
		t.Error(err)
	}
	for _, field := range []string{"templating", "colorMode", "legendFormat", "gridPos", "showPoints", "includeAll"} {
		wrong := bytes.Replace(data, []byte(`"`+field+`"`), []byte(`"wrong"`), 1)
		if bytes.Equal(wrong, data) || strict(wrong) == nil {
			t.Errorf("%s can be another field", field)
		}
	}
}

// Each panel has a title, a description and a place of its own.
func TestPanels(t *testing.T) {
	var d dashboard.Dashboard
	if err := json.Unmarshal(readDashboard(t), &d); err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	taken := map[[2]uint32]string{}
	for _, p := range d.Panels {
		if p.Panel == nil {
			continue // a row
		}
		title, at := *p.Panel.Title, p.Panel.GridPos
		if title == "" || *p.Panel.Description == "" || len(p.Panel.Targets) == 0 {
			t.Errorf("the panel %q has no title, no description or no query", title)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other := taken[[2]uint32{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q is at %d, %d, where %q is", title, x, y, other)
				}
				taken[[2]uint32{x, y}] = title
			}
		}
	}
	if len(taken) == 0 {
		t.Error("there are no panels")
	}
}
