package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// counted are the lines whose measure is a benchmark of the package that it is about.
type counted struct{ b *bench }

func (c counted) measures() []measure {
	return []measure{
		{"hits of a disk limit of 200 MB, objects and bytes, 2 GB requested by Zipf's law", "the best of LRU, LFU, S3-FIFO and W-TinyLFU", "≥ 0.97", c.hits},
		{"pins/s of 3 replicas, one log in a bucket", "", "≥ 50", c.pins},
	}
}

// hits is the simulation of the policy of the disk limit.
func (c counted) hits() (result, error) {
	all, err := c.run("./storage/budget", "^BenchmarkPolicy$", "1x")
	if err != nil {
		return result{}, err
	}
	return judgeHits(all), nil
}

func judgeHits(all []benchmark) result {
	r := result{met: len(all) > 0}
	var texts []string
	for _, one := range all {
		m := one.metrics
		texts = append(texts, fmt.Sprintf("%s: %.2f and %.2f (%.0f and %.0f %%; Belady %.0f and %.0f %%)", one.name,
			m["objects/best"], m["bytes/best"], m["%objects"], m["%bytes"], m["%Belady-objects"], m["%Belady-bytes"]))
		r.met = r.met && m["objects/best"] >= 0.97 && m["bytes/best"] >= 0.97
	}
	r.text = strings.Join(texts, "; ")
	return r
}

// pins is the rate at which replicas pin, each with so many callers at a time.
func (c counted) pins() (result, error) {
	if c.b.versitygw == "" {
		return result{}, absent("versitygw")
	}
	all, err := c.run("./sumdb/pinlog", "^BenchmarkReplicas$", "1s")
	if err != nil {
		return result{}, err
	}
	return judgePins(all), nil
}

func judgePins(all []benchmark) result {
	r := result{met: len(all) > 0}
	var texts []string
	for _, one := range all {
		m := one.metrics
		_, callers, _ := strings.Cut(one.name, "=")
		texts = append(texts, fmt.Sprintf("%s callers each: %.0f, %.2f creations a pin of %.1f ms, %.2f looks of %.1f ms", callers,
			m["pins/s"], m["put/pin"], m["ms/put"], m["get/pin"], m["ms/get"]))
		r.met = r.met && m["pins/s"] >= 50
	}
	r.text = strings.Join(texts, "; ")
	return r
}

// benchmark is a line of the output of go test.
type benchmark struct {
	name    string // of the part
	metrics map[string]float64
}

// run runs a benchmark of a package, in the directory of the repository, where this program runs.
func (c counted) run(pkg, pattern, time string) ([]benchmark, error) {
	cmd := exec.CommandContext(c.b.ctx, "go", "test", "-count=1", "-run=^$", "-bench="+pattern, "-benchtime="+time, pkg)
	cmd.Env = append(os.Environ(), "VERSITYGW="+c.b.versitygw)
	out, err := cmd.CombinedOutput()
	if err != nil {
		if err := context.Cause(c.b.ctx); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("go test %s: %w\n%.2000s", pkg, err, out)
	}
	return benchmarksIn(string(out))
}

// benchmarksIn returns the benchmarks of an output.
func benchmarksIn(out string) (all []benchmark, err error) {
	processors := regexp.MustCompile(`-\d+$`)
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		_, name, _ := strings.Cut(processors.ReplaceAllString(fields[0], ""), "/")
		name = strings.ReplaceAll(name, "_", " ") // the testing package has it so, because of the fields
		one := benchmark{name, map[string]float64{}}
		for i := 2; i+1 < len(fields); i += 2 {
			if one.metrics[fields[i+1]], err = strconv.ParseFloat(fields[i], 64); err != nil {
				return nil, fmt.Errorf("benchmark %s: %w", name, err)
			}
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errors.New("go test ran no benchmark")
	}
	return all, nil
}
