package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
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
func (r ratios) atLeast(goal float64) result {
	return result{text: r.String(), met: r.median() >= goal}
}

func (r ratios) atMost(goal float64) result {
	return result{text: r.String(), met: r.median() <= goal}
}

// noGoal returns the result of ratios that nothing is required of.
func (r ratios) noGoal() result { return result{text: r.String(), none: true} }

func (r ratios) String() string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.median(), slices.Min(r), slices.Max(r))
}

// pairs runs the two sides in turns and returns the ratios of their results.
func pairs(rounds int, ours, theirs func() (float64, error)) (ratios, error) {
	values, err := turns(rounds, ours, theirs)
	if err != nil {
		return nil, err
	}
	return ratiosOf(values[0], values[1]), nil
}

// ratiosOf returns the ratios of what was measured in the same rounds.
func ratiosOf(ours, theirs []float64) (r ratios) {
	for i := range ours {
		r = append(r, ours[i]/theirs[i])
	}
	return r
}

// turns runs all sides in each round and returns the results of each side. The order is reversed
// from one round to the next, so that none always has the warmer machine.
func turns(rounds int, sides ...func() (float64, error)) ([][]float64, error) {
	values := make([][]float64, len(sides))
	order := make([]int, len(sides))
	for i := range order {
		order[i] = i
	}
	for range rounds {
		for _, side := range order {
			v, err := sides[side]()
			if err != nil {
				return nil, err
			}
			values[side] = append(values[side], v)
		}
		slices.Reverse(order)
	}
	return values, nil
}

// table is the Markdown table. The headlines are its rows that a short table has.
type table struct {
	heading         string
	rows, headlines []string
}

func (t *table) add(m measure, r result) {
	row := m.cells() + fmt.Sprintf("%s | %s | %s |", m.goal, r.text, r.verdict())
	t.rows = append(t.rows, row)
	if m.headline() {
		t.headlines = append(t.headlines, row)
	}
}

func (t *table) String() string { return t.with(t.rows) }

// oneLine returns the beginning of a text so that it fits into a cell.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "|", "/")), " ")
	return fmt.Sprintf("%.200s", text)
}

// with returns a table with these rows.
func (t *table) with(rows []string) string {
	return t.heading + "\n\n| measure | against | must reach | reached | met |\n|---|---|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
}

// replaceTables writes the table into the files that names lists, each of which has a place for all
// rows or one for the headlines. Of all measures, rows of those that were not measured now stay.
func replaceTables(names string, t *table, all []measure) error {
	for name := range strings.SplitSeq(names, ",") {
		if name == "" {
			continue
		}
		old, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text, err := t.replaceIn(string(old), all)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// replaceIn returns a document with the table in its place.
func (t *table) replaceIn(text string, all []measure) (string, error) {
	for place, rows := range map[string][]string{"benchmarks": t.rows, "headlines": t.headlines} {
		begin, end := "<!-- "+place+":begin -->\n", "<!-- "+place+":end -->\n"
		before, rest, ok := strings.Cut(text, begin)
		old, after, ok2 := strings.Cut(rest, end)
		if ok && ok2 {
			return before + begin + "\n" + t.with(append(slices.Clone(rows), t.kept(old, rows, all)...)) + "\n" + end + after, nil
		}
	}
	return "", errors.New("it has no place for the table")
}

// kept returns the rows of an old table that were not measured now, each with its date. A measure
// that there is no more loses its row.
func (t *table) kept(old string, rows []string, all []measure) (kept []string) {
	date, _, _ := strings.Cut(strings.TrimSpace(old), ",")
	dated := regexp.MustCompile(`^\| \d{4}-\d\d-\d\d: `) // a row that an earlier run kept
	for _, m := range all {
		if slices.ContainsFunc(rows, func(row string) bool { return strings.HasPrefix(row, m.cells()) }) {
			continue
		}
		for row := range strings.SplitSeq(old, "\n") {
			if strings.HasPrefix(row, m.cells()) {
				kept = append(kept, "| "+date+": "+strings.TrimPrefix(row, "| "))
			} else if dated.MatchString(row) && strings.HasPrefix(dated.ReplaceAllString(row, "| "), m.cells()) {
				kept = append(kept, row)
			}
		}
	}
	return kept
}
