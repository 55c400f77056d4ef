package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// bucketEnv are the credentials of servers and commands for a store in a bucket, and nothing of the user's own.
var bucketEnv = []string{
	"AWS_ACCESS_KEY_ID=testaccess", "AWS_SECRET_ACCESS_KEY=testsecret123", "AWS_EC2_METADATA_DISABLED=true",
	"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
}

// bucketURL is the setting store for a bucket of a server.
func bucketURL(server string) string {
	return "s3://bucket/store?endpoint=" + server + "&path-style=true"
}

// goDownload runs the real go command, which has never run, with a proxy.
func goDownload(t *testing.T, world *proxytest.World, proxy string, modules ...string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", append([]string{"mod", "download", "-x"}, modules...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY="+proxy, "GOSUMDB="+world.GOSUMDB(), "GOPATH="+filepath.Join(dir, "gopath"), "GOENV=off",
		"GOFLAGS=-modcacherw -mod=mod", "GOTOOLCHAIN=local", "GOMODCACHE=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod download: %v\n%s", err, out)
	}
}

// Two servers share a bucket. What one has fetched and proved the other one serves without the upstream, also
// after the first one was killed.
func TestReplicas(t *testing.T) {
	t.Parallel()
	testReplicas(t, s3test.Start(t).URL)
}

// The same with an object store that is not ours.
func TestReplicasVersitygw(t *testing.T) {
	t.Parallel()
	testReplicas(t, s3test.Versitygw(t))
}

func testReplicas(t *testing.T, server string) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to be the client")
	}
	world := proxytest.New(t)
	world.Add(modulesArchive(t))
	args := func(upstream string) []string {
		return []string{"--data", t.TempDir(), "--store", bucketURL(server), "--upstream", upstream, "--sumdb", world.GOSUMDB()}
	}
	one, first := startProcessIn(t, bucketEnv, program, args(world.URL("ok"))...)
	two, second := startProcessIn(t, bucketEnv, program, args("off")...)
	goDownload(t, world, one, "example.com/hello@v1.0.0")
	goDownload(t, world, two, "example.com/hello@v1.0.0")
	if status, body := assaytest.Fetch(t, two+"/example.com/hello/@v/list"); status != http.StatusOK || !strings.Contains(body, "v1.0.0") {
		t.Errorf("list of the second server: %d %q", status, body)
	}
	kill(t, first)
	three, third := startProcessIn(t, bucketEnv, program, args("off")...)
	goDownload(t, world, three, "example.com/hello@v1.0.0")
	kill(t, second)
	kill(t, third)
}

// modulesArchive returns the modules of the scripts.
func modulesArchive(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("testdata/modules/basic.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A server on an object store that does not keep conditions refuses to share it, says why and what to do, and works
// alone.
func TestLyingObjectStore(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	world.Add(modulesArchive(t))
	server := s3test.Start(t)
	server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} })
	args := []string{"--data", t.TempDir(), "--store", bucketURL(server.URL), "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB()}
	refused := assay(program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	refused.Env = bucketEnv
	out, err := refused.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "If-None-Match") || !strings.Contains(string(out), "--single-replica") {
		t.Errorf("several servers: %v\n%s", err, out)
	}
	url, cmd := startProcessIn(t, bucketEnv, program, append(args, "--single-replica")...)
	goDownload(t, world, url, "example.com/hello@v1.0.0")
	for _, command := range [][]string{{"gc"}, {"purge", "example.com/hello", "--reason", "test"}, {"verify", "--repair"}} {
		elsewhere := assay(program, append(command, "--store", bucketURL(server.URL), "--data", t.TempDir())...)
		elsewhere.Env = bucketEnv
		if out, err := elsewhere.CombinedOutput(); err == nil || !strings.Contains(string(out), "only the one server may change") {
			t.Errorf("%s from elsewhere: %v\n%s", command[0], err, out)
		}
	}
	beside := assay(program, "gc", "--store", bucketURL(server.URL), "--data", args[1])
	beside.Env = bucketEnv
	if out, err := beside.CombinedOutput(); err != nil || !strings.Contains(string(out), "deleted 0 contents") {
		t.Errorf("gc by the server: %v\n%s", err, out)
	}
	kill(t, cmd)
	server.Fail(func(r s3test.Request) s3test.Fault { return s3test.Fault{Hidden: r.Op == "LIST"} })
	refused = assay(program, append([]string{"serve", "--listen", "127.0.0.1:0", "--single-replica"}, args...)...)
	refused.Env = bucketEnv
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot be used") {
		t.Errorf("an object store whose lists are late: %v\n%s", err, out)
	}
}

// fetchWhole reports whether a server sends the whole object at a path. Wrong bytes fail the test.
func fetchWhole(t *testing.T, world *proxytest.World, url, path string) bool {
	resp, err := http.Get(url + "/" + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return false
	}
	if !bytes.Equal(got, world.File(path)) {
		t.Errorf("%s from %s is wrong", path, url)
	}
	return true
}

// The bucket of a server that runs is emptied, and later another server makes a store there. The server notices it,
// writes nothing there, sends what is on its own disk, and goes on when its store is back.
func TestBucketExchanged(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	world.Add(modulesArchive(t))
	server := s3test.Start(t)
	start := func() (string, *exec.Cmd) {
		return startProcessIn(t, bucketEnv, program, "--data", t.TempDir(), "--store", bucketURL(server.URL),
			"--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
	}
	one, first := start()
	const held, other = "/example.com/hello/@v/v1.0.0.mod", "/example.com/hello/@v/v1.1.0.mod"
	if status, body := assaytest.Fetch(t, one+held); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	await := func(path string, want int) (body string) {
		t.Helper()
		for n, end := 0, time.Now().Add(2*time.Minute); ; n++ {
			// Each path is requested once: an absence may be remembered.
			status, body := assaytest.Fetch(t, one+strings.ReplaceAll(path, "N", strings.Repeat("x", n+1)))
			if status == want {
				return body
			} else if time.Now().After(end) {
				t.Fatalf("%s: %d, want %d: %s", path, status, want, body)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	store := map[string][]byte{}
	for _, key := range server.Keys("") {
		server.Change(key, func(b []byte) []byte { store[key] = b; return nil })
	}
	if body := await("/example.com/N/@v/v1.0.0.mod", http.StatusServiceUnavailable); !strings.Contains(body, "object store") {
		t.Errorf("the error of a server whose bucket was emptied: %s", body)
	}
	two, second := start() // makes another store
	if status, body := assaytest.Fetch(t, two+held); status != http.StatusOK {
		t.Errorf("a server with the new store: %d %s", status, body)
	}
	before := server.Keys("store/o/")
	if status, body := assaytest.Fetch(t, one+held); status != http.StatusOK {
		t.Errorf("what is on the disk of the first server: %d %s", status, body)
	}
	if status, body := assaytest.Fetch(t, one+other); status != http.StatusServiceUnavailable {
		t.Errorf("what is not: %d %s", status, body)
	}
	if after := server.Keys("store/o/"); !slices.Equal(before, after) {
		t.Errorf("the first server has changed the objects of another store from %q to %q", before, after)
	}
	kill(t, second)
	for _, key := range server.Keys("") {
		server.Change(key, func([]byte) []byte { return nil })
	}
	for key, value := range store {
		server.Change(key, func([]byte) []byte { return value })
	}
	await(other, http.StatusOK)
	kill(t, first)
}

// What a client will probably request next is read ahead in the bucket, where another server has stored it.
func TestPredictFromBucket(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, server := proxytest.New(t), s3test.Start(t)
	var archive, requires strings.Builder
	var modules []string
	for i := range 6 {
		path := fmt.Sprintf("graph.example/%d", i)
		fmt.Fprintf(&archive, "-- %s@v1.0.0/go.mod --\nmodule %s\n-- %s@v1.0.0/a.go --\npackage a\n", path, path, path)
		fmt.Fprintf(&requires, "require %s v1.0.0\n", path)
		modules = append(modules, path+"/@v/v1.0.0.")
	}
	const root = "graph.example/root/@v/v1.0.0.mod"
	world.Add(archive.String() + "-- graph.example/root@v1.0.0/go.mod --\nmodule graph.example/root\ngo 1.16\n" + requires.String())
	start := func() string {
		url, _ := startProcessIn(t, bucketEnv, program, "--data", t.TempDir(), "--store", bucketURL(server.URL),
			"--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
		return url
	}
	get := func(url, path string) {
		t.Helper()
		if !fetchWhole(t, world, url, path) {
			t.Errorf("%s is not sent", path)
		}
	}
	filler := start()
	get(filler, root)
	for _, module := range modules {
		for _, kind := range []string{"mod", "info", "zip"} {
			get(filler, module+kind)
		}
	}
	reads := countReads(server)
	url := start()
	awaitLook(t, url)
	ahead := func(kind string, modules ...string) {
		t.Helper()
		for _, module := range modules {
			assaytest.WaitFor(t, func() bool { return reads(module+kind) > 0 })
		}
	}
	get(url, root)
	ahead("mod", modules...)
	for _, module := range modules {
		get(url, module+"mod")
	}
	get(url, modules[0]+"info")
	get(url, modules[1]+"info")
	ahead("info", modules...)
	for _, module := range modules {
		get(url, module+"info")
	}
	get(url, modules[0]+"zip")
	ahead("zip", modules[:5]...)
	for _, module := range modules {
		for _, kind := range []string{"mod", "info", "zip"} {
			get(url, module+kind)
			if n := reads(module + kind); n > 2 { // a reader may look for a copy right before it is stored
				t.Errorf("%s is read %d times in the bucket, want 1", module+kind, n)
			}
			if n := world.Count(module + kind); n != 1 {
				t.Errorf("%s is fetched %d times from the upstream, want 1", module+kind, n)
			}
		}
	}
}

// awaitLook waits until a server has looked at the news twice: what follows from the first look, which doubts all copies,
// has happened then.
func awaitLook(t *testing.T, url string) {
	t.Helper()
	read := regexp.MustCompile(`(?m)^assay_news_read_timestamp_seconds (\S+)$`)
	first := ""
	assaytest.WaitFor(t, func() bool {
		_, text := assaytest.Fetch(t, url+"/metrics")
		m := read.FindStringSubmatch(text)
		if m == nil || m[1] == "0" {
			return false
		}
		if first == "" {
			first = m[1]
		}
		return m[1] != first
	})
}

// countReads makes a server count reads of objects. The result returns how often one was read, whose key ends so.
func countReads(server *s3test.Server) (reads func(suffix string) int) {
	var mu sync.Mutex
	read := map[string]int{}
	server.Fail(func(r s3test.Request) s3test.Fault {
		mu.Lock()
		defer mu.Unlock()
		if r.Op == "GET" {
			read[r.Key]++
		}
		return s3test.Fault{}
	})
	return func(suffix string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for key, times := range read {
			if strings.HasSuffix(key, suffix) {
				n += times
			}
		}
		return n
	}
}

// Readers of the bucket that wait for memory do not keep others from local copies.
func TestReadersWaitForBucket(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, server := proxytest.New(t), s3test.Start(t)
	local, others := world.AddBig(1, 400<<10)[0], []string{}
	var archive strings.Builder
	for i := range 80 {
		fmt.Fprintf(&archive, "-- other.example/%d@v1.0.0/go.mod --\nmodule other.example/%d\n", i, i)
		others = append(others, fmt.Sprintf("other.example/%d/@v/v1.0.0.mod", i))
	}
	world.Add(archive.String())
	start := func() string {
		url, _ := startProcessIn(t, bucketEnv, program, "--data", t.TempDir(), "--store", bucketURL(server.URL),
			"--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--memory-budget", "144")
		return url
	}
	filler := start()
	for _, path := range append(others, local) {
		if !fetchWhole(t, world, filler, path) {
			t.Fatalf("%s is not sent", path)
		}
	}
	reads, url := countReads(server), start()
	assaytest.WaitFor(t, func() bool { // until it is served without the bucket
		before := reads(local)
		return fetchWhole(t, world, url, local) && before > 0 && reads(local) == before
	})
	answered := make(chan struct{})
	var held atomic.Int32
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "GET" && strings.Contains(r.Key, "other.example/") {
			held.Add(1)
			return s3test.Fault{Hold: answered}
		}
		return s3test.Fault{}
	})
	var clients sync.WaitGroup
	for _, path := range others {
		clients.Go(func() {
			if !fetchWhole(t, world, url, path) {
				t.Errorf("%s is not sent", path)
			}
		})
	}
	assaytest.WaitFor(t, func() bool { return held.Load() > 12 })
	for range 10 { // what the bucket does not answer for 20 seconds counts as away
		if !fetchWhole(t, world, url, local) {
			t.Fatal("a local copy is refused while others wait for the bucket")
		}
	}
	close(answered)
	clients.Wait()
}
