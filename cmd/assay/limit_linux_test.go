package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	xmodule "golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// limitedServer is a program with a disk limit.
type limitedServer struct {
	t       *testing.T
	program string
	world   *proxytest.World
	dir     string
	limit   int64
	url     string
	cmd     *exec.Cmd
}

func newLimitedServer(t *testing.T, limit int64) *limitedServer {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &limitedServer{t: t, program: program, world: proxytest.New(t), dir: filepath.Join(t.TempDir(), "data"), limit: limit}
	return s
}

func (s *limitedServer) start(upstream string, args ...string) {
	s.t.Helper()
	all := []string{"--data", s.dir, "--upstream", upstream, "--sumdb", s.world.GOSUMDB()}
	if s.limit > 0 {
		all = append(all, "--disk-limit", fmt.Sprint(s.limit, "B"))
	}
	s.url, s.cmd = startProcess(s.t, s.program, append(all, args...)...)
}

// du returns the bytes that the data directory takes on disk.
func (s *limitedServer) du() (total int64) { return diskUse(s.t, s.dir) }

// diskUse returns the bytes that a directory takes on disk.
func diskUse(t *testing.T, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		var stat syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(name, &stat)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		total += stat.Blocks * 512
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return total
}

// get requests a path, and compares what it gets with the upstream.
func (s *limitedServer) get(path string) {
	s.t.Helper()
	resp, err := http.Get(s.url + "/" + path)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, s.world.File(path)) {
		s.t.Errorf("%s: status %d, %d bytes, %v", path, resp.StatusCode, len(got), err)
	}
}

// head requests the header of a path that is not stored, for which it is fetched; no client follows it then.
func (s *limitedServer) head(path string) {
	s.t.Helper()
	resp, err := http.Head(s.url + "/" + path)
	if err != nil {
		s.t.Error(err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(s.world.File(path))) {
		s.t.Errorf("head of %s: status %d, %d bytes", path, resp.StatusCode, resp.ContentLength)
	}
}

// held reports whether an object is stored.
func (s *limitedServer) held(path string) bool {
	s.t.Helper()
	resp, err := http.Head(s.url + "/cached-only/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// metric returns the value of a metric without labels.
func (s *limitedServer) metric(name string) float64 {
	s.t.Helper()
	resp, err := http.Get(s.url + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+name+" ")
	line, _, _ := strings.Cut(rest, "\n")
	value, err := strconv.ParseFloat(line, 64)
	if !ok || err != nil {
		s.t.Fatalf("metric %s is %q", name, line)
	}
	return value
}

// command runs a command of the program on the data directory.
func (s *limitedServer) command(args ...string) string {
	s.t.Helper()
	out, err := assay(s.program, append(args, "--data", s.dir)...).CombinedOutput()
	if err != nil {
		s.t.Errorf("assay %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// within checks that the directory takes no more than the limit, and when it is idle.
func (s *limitedServer) within(when string, more int64) {
	s.t.Helper()
	if got := s.du(); got > s.limit+more {
		s.t.Errorf("%s: %d bytes on disk, limit %d and %d more", when, got, s.limit, more)
	}
}

func info(zip string) string { return strings.TrimSuffix(zip, ".zip") + ".info" }

// A working set of several times the limit: at each step the data directory takes no more than the limit, and one
// object that arrives; what is kept stays, also when the program is killed, restarted, or its upstream dies.
func TestDiskLimit(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	s := newLimitedServer(t, 14e6)
	paths := s.world.AddBig(40, size)
	s.start(s.world.URL("ok"))
	for _, path := range paths {
		s.get(info(path))
	}
	kept, gone, rest := paths[0], paths[1], paths[2:]
	for _, path := range []string{kept, gone} {
		s.get(path)
		if !s.held(path) {
			t.Fatalf("%s is not stored", path)
		}
	}
	module, version, _ := strings.Cut(strings.TrimSuffix(kept, ".zip"), "/@v/")
	s.command("pin", module+"@"+version)
	if out := s.command("pin"); !strings.Contains(out, module) {
		t.Errorf("assay pin lists %q", out)
	}
	s.world.Set(info(gone), nil)
	check := func(when string) {
		t.Helper()
		for _, path := range []string{kept, gone} {
			if !s.held(path) {
				t.Errorf("%s: %s was evicted", when, path)
			}
		}
	}
	for i, path := range rest {
		s.get(path)
		s.within(path, size)
		switch i {
		case 12:
			kill(t, s.cmd)
			s.within("killed", size)
			s.start(s.world.URL("ok"))
		case 20:
			s.command("backup", filepath.Join(t.TempDir(), "copy"))
		case 25:
			s.command("compact")
		}
	}
	check("after all")
	if n := s.metric("assay_evictions_total"); n < 5 {
		t.Errorf("%v objects were evicted since the restart", n)
	}
	if n := s.metric("assay_disk_unobtainable_total"); n < 1 {
		t.Error("no upstream was asked in vain")
	}
	if limit, used := s.metric("assay_disk_limit_bytes"), s.metric("assay_disk_limit_used_bytes"); int64(limit) != s.limit || used > limit || used < limit/2 {
		t.Errorf("the metrics say that %v of %v bytes are used", used, limit)
	}
	if out := s.command("du", "--limit"); !strings.Contains(out, "versions that assay pin keeps") || !strings.Contains(out, "limit") {
		t.Errorf("assay du --limit says\n%s", out)
	}

	// Larger than the limit: served, and not stored.
	random := make([]byte, 30<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	s.world.AddModule(xmodule.Version{Path: "example.com/large", Version: "v1.0.0"}, []txtar.File{{Name: "data", Data: random}})
	large := "example.com/large/@v/v1.0.0.zip"
	s.get(large)
	s.get(large)
	s.head(large)
	if s.held(large) {
		t.Error("an object that is larger than the limit is stored")
	}
	if n := s.metric("assay_disk_limit_passed_total"); n < 2 {
		t.Errorf("%v objects were passed through", n)
	}
	for range 6000 {
		if s.du() <= s.limit {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.within("after a large object", 0)
	check("after a large object")

	// No upstream answers: nothing is evicted, although the limit is lower now.
	var held []string
	for _, path := range paths {
		if s.held(path) {
			held = append(held, path)
		}
	}
	kill(t, s.cmd)
	s.limit = 9e6
	s.start("http://127.0.0.1:1")
	for _, path := range held {
		s.get(path)
	}
	if n := s.metric("assay_evictions_total"); n > 0 {
		t.Errorf("%v objects were evicted although no upstream answers", n)
	}
	kill(t, s.cmd)
	s.start(s.world.URL("ok"))
	for range 6000 {
		if s.du() <= s.limit {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.within("after the limit was lowered", 0)
	check("after the limit was lowered")
	kill(t, s.cmd)
	if out := s.command("verify"); !strings.Contains(out, " 0 damaged") {
		t.Errorf("verify says %s", out)
	}
	s.command("pin", "--remove", module+"@"+version)
	if out := s.command("pin", "list"); strings.Contains(out, module) {
		t.Errorf("assay pin list after --remove says %s", out)
	}
}

// A limit that cannot hold what is never evicted is refused at the start.
func TestDiskLimitTooSmall(t *testing.T) {
	t.Parallel()
	s := newLimitedServer(t, 1e6)
	out, err := assay(s.program, "serve", "--listen", "127.0.0.1:0", "--data", s.dir, "--upstream", s.world.URL("ok"),
		"--sumdb", s.world.GOSUMDB(), "--disk-limit", "1MB").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "a disk limit of 1.0 MiB is too small: ") || !strings.Contains(string(out), " are enough") {
		t.Errorf("serve with a limit of 1 MB: %v\n%s", err, out)
	}
}

// The local copies of a server have a limit: what is served stays right while they are evicted, and comes from the bucket
// again without the upstream.
func TestTierLimit(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	paths := world.AddBig(24, 2<<20)
	server := s3test.Start(t)
	dir := t.TempDir()
	const limit = 32 << 20
	args := []string{"--data", dir, "--store", bucketURL(server.URL), "--sumdb", world.GOSUMDB()}
	most := int64(0)
	for _, upstream := range []string{world.URL("ok"), "off"} {
		url, cmd := startProcessIn(t, bucketEnv, program, append(args, "--disk-limit", "32MiB", "--upstream", upstream)...)
		for range 2 {
			for _, path := range paths {
				if !fetchWhole(t, world, url, path) {
					t.Errorf("upstream %s: no %s", upstream, path)
				}
				used := diskUse(t, dir)
				if most = max(most, used); used > limit+3<<20 {
					t.Errorf("the data directory takes %d MiB, with a limit of %d", used>>20, limit>>20)
				}
			}
		}
		if evicted(t, url) == 0 {
			t.Errorf("upstream %s: nothing was evicted", upstream)
		}
		kill(t, cmd)
	}
	if most < limit*2/3 {
		t.Errorf("the data directory takes at most %d MiB of %d", most>>20, limit>>20)
	}
	const lower = 16 << 20
	_, cmd := startProcessIn(t, bucketEnv, program, append(args, "--disk-limit", "16MiB", "--upstream", "off")...)
	defer kill(t, cmd)
	for range 6000 {
		if diskUse(t, dir) <= lower {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the data directory takes %d MiB, with a lower limit of %d", diskUse(t, dir)>>20, lower>>20)
}
