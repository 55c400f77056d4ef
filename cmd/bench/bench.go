package main

import (
	"errors"
	"fmt"
	"log"
	"runtime"
	"time"
)

// programs are the servers under measurement. Without one of the peers, the measures that need it
// are not made.
type programs struct{ assay, athens, goproxy, nginx, caddy, versitygw string }

// bench is one run.
type bench struct {
	*machine
	programs
	gomod   string
	rounds  int
	million string // the store of a million objects, once it exists
}

// all runs the measures and returns the table. For a measure that cannot run,
// the table has the reason.
func (b *bench) all(measures []measure) (*table, error) {
	t := &table{heading: fmt.Sprintf("%s, %s/%s, %d processors, %s. Each ratio is the median of pairs that took turns in one run,\nwith the smallest and the largest. A line with a date in front is of an earlier run.",
		time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())}
	failed := error(nil)
	for _, m := range measures {
		if err := b.ctx.Err(); err != nil {
			return t, err
		}
		begin := time.Now()
		log.Print(m)
		r, err := m.run()
		var lacks absent
		switch {
		case errors.As(err, &lacks):
			r = result{text: "not measured: " + lacks.Error(), none: true}
		case err != nil:
			r = result{text: "not measured: " + oneLine(err.Error())}
			failed = fmt.Errorf("%s: %w", m.name, err)
			log.Print(failed)
		}
		log.Printf("%s (%v)", r.text, time.Since(begin).Round(time.Second))
		t.add(m, r)
	}
	return t, failed
}
