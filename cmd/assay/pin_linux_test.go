package main_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// evicted returns how many bytes a server has evicted.
func evicted(t *testing.T, url string) int {
	t.Helper()
	_, text := assaytest.Fetch(t, url+"/metrics")
	found := regexp.MustCompile(`(?m)^assay_evicted_bytes_total (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatal("there is no metric of evictions")
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// awaitEvictions waits until a server has evicted n zips of AddBig since it had evicted so many bytes.
func awaitEvictions(t *testing.T, url string, before, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); evicted(t, url) < before+n*bigZip; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes were evicted, want %d zips of %d more than %d", evicted(t, url), n, bigZip, before)
		}
	}
}

// bigZip is the size of the zips of these tests. They are not kept in memory.
const bigZip = 400 << 10

// A zip that was not used for as long as disk-age says is evicted, although nothing bounds the directory; one that is
// pinned stays.
func TestDiskAge(t *testing.T) {
	t.Parallel()
	s := newLimitedServer(t, 0)
	paths := s.world.AddBig(2, bigZip)
	s.start(s.world.URL("ok"), "--disk-age", "1s")
	module, version, _ := strings.Cut(strings.TrimSuffix(paths[0], ".zip"), "/@v/")
	s.command("pin", module+"@"+version)
	for _, path := range paths {
		s.get(info(path)) // which the upstream is asked for before the eviction
		s.get(path)
	}
	awaitEvictions(t, s.url, 0, 1)
	if !s.held(paths[0]) || s.held(paths[1]) {
		t.Errorf("the pinned zip is held: %t; the other one: %t", s.held(paths[0]), s.held(paths[1]))
	}
	if out := s.command("du", "--limit"); !strings.Contains(out, "no limit") {
		t.Errorf("assay du --limit says\n%s", out)
	}
	s.get(paths[1])
}

// An order that a command gives for a store in a bucket is heeded by each server that uses it: the local copy stays. That
// of another version is evicted.
func TestPinReplicas(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	paths := world.AddBig(2, bigZip)
	server := s3test.Start(t)
	pin := func(args ...string) string {
		t.Helper()
		cmd := assay(program, append([]string{"pin", "--store", bucketURL(server.URL), "--data", t.TempDir()}, args...)...)
		cmd.Env = bucketEnv
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("assay pin %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	var urls []string
	for range 2 {
		url, _ := startProcessIn(t, bucketEnv, program, "--data", t.TempDir(), "--store", bucketURL(server.URL),
			"--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--disk-age", "1s", "--answer-timeout", "2s")
		urls = append(urls, url)
	}
	pin("example.com/big0")
	if out := pin("list"); !regexp.MustCompile(`example\.com/big0\s+all`).MatchString(out) {
		t.Errorf("assay pin list says %q", out)
	}
	reads := countReads(server)
	// copies reports which of the two a server has, once it has evicted so many.
	copies := func(url string, evictions int) (pinned, other bool) {
		t.Helper()
		before := evicted(t, url)
		for _, path := range paths {
			// On a busy machine, a fetch may need more than the time of an answer, and continues later.
			assaytest.WaitFor(t, func() bool { return fetchWhole(t, world, url, path) })
		}
		awaitEvictions(t, url, before, evictions)
		held := func(path string) bool {
			before := reads(path)
			assaytest.WaitFor(t, func() bool { return fetchWhole(t, world, url, path) })
			return reads(path) == before
		}
		return held(paths[0]), held(paths[1])
	}
	awaitCopies := func(url string, wantPinned bool) {
		t.Helper()
		evictions := 2
		if wantPinned {
			evictions = 1
		}
		for range 20 { // the server may not know of the order at once, or have evicted what it fetched before
			if pinned, other := copies(url, evictions); pinned == wantPinned && !other {
				return
			}
		}
		t.Errorf("a server never has a copy of the pinned zip (%t) without that of the other one", wantPinned)
	}
	for _, url := range urls {
		awaitCopies(url, true)
	}
	pin("--remove", "example.com/big0")
	awaitCopies(urls[0], false)
}
