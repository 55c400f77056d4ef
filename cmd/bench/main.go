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
	"slices"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.Ltime)
	if len(os.Args) > 1 && os.Args[1] == "base" { // the yardstick, see base.go
		log.Fatal(base(os.Args[2], os.Args[3]))
	}
	var (
		assay   = flag.String("assay", "", "the assay to measure")
		before  = flag.String("before", "", "an earlier assay; measure only what must not become worse than with it")
		athens  = flag.String("athens", "", "the Athens to measure against")
		goproxy = flag.String("goproxy", "", "the goproxy to measure against")
		nginx   = flag.String("nginx", "", "the nginx to measure against")
		caddy   = flag.String("caddy", "", "the Caddy to measure against")
		gateway = flag.String("versitygw", "", "the versitygw that has the buckets")
		gomod   = flag.String("gomod", "", "a real go.mod with some 190 modules, for the downloads from the public mirror")
		small   = flag.String("small", "", "directory of a real program with 70 modules and a package cmd/nfpm")
		large   = flag.String("large", "", "directory of a real program with 151 modules")
		list    = flag.Bool("list", false, "only print the lines that the table would have")
		run     = flag.String("run", ".", "measure only the lines of -list that match this regular expression")
		quick   = flag.Bool("quick", false, "fewer and shorter pairs, and without what takes minutes")
		rounds  = flag.Int("rounds", 5, "pairs of each measure; the slow ones have fewer")
		slice   = flag.Duration("slice", 4*time.Second, "length of one side of a pair of the hot measures")
		update  = flag.String("update", "", "files, separated by commas, in which the table replaces the lines of the last one that were measured again")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "assay-bench-")
	if err != nil {
		log.Fatal(err)
	}
	b := &bench{
		machine: &machine{ctx: ctx, dir: dir, slice: *slice}, gomod: *gomod, rounds: *rounds,
		programs: programs{*assay, *athens, *goproxy, *nginx, *caddy, *gateway},
	}
	measures := b.measures(program{dir: *small, commands: [][]string{{"build", "-o", os.DevNull, "./cmd/nfpm"}, {"list", "-m", "-u", "all"}, {"get", upgraded + "@latest"}}}, program{dir: *large})
	if *quick {
		b.rounds, b.slice = min(b.rounds, 2), min(b.slice, time.Second)
		measures = slices.DeleteFunc(measures, measure.slow)
	}
	if *before != "" {
		measures = newComparison(b, *before).measures()
	}
	all := measures
	measures = selected(measures, regexp.MustCompile(*run))
	if *list {
		for _, m := range measures {
			fmt.Println(m)
		}
		return
	}
	table, err := b.all(measures)
	if removeErr := os.RemoveAll(dir); removeErr != nil {
		log.Print(removeErr)
	}
	fmt.Print(table)
	if err != nil {
		log.Fatal(err)
	}
	if err := replaceTables(*update, table, all); err != nil {
		log.Fatal(err)
	}
}

// measures returns the lines of the table.
func (b *bench) measures(small, large program) []measure {
	recordings := &recordings{b: b, known: map[string]*recorded{}}
	ways := ways{b}
	waves := &waves{recordings: recordings, ways: ways, program: large}
	return slices.Concat(
		(&coldBuilds{recordings, ways, small, large}).measures(),
		waves.measures(),
		(&predictions{recordings, ways, small}).measures(),
		hot{b}.measures(),
		peers{b}.measures(),
		(&manyFiles{b: b, ways: ways}).measures(),
		disk{b}.measures(),
		fills{b}.measures(),
		tier{b}.measures(),
		(&fleets{waves}).measures(),
		counted{b}.measures(),
		b.older(),
		noise{b}.measures(),
	)
}

// older returns the lines of the public mirror, of a large store and of private modules.
func (b *bench) older() []measure {
	return []measure{
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
