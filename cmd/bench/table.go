package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ratios are the results of pairs.
type ratios []float64

// median returns the median; r must not be empty.
func (r ratios) median() float64 {
	sorted := slices.Sorted(slices.Values(r))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// atLeast and atMost return the result of ratios whose median must reach, or stay below, goal.
func (r ratios) atLeast(goal float64) result { return result{r.String(), r.median() >= goal} }
func (r ratios) atMost(goal float64) result  { return result{r.String(), r.median() <= goal} }

func (r ratios) String() string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.median(), slices.Min(r), slices.Max(r))
}

// pairs runs the two sides in turns and returns the ratios of their results. The side that begins
// alternates, so that neither always has the warmer machine.
func pairs(rounds int, ours, theirs func() (float64, error)) (ratios, error) {
	var r ratios
	for i := range rounds {
		sides := []func() (float64, error){ours, theirs}
		var values [2]float64
		for j := range sides {
			side := (i + j) % 2
			v, err := sides[side]()
			if err != nil {
				return nil, err
			}
			values[side] = v
		}
		r = append(r, values[0]/values[1])
	}
	return r, nil
}

// table is the Markdown table.
type table struct {
	heading string
	rows    []string
}

func (t *table) add(m measure, r result) {
	met := "no"
	if r.met {
		met = "yes"
	}
	against := m.against
	if against == "" {
		against = "–"
	}
	t.rows = append(t.rows, fmt.Sprintf("| %s | %s | %s | %s | %s |", m.name, against, m.goal, r.text, met))
}

func (t *table) String() string {
	return t.heading + "\n\n| measure | against | must reach | reached | met |\n|---|---|---|---|---|\n" + strings.Join(t.rows, "\n") + "\n"
}

// The table is between these lines of a document.
const (
	tableBegin = "<!-- benchmarks:begin -->\n"
	tableEnd   = "<!-- benchmarks:end -->\n"
)

// replaceTables writes the table into the files that names lists.
func replaceTables(names, table string) error {
	for name := range strings.SplitSeq(names, ",") {
		if name == "" {
			continue
		}
		old, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text, err := replaceTable(string(old), table)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func replaceTable(text, table string) (string, error) {
	before, rest, ok := strings.Cut(text, tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", errors.New("it has no place for the table")
	}
	return before + tableBegin + "\n" + table + "\n" + tableEnd + after, nil
}
