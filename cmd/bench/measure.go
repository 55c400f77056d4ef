package main

import (
	"cmp"
	"fmt"
	"regexp"
)

// measure is one line of the table.
type measure struct {
	name, against string
	goal          string
	run           func() (result, error)
}

// result is the result of a measure.
type result struct {
	text string
	met  bool
	none bool // there is no goal that could be met
}

// selected returns the measures whose line, as list prints it, matches.
func selected(measures []measure, only *regexp.Regexp) (some []measure) {
	for _, m := range measures {
		if only.MatchString(m.String()) {
			some = append(some, m)
		}
	}
	return some
}

func (m measure) String() string {
	if m.against == "" {
		return m.name
	}
	return m.name + ", against " + m.against
}

// cells returns the beginning of the row of a measure in the table.
func (m measure) cells() string { return fmt.Sprintf("| %s | %s | ", m.name, cmp.Or(m.against, "–")) }

// headline reports whether a line is part of the short table.
func (m measure) headline() bool {
	return regexp.MustCompile("^time, (cold, (no )?go.sum, 20 ms, against|wave of 50)|^time to the last byte|hot `.mod`, one core, against bare|hot 27 KB zip.*Serve|hot 60 MB zip.*Serve|64 zips|start until ready|first version|upstream GETs").MatchString(m.String())
}

// slow reports whether a line is not part of a quick run.
func (m measure) slow() bool {
	return regexp.MustCompile("the public mirror|GOPROXY=file|1 million|200 MB|private|Athens|100 ms|page cache|50 × 151|with S3").MatchString(m.String())
}

// verdict says whether the goal was met.
func (r result) verdict() string {
	switch {
	case r.none:
		return "–"
	case r.met:
		return "yes"
	}
	return "no"
}

// absent is the error for a measure that needs what this machine lacks.
type absent string

func (what absent) Error() string { return string(what) + " is not there" }
