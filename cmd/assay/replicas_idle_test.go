package main_test

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A server of a bucket with all that it shares, and without clients, sends one request a second at most.
func TestIdleServer(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	server, key := s3test.Start(t), filepath.Join(t.TempDir(), "key")
	store := bucketURL(server.URL)
	env := append(p.env, bucketEnv...)
	create := assay(p.program, "log", "create", "--log-key", key, "--log-name", "sum.corp.example", "--store", store, "--data", t.TempDir())
	create.Env = append(create.Env, env...)
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	url, _ := startProcessIn(t, env, p.program, "--data", t.TempDir(), "--store", store, "--log-key", key, "--unified", "--private", vcstest.PageHost,
		"--disk-age", "1h", "--upstream", argument(p.args, "--upstream"), "--sumdb", argument(p.args, "--sumdb"), "--ca-file", argument(p.args, "--ca-file"))
	for _, m := range p.versions[7:10] {
		if status, body := assaytest.Fetch(t, url+"/"+m.Path+"/@v/"+m.Version+".mod"); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
	}
	// What follows from these requests ends; leases are removed, absences noted.
	const window = 5 * time.Second
	for round := 0; ; round++ {
		before, begun := server.Requests(), time.Now()
		time.Sleep(window)
		sent, most := server.Requests()-before, int(time.Since(begun)/time.Second)+1
		if sent <= most {
			return
		}
		if round == 11 {
			t.Fatalf("%d requests in %v, want %d at most", sent, time.Since(begun), most)
		}
	}
}
