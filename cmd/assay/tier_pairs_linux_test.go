package main_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// refuseAll is a bucket that refuses each request.
func refuseAll(s3test.Request) s3test.Fault {
	return s3test.Fault{Before: http.StatusServiceUnavailable, Code: "SlowDown"}
}

// awaitCopies waits until a server has local copies of the zips.
func awaitCopies(t *testing.T, world *proxytest.World, reads func(string) int, url string, paths []string) {
	t.Helper()
	awaitLook(t, url)
	for _, path := range paths {
		assaytest.WaitFor(t, func() bool {
			before := reads(path)
			return fetchWhole(t, world, url, path) && reads(path) == before
		})
	}
}

// A module becomes restricted by a reload at a server that has local copies of it. Clients with the right get the copy, all
// other clients get nothing, also while the bucket is away, and after a restart.
func TestReloadHidesCopies(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	secret := p.addBig("secret")
	objects := s3test.Start(t)
	store, key, dir := bucketURL(objects.URL), filepath.Join(t.TempDir(), "key"), t.TempDir()
	p.createLog(store, key)
	token := p.createToken(filepath.Join(dir, "data"), "team")
	const private = "private = '" + vcstest.PageHost + "'\n"
	restricted := private + "access = '" + secret.Path + "=team'\n"
	r := p.startReplica(store, key, dir, private)
	reads := countReads(objects)
	awaitLook(t, r.url)
	var want []byte
	assaytest.WaitFor(t, func() bool { // until the copy is there
		before := reads(zipOf(secret))
		status, body := getAs(t, r.url, zipOf(secret), "")
		want = body
		return status == http.StatusOK && len(body) > bigZip && reads(zipOf(secret)) == before
	})
	base := strings.TrimSuffix(zipOf(secret), "zip")
	open := []string{base + "zip", base + "info", base + "mod", secret.Path + "/@v/list", "cached-only/" + base + "zip", "sumdb/sum.corp.example/lookup/" + secret.String()}
	for _, path := range open {
		if status, body := getAs(t, r.url, path, ""); status != http.StatusOK {
			t.Fatalf("%s before the reload: %d %s", path, status, body)
		}
	}
	r.hangup(restricted)
	check := func(when string, also ...int) {
		t.Helper()
		before := reads(zipOf(secret))
		for _, path := range []string{zipOf(secret), "cached-only/" + zipOf(secret)} {
			if status, got := getAs(t, r.url, path, token); status != http.StatusOK || !bytes.Equal(got, want) {
				t.Errorf("%s: %s with the right is %d, %d bytes", when, path, status, len(got))
			}
		}
		if n := reads(zipOf(secret)); n != before {
			t.Errorf("%s: it was read in the bucket, so this shows nothing about copies", when)
		}
		for _, path := range open {
			if status, body := getAs(t, r.url, path, ""); !slices.Contains(append(also, hidden...), status) {
				t.Errorf("%s: %s without the right is %d, %d bytes", when, path, status, len(body))
			}
		}
	}
	check("restricted")
	objects.Fail(refuseAll)
	check("while the bucket is away", http.StatusServiceUnavailable)
	reads = countReads(objects)
	kill(t, r.cmd)
	r = p.startReplica(store, key, dir, restricted)
	awaitLook(t, r.url)
	assaytest.WaitFor(t, func() bool { // the copy is compared with the bucket once
		before := reads(zipOf(secret))
		status, _ := getAs(t, r.url, zipOf(secret), token)
		return status == http.StatusOK && reads(zipOf(secret)) == before
	})
	check("after a restart")
}

// The local copies are of an earlier layout, damaged, or partly lost: the server starts, removes what it cannot read, and has
// copies again, without any upstream. Nothing wrong is served.
func TestTierOfAnotherState(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, objects := proxytest.New(t), s3test.Start(t)
	paths := world.AddBig(4, bigZip)
	start := func(data, upstream string) (url string, end func()) {
		url, cmd := startProcessIn(t, bucketEnv, program, "--data", data, "--store", bucketURL(objects.URL), "--upstream", upstream, "--sumdb", world.GOSUMDB())
		return url, func() { kill(t, cmd) }
	}
	reads, made := countReads(objects), filepath.Join(t.TempDir(), "data")
	url, end := start(made, world.URL("ok"))
	awaitCopies(t, world, reads, url, paths)
	end()
	if err := os.RemoveAll(filepath.Join(made, "admin")); err != nil { // a socket cannot be copied
		t.Fatal(err)
	}
	overwrite := func(name string, change func(content []byte) []byte) func(t *testing.T, tier string) {
		return func(t *testing.T, tier string) {
			content, err := os.ReadFile(filepath.Join(tier, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(tier, name), change(content), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	zero := func(content []byte) []byte { clear(content); return content }
	short := func(content []byte) []byte { return content[:40<<10] }
	middle := func(content []byte) []byte { clear(content[len(content)/4 : 3*len(content)/4]); return content }
	for _, c := range []struct {
		name    string
		removed bool // the whole directory
		change  func(t *testing.T, tier string)
	}{
		{"records are lost", true, overwrite("meta.db", zero)},
		{"records are cut off", false, overwrite("meta.db", short)},
		{"contents are lost", true, overwrite("blobs.db", zero)},
		{"contents are cut off", false, overwrite("blobs.db", short)},
		{"contents are damaged", false, overwrite("blobs.db", middle)},
		{"an earlier layout", true, func(t *testing.T, tier string) {
			d := openOldData(t, filepath.Join(dataDirs, "2026-11-public.tar.gz"))
			for _, name := range []string{"meta.db", "blobs.db"} {
				overwrite(name, func([]byte) []byte { return []byte(d.read("data/" + name)) })(t, tier)
			}
		}},
		{"the file of contents is missing", false, func(t *testing.T, tier string) {
			if err := os.Remove(filepath.Join(tier, "blobs.db")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		data := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(data, os.DirFS(made)); err != nil {
			t.Fatal(err)
		}
		tier, mark := filepath.Join(data, "tier"), filepath.Join(data, "tier", "mark")
		c.change(t, tier)
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		url, end := start(data, "off")
		for _, path := range paths {
			if !fetchWhole(t, world, url, path) {
				t.Errorf("%s: %s is not sent", c.name, path)
			}
		}
		awaitCopies(t, world, reads, url, paths)
		end()
		if _, err := os.Stat(mark); c.removed && err == nil {
			t.Errorf("%s: the directory of the copies is still there", c.name)
		}
	}
}

// Servers with a limit of their copies are killed while clients want several times the limit: nothing that a client had is
// lost, no wrong byte is served, and the limit holds.
func TestTierLimitKilled(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const size, limit = 600 << 10, 12 << 20
	world, objects := proxytest.New(t), s3test.Start(t)
	paths := world.AddBig(24, size)
	dirs := []string{t.TempDir(), t.TempDir()}
	var mu sync.Mutex
	complete := map[string]bool{}
	for range (kills(t, 4) + 1) / 2 {
		for i, dir := range dirs {
			url, cmd := startProcessIn(t, bucketEnv, program, "--data", dir, "--store", bucketURL(objects.URL), "--upstream", world.URL("ok"),
				"--sumdb", world.GOSUMDB(), "--disk-limit", "12MiB")
			var clients, some sync.WaitGroup
			some.Add(8)
			for c := range 2 {
				clients.Go(func() {
					for n := range paths {
						path := paths[(n*(1+2*c)+12*i)%len(paths)]
						whole := fetchInTrouble(t, world, url, path)
						if c == 0 && n < 8 {
							some.Done()
						}
						if whole {
							mu.Lock()
							complete[path] = true
							mu.Unlock()
						}
					}
				})
			}
			some.Wait()
			kill(t, cmd)
			clients.Wait()
			if used := diskUse(t, dir); used > limit+2*size {
				t.Errorf("the data directory takes %d bytes, limit %d", used, limit)
			}
		}
	}
	if len(complete) < 8 {
		t.Errorf("only %d objects were complete", len(complete))
	}
	url, cmd := startProcessIn(t, bucketEnv, program, "--data", dirs[0], "--store", bucketURL(objects.URL), "--upstream", "off",
		"--sumdb", world.GOSUMDB(), "--disk-limit", "12MiB")
	for path := range complete {
		if !fetchWhole(t, world, url, path) {
			t.Errorf("%s is lost; a client had it completely", path)
		}
	}
	kill(t, cmd)
}
