package main

import (
	"errors"
	"regexp"
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

func TestTurns(t *testing.T) {
	var order []string
	side := func(name string) func() (float64, error) {
		return func() (float64, error) { order = append(order, name); return float64(len(order)), nil }
	}
	values, err := turns(2, side("a"), side("b"), side("c"))
	if err != nil || strings.Join(order, "") != "abccba" {
		t.Errorf("order %v, %v", order, err)
	}
	if !slices.Equal(values[0], []float64{1, 6}) || !slices.Equal(values[1], []float64{2, 5}) || !slices.Equal(values[2], []float64{3, 4}) {
		t.Errorf("values %v", values)
	}
}

func TestReplaceTable(t *testing.T) {
	text := "# Title\n\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\n\nrest\n"
	tbl := &table{heading: "today"}
	tbl.add(measure{name: "n", against: "a", goal: "≥ 1"}, result{text: "2.00", met: true})
	tbl.add(measure{name: "m", goal: "< 1"}, result{text: "3"})
	tbl.add(measure{name: "upstream GETs", goal: "–"}, result{text: "4", none: true})
	got, err := tbl.replaceIn(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Title\n\n<!-- benchmarks:begin -->", "| n | a | ≥ 1 | 2.00 | yes |\n", "| m | – | < 1 | 3 | no |\n", "| upstream GETs | – | – | 4 | – |\n",
		"<!-- benchmarks:end -->\n\nrest\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "old") {
		t.Error("the old table is still there")
	}
	if again, err := tbl.replaceIn(got, nil); err != nil || again != got {
		t.Errorf("a second time: %v", err)
	}
	short, err := tbl.replaceIn(strings.ReplaceAll(text, "benchmarks:", "headlines:"), nil)
	if err != nil || !strings.Contains(short, "upstream GETs") || strings.Contains(short, "| n |") {
		t.Errorf("the short table is %q, %v", short, err)
	}
	if _, err := tbl.replaceIn("nothing", nil); err == nil {
		t.Error("a file without a place was changed")
	}
}

// A run that measures some lines leaves the others in the table, with the day of their measurement.
func TestReplaceKeeps(t *testing.T) {
	all := []measure{{name: "a", goal: "≥ 1"}, {name: "b", against: "x", goal: "≥ 1"}, {name: "b", against: "x, y", goal: "≥ 1"}, {name: "c", goal: "≥ 1"}}
	text := "<!-- benchmarks:begin -->\n\n2026-11-29, linux\n\n| measure | against |\n|---|---|\n" +
		"| a | – | ≥ 1 | 1 | yes |\n| b | x | ≥ 1 | 2 | yes |\n| gone | – | ≥ 1 | 3 | yes |\n| 2026-11-20: c | – | ≥ 1 | 4 | yes |\n\n<!-- benchmarks:end -->\n"
	for _, tt := range []struct {
		measured measure
		want     []string
	}{
		{all[0], []string{"| a | – | ≥ 1 | 5 | yes |", "| 2026-11-29: b | x | ≥ 1 | 2 | yes |", "| 2026-11-20: c | – | ≥ 1 | 4 | yes |"}},
		{all[2], []string{"| b | x, y | ≥ 1 | 5 | yes |", "| 2026-11-29: a | – | ≥ 1 | 1 | yes |", "| 2026-11-29: b | x | ≥ 1 | 2 | yes |", "| 2026-11-20: c | – | ≥ 1 | 4 | yes |"}},
		{all[3], []string{"| c | – | ≥ 1 | 5 | yes |", "| 2026-11-29: a | – | ≥ 1 | 1 | yes |", "| 2026-11-29: b | x | ≥ 1 | 2 | yes |"}},
	} {
		tbl := &table{heading: "2026-11-30, linux"}
		tbl.add(tt.measured, result{text: "5", met: true})
		got, err := tbl.replaceIn(text, all)
		if want := tbl.with(tt.want); err != nil || !strings.Contains(got, want) {
			t.Errorf("%v measured: %v\n%s\nwant\n%s", tt.measured, err, got, want)
		}
	}
}

// A short table and a quick run have lines, and a line is measured only if it is selected.
func TestSelected(t *testing.T) {
	b := &bench{machine: &machine{}}
	all := b.measures(program{}, program{})
	names := map[string]bool{}
	headlines, slow := 0, 0
	for _, m := range all {
		if names[m.String()] {
			t.Errorf("two lines are called %q", m)
		}
		names[m.String()] = true
		if m.headline() {
			headlines++
		}
		if m.slow() {
			slow++
		}
	}
	if headlines < 10 || headlines > 20 || slow < 10 || slow > len(all)/2 {
		t.Errorf("of %d lines %d are headlines and %d are slow", len(all), headlines, slow)
	}
	if some := selected(all, regexp.MustCompile("^time, cold, go.sum, 20 ms, against direct$")); len(some) != 1 {
		t.Errorf("selected %v", some)
	}
}

// A measure that needs a program that this machine lacks has a line that says so, and is no failure.
func TestAbsent(t *testing.T) {
	b := &bench{machine: &machine{ctx: t.Context()}}
	tbl, err := b.all([]measure{{"n", "a", "≥ 1", func() (result, error) { return result{}, absent("nginx") }}})
	if err != nil || !strings.Contains(tbl.String(), "| n | a | ≥ 1 | not measured: nginx is not there | – |") {
		t.Errorf("%v, %v", tbl, err)
	}
	broken := errors.New("broken\nin | two")
	if tbl, err := b.all([]measure{{"n", "a", "≥ 1", func() (result, error) { return result{}, broken }}}); !errors.Is(err, broken) || !strings.Contains(tbl.String(), "| not measured: broken in / two | no |") {
		t.Errorf("got %v, %v", tbl, err)
	}
}
