package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// BenchmarkZipFills fetches and proves zips of random content, all at the same time, each for one
// client that reads while it arrives. It reports how many bytes the program writes to the disk for
// each byte of them, and the most memory that it has: anonymous pages, which are the program's own,
// and pages of files, which the kernel may take back: the program and the parts of both files of the
// store that are mapped. The temporary directory must be on a disk, not in memory:
//
//	go test -run - -bench ZipFills -benchtime 1x ./cmd/assay
func BenchmarkZipFills(b *testing.B) {
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []struct{ zips, size int }{{1, 50_000_000}, {16, 4_000_000}, {64, 4_000_000}, {16, 50_000_000}, {64, 50_000_000}} {
		b.Run(fmt.Sprintf("%dx%dMB", kind.zips, kind.size/1_000_000), func(b *testing.B) {
			world := proxytest.New(b)
			paths := world.AddBig(kind.zips, kind.size)
			b.SetBytes(int64(kind.zips * kind.size))
			for b.Loop() {
				b.StopTimer()
				dir := filepath.Join(b.TempDir(), "data")
				url, cmd := startProcessIn(b, nil, program, "--sumdb", world.GOSUMDB(), "--data", dir,
					"--upstream", world.URL("ok"), "--zip-fills", strconv.Itoa(kind.zips))
				before := writtenBytes(b, cmd.Process.Pid)
				b.StartTimer()
				peak := peakOf(b, cmd.Process.Pid, func() { fetchAll(b, url, world, paths) })
				b.StopTimer()
				written := writtenBytes(b, cmd.Process.Pid) - before
				b.ReportMetric(float64(written)/float64(kind.zips*kind.size), "written/byte")
				b.ReportMetric(float64(peak.anonymous)/1e6, "anonymous-MB")
				b.ReportMetric(float64(peak.files)/1e6, "files-MB")
				killProcess(b, cmd.Process.Kill(), cmd.Wait)
				b.StartTimer()
			}
		})
	}
}

// fetchAll fetches all paths at the same time.
func fetchAll(b *testing.B, url string, world *proxytest.World, paths []string) {
	var all sync.WaitGroup
	for _, path := range paths {
		all.Go(func() {
			resp, err := http.Get(url + "/" + path)
			if err != nil {
				b.Error(err)
				return
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if want := int64(len(world.File(path))); resp.StatusCode != http.StatusOK || err != nil || n != want {
				b.Errorf("%s: status %d, %d bytes of %d, %v", path, resp.StatusCode, n, want, err)
			}
		})
	}
	all.Wait()
}

// writtenBytes returns how many bytes a process has written to disks, or will when the kernel
// writes its pages.
func writtenBytes(b *testing.B, pid int) int64 {
	return procField(b, pid, "io", "write_bytes:")
}

// residence is the memory of a process in bytes.
type residence struct{ anonymous, files int64 }

// peakOf returns the most memory that a process has during do, as seen every millisecond.
func peakOf(b *testing.B, pid int, do func()) (peak residence) {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	for tick := time.Tick(time.Millisecond); ; {
		peak.anonymous = max(peak.anonymous, procField(b, pid, "status", "RssAnon:")<<10)
		peak.files = max(peak.files, procField(b, pid, "status", "RssFile:")<<10)
		select {
		case <-done:
			return peak
		case <-tick:
		}
	}
}

// procField returns the number behind a name in a file of /proc.
func procField(b *testing.B, pid int, file, name string) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, found := bytes.Cut(data, []byte(name))
	fields := strings.Fields(string(rest))
	if !found || len(fields) == 0 {
		b.Fatalf("%s has no %s", file, name)
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
