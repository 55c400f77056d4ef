package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestRatios(t *testing.T) {
	for _, tt := range []struct {
		r      ratios
		median float64
		text   string
	}{
		{ratios{1}, 1, "1.00 (1.00–1.00)"},
		{ratios{3, 1, 2}, 2, "2.00 (1.00–3.00)"},
		{ratios{4, 1, 2, 3}, 2.5, "2.50 (1.00–4.00)"},
	} {
		if got := tt.r.median(); got != tt.median || tt.r.String() != tt.text {
			t.Errorf("%v: median %v, %q", tt.r, got, tt.r.String())
		}
	}
	if r := (ratios{0.7, 0.8, 0.9}); !r.atLeast(0.8).met || r.atLeast(0.81).met || !r.atMost(0.8).met || r.atMost(0.79).met {
		t.Error("goals are compared with something else than the median")
	}
}

func TestPairs(t *testing.T) {
	var order []string
	side := func(name string, v float64) func() (float64, error) {
		return func() (float64, error) { order = append(order, name); return v, nil }
	}
	r, err := pairs(3, side("a", 6), side("b", 3))
	if err != nil || !slices.Equal(r, ratios{2, 2, 2}) {
		t.Errorf("%v, %v", r, err)
	}
	if got := strings.Join(order, ""); got != "abbaab" {
		t.Errorf("order %s", got)
	}
	broken := errors.New("broken")
	if _, err := pairs(1, side("a", 1), func() (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestReplaceTable(t *testing.T) {
	text := "# Title\n\n" + tableBegin + "old\n" + tableEnd + "\nrest\n"
	tbl := table{heading: "today"}
	tbl.add(measure{name: "n", against: "a", goal: "≥ 1"}, result{"2.00", true})
	tbl.add(measure{name: "m", goal: "< 1"}, result{"3", false})
	got, err := replaceTable(text, tbl.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Title\n\n" + tableBegin, "| n | a | ≥ 1 | 2.00 | yes |\n", "| m | – | < 1 | 3 | no |\n", tableEnd + "\nrest\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "old") {
		t.Error("the old table is still there")
	}
	if again, err := replaceTable(got, tbl.String()); err != nil || again != got {
		t.Errorf("a second time: %v", err)
	}
	if _, err := replaceTable("nothing", "x"); err == nil {
		t.Error("a file without a place was changed")
	}
}
