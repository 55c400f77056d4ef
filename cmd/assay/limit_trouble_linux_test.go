package main_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

// A data directory of an earlier program is opened with a limit: all that may not be evicted stays and is served, also
// while new objects of several times the limit arrive, and the limit holds from then on.
func TestOldDataWithLimit(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2026-11-public", "2026-11-unproved", "2026-12-unified", "2027-01-private"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size, limit = 600 << 10, 8 << 20
			d := openOldData(t, filepath.Join(dataDirs, name+".tar.gz"))
			data := filepath.Join(d.dir, "data")
			proved, n := !strings.HasSuffix(name, "unproved"), 24
			if !proved {
				n = 4 // they are never evicted, and a limit that they exceed is refused
			}
			world, _ := oldWorld(t, name[len("2026-11-"):])
			var fresh []string
			for i := range n {
				m := module.Version{Path: fmt.Sprintf("example.com/fresh%d", i), Version: "v1.0.0"}
				content := make([]byte, size)
				rand.NewChaCha8([32]byte{byte(i)}).Read(content)
				world.AddModule(m, []txtar.File{{Name: "data", Data: content}})
				fresh = append(fresh, zipOf(m))
			}
			args := append(strings.Fields(d.read("args")), "--data", data, "--disk-limit", "8MiB", "--vcs", "off", "--upstream")
			if slices.Contains(args, "--private") {
				d.run("log", "adopt", "--no-client-has-seen-more") // the directory is a copy
			}
			// stays checks what may not be evicted.
			stays := func(when, url string) {
				t.Helper()
				for _, want := range strings.Split(strings.TrimSpace(d.read("answers")), "\n") {
					path, _, _ := strings.Cut(want, " ")
					evictable := proved && strings.HasPrefix(path, "example.com/") && strings.HasSuffix(path, ".zip")
					got := d.answer(url, path)
					if strings.HasPrefix(path, "sumdb/") { // it has the head of a log that grows
						got, want = got[:len(path)+4], want[:len(path)+4]
					}
					if got != want && !evictable {
						t.Errorf("%s: now %s\nthen %s", when, got, want)
					}
				}
			}
			url, cmd := startProcessIn(t, bucketEnv, d.program, append(args, world.URL("ok"))...)
			stays("at the start", url)
			assaytest.WaitFor(t, func() bool { return diskUse(t, data) <= limit })
			for _, path := range fresh {
				if !fetchWhole(t, world, url, path) {
					t.Errorf("%s is not sent", path)
				}
				if used := diskUse(t, data); used > limit+size+2000 {
					t.Errorf("after %s: %d bytes on disk, limit %d", path, used, limit)
				}
			}
			if evicted(t, url) > 0 != proved {
				t.Errorf("%d bytes were evicted", evicted(t, url))
			}
			stays("after evictions", url)
			kill(t, cmd)
			url, cmd = startProcessIn(t, bucketEnv, d.program, append(args, "off")...)
			stays("after a restart", url)
			kill(t, cmd)
			d.run("verify")
		})
	}
}

// The limit is larger than the disk. Full, it refuses what is new with a reason and serves what is stored; when there is room
// again, or objects were evicted because of their age, what is new is stored.
func TestLimitFullDisk(t *testing.T) {
	t.Parallel()
	for _, age := range []string{"0s", "1s"} {
		t.Run("age "+age, func(t *testing.T) {
			t.Parallel()
			p := newPrivateServer(t)
			const size = 1 << 20
			world, paths := p.publicZips(24, size)
			p.args = append(p.args, "--disk-limit", "100MiB", "--disk-age", age)
			var late []string // not stored before the disk is full
			for i := range 10 {
				m := module.Version{Path: fmt.Sprintf("example.com/late%d", i), Version: "v1.0.0"}
				world.AddModule(m, []txtar.File{{Name: "go.mod", Data: []byte("module " + m.Path + "\n" + strings.Repeat("// late\n", 25000))}})
				late = append(late, m.Path+"/@v/v1.0.0.mod")
			}
			disk := p.onSmallDisk()
			stored, wanted := paths[:8], paths[8:]
			for _, path := range paths {
				if status, body := assaytest.Fetch(t, p.url+"/"+info(path)); status != http.StatusOK {
					t.Fatalf("%s: %d %s", info(path), status, body)
				}
			}
			// Nothing is evicted before the disk is full, because nothing says then that what is stored can be fetched again.
			infos := map[string][]byte{}
			for _, path := range stored {
				infos[info(path)] = world.File(info(path))
				world.Set(info(path), []byte("not JSON"))
				if !fetchWhole(t, world, p.url, path) {
					t.Fatalf("%s is not sent", path)
				}
			}
			file := filepath.Join(disk, "other")
			fillDisk(t, file, 0)
			if n := evicted(t, p.url); n > 0 {
				t.Fatalf("%d bytes were evicted although nothing says that they can be fetched again", n)
			}
			for path, data := range infos {
				world.Set(path, data)
			}
			full, broken := 0, 0
			for _, path := range wanted {
				resp, err := http.Get(p.url + "/" + path)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				switch {
				case err != nil:
					broken++ // the disk became full after the first bytes were sent
				case resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(body), "disk is full"):
					full++
				case resp.StatusCode != http.StatusOK || string(body) != string(world.File(path)):
					t.Errorf("%s on a full disk: %d, %d bytes %.200q", path, resp.StatusCode, len(body), body)
				}
			}
			for _, path := range late {
				status, body := assaytest.Fetch(t, p.url+"/"+path)
				if status == http.StatusServiceUnavailable && strings.Contains(body, "disk is full") {
					full++
				} else if status != http.StatusOK || body != string(world.File(path)) {
					t.Errorf("%s on a full disk: %d %.200q", path, status, body)
				}
			}
			t.Logf("%d answers that the disk is full, %d broken off", full, broken)
			if age == "1s" {
				// Evictions make holes, also on a full disk.
				assaytest.WaitFor(t, func() bool { return evicted(t, p.url) > size })
			} else {
				if full+broken < len(wanted)/2 || full < len(late)/2 {
					t.Errorf("the disk was full %d times, and %d transfers were broken off", full, broken)
				}
				for _, path := range stored {
					if !fetchWhole(t, world, p.url, path) {
						t.Errorf("%s, which is stored, is not sent", path)
					}
				}
				if n := evicted(t, p.url); n > 0 {
					t.Errorf("%d bytes were evicted below the limit", n)
				}
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range wanted[:4] {
				assaytest.WaitFor(t, func() bool { return fetchInTrouble(t, world, p.url, path) })
			}
		})
	}
}

// An earlier program opens a directory whose files have holes, and copies of a bucket that have a limit: it serves all that is
// there, writes into it, and today's program goes on with that.
func TestLimitTwoVersions(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds an earlier program")
	}
	const size = 600 << 10
	s := newLimitedServer(t, 8e6)
	paths := s.world.AddBig(24, size)
	old := buildEarlier(t)
	heldNow := func() (held, gone []string) {
		for _, path := range paths {
			if s.held(path) {
				held = append(held, path)
			} else {
				gone = append(gone, path)
			}
		}
		return held, gone
	}
	for round, program := range []string{s.program, old, s.program} {
		// Everything that the other program has left is served without an upstream.
		s.program = program
		s.start("off")
		held, gone := heldNow()
		if round > 0 && (len(held) < 5 || len(gone) < 5) {
			t.Errorf("round %d: %d zips are held, %d are not", round, len(held), len(gone))
		}
		for _, path := range held {
			s.get(path)
		}
		kill(t, s.cmd)
		// What was evicted is fetched, and others are evicted for it.
		s.start(s.world.URL("ok"))
		for _, path := range append(gone, held...) {
			s.get(info(path))
			s.get(path)
			s.within(path, size+24000)
		}
		if evicted(t, s.url) == 0 {
			t.Errorf("round %d: nothing was evicted", round)
		}
		kill(t, s.cmd)
		var stat syscall.Stat_t
		if err := syscall.Stat(filepath.Join(s.dir, "blobs.db"), &stat); err != nil || stat.Blocks*512 >= stat.Size {
			t.Errorf("round %d: blobs.db of %d bytes has no holes: %d are allocated, %v", round, stat.Size, stat.Blocks*512, err)
		}
	}
	for _, program := range []string{old, s.program} {
		s.program = program
		if out := s.command("verify"); !strings.Contains(out, " 0 damaged") {
			t.Errorf("verify says %s", out)
		}
	}
	// Without the limit the earlier program opens the holes, too.
	s.program, s.limit = old, 0
	s.start("off")
	held, _ := heldNow()
	for _, path := range held {
		s.get(path)
	}
	if len(held) < 5 {
		t.Errorf("%d zips are held", len(held))
	}
	kill(t, s.cmd)
}
