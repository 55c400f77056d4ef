// Command bench compares assay with others, side by side in one run, and prints one Markdown table
// of ratios. .ci/bench builds and runs it.
//
// It needs Linux, two processors, wrk and taskset, the real public mirror for two of its measures,
// and root for one (it drops the page cache).
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.Ltime)
	if len(os.Args) > 1 && os.Args[1] == "base" { // the yardstick, see base.go
		log.Fatal(base(os.Args[2], os.Args[3]))
	}
	var (
		program = flag.String("assay", "", "the assay to measure")
		before  = flag.String("before", "", "an earlier assay; measure only what must not become worse than with it")
		cold    = flag.String("cold", "", "a real go.mod; measure only its build without a cache, from an upstream that is far away")
		athens  = flag.String("athens", "", "the Athens to measure against")
		gomod   = flag.String("gomod", "", "a real go.mod with some 150 modules")
		run     = flag.String("run", ".", "measure only what matches this regular expression")
		rounds  = flag.Int("rounds", 5, "pairs of each measure; the slow ones have fewer")
		slice   = flag.Duration("slice", 4*time.Second, "length of one side of a pair of the hot measures")
		update  = flag.String("update", "", "files, separated by commas, in which the table replaces the last one")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "assay-bench-")
	if err != nil {
		log.Fatal(err)
	}
	b := &bench{ctx: ctx, dir: dir, assay: *program, athens: *athens, gomod: *gomod, rounds: *rounds, slice: *slice}
	measures := b.measures()
	switch {
	case *cold != "":
		b.gomod = *cold
		measures = (&coldBuilds{b: b, host: &host{dir: b.dir}}).measures()
	case *before != "":
		measures = newComparison(b, *before).measures()
	}
	table, err := b.all(measures, regexp.MustCompile(*run))
	if removeErr := os.RemoveAll(dir); removeErr != nil {
		log.Print(removeErr)
	}
	fmt.Print(table)
	if err != nil {
		log.Fatal(err)
	}
	if err := replaceTables(*update, table); err != nil {
		log.Fatal(err)
	}
}

// bench is one run.
type bench struct {
	ctx           context.Context
	dir           string // for all files; removed at the end
	assay, athens string // programs
	gomod         string
	rounds        int
	slice         time.Duration
	dirs          int    // directories made
	million       string // the store of a million objects, once it exists
}

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
}

// all runs the measures whose name matches and returns the table. For a measure that cannot run,
// the table has the reason.
func (b *bench) all(measures []measure, only *regexp.Regexp) (string, error) {
	t := table{heading: fmt.Sprintf("%s, %s/%s, %d processors, %s. Each ratio is the median of pairs that took turns in one run,\nwith the smallest and the largest.",
		time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())}
	failed := error(nil)
	for _, m := range measures {
		if !only.MatchString(m.name) {
			continue
		}
		if err := b.ctx.Err(); err != nil {
			return t.String(), err
		}
		log.Printf("%s, against %s", m.name, m.against)
		r, err := m.run()
		if err != nil {
			r = result{text: "not measured: " + err.Error()}
			failed = fmt.Errorf("%s: %w", m.name, err)
			log.Print(failed)
		}
		log.Print(r.text)
		t.add(m, r)
	}
	return t.String(), failed
}

func (b *bench) measures() []measure {
	return []measure{
		{"requests/s, hot `.mod`, one core", "bare net/http handler, same bytes from memory", "≥ 0.75", func() (result, error) { return b.hotSmall(".mod", false) }},
		{"requests/s, hot `.info`, one core", "bare net/http handler, same bytes from memory", "≥ 0.75", func() (result, error) { return b.hotSmall(".info", false) }},
		{"requests/s, hot `.mod`, one core", "Athens v0.18.0, disk storage", "≥ 4", func() (result, error) { return b.hotSmall(".mod", true) }},
		{"requests/s, hot `.info`, one core", "Athens v0.18.0, disk storage", "≥ 4", func() (result, error) { return b.hotSmall(".info", true) }},
		{"requests/s, hot lookup, one core", "bare net/http handler, same bytes from memory", "≥ 0.7", func() (result, error) { return hotFiles{b}.database(lookupName, 0.7) }},
		{"requests/s, hot tile, one core", "bare net/http handler, same bytes from memory", "≥ 0.6", func() (result, error) { return hotFiles{b}.database(tileName, 0.6) }},
		{"requests/s, hot 27 KB zip, one core", "http.ServeContent of a file", "≥ 1.2", hotFiles{b}.smallZip},
		{"bytes/s, hot 60 MB zip, four clients", "http.ServeContent of a file", "≥ 1.0", hotFiles{b}.largeZip},
		{"bytes/s, hot 50 MB zip", "http.ServeContent of a file", "≥ 1.0", b.hotZip},
		{"time, cold `go mod download`", "the public mirror directly", "≤ 1.1", b.coldDownload},
		{"time, warm `go mod download`", "`GOPROXY=file://`", "≤ 1.05", b.warmDownload},
		{"bytes/s, ten 40 MB zips, page cache dropped", "http.ServeContent of files", "≥ 0.8", b.coldZips},
		{"peak RSS, 300 MB zip filled and served to 4 clients", "", "< 128 MB", b.fillMemory},
		{"idle RSS, 1 million objects", "", "< 40 MB", b.millionMemory},
		{"start until ready, 1 million objects", "", "< 1 s", b.millionStart},
		{"time, second version of a repository with 200 MB of history", "the first version", "≤ 0.2", b.secondVersion},
		{"time, second version of a repository with 200 MB of history", "Athens v0.18.0", "≤ 0.25", b.secondVersionAthens},
		{"time, list of a private module, warm", "Athens v0.18.0", "≤ 0.05", b.privateList},
		{"requests/s, hot private `.mod` with token and rule, one core", "a public one", "≥ 0.9", b.privateHit},
		{"upstream GETs, 200 clients, one cold zip", "", "exactly 1", b.coalesced},
	}
}

// newDir creates a new empty directory and returns its name.
func (b *bench) newDir() (string, error) {
	b.dirs++
	dir := fmt.Sprintf("%s/%d", b.dir, b.dirs)
	return dir, os.MkdirAll(dir, 0o755)
}
