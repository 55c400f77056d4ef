package main_test

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A process purges a version in the bucket, and is killed before it tells the other servers. None of them serves the
// version from its memory or its disk.
func TestPurgeKilled(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{"command", "server"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			world := proxytest.New(t)
			world.Add(modulesArchive(t))
			server := s3test.Start(t)
			start := func(upstream string) (url, dir string, cmd *exec.Cmd) {
				dir = t.TempDir()
				url, cmd = startProcessIn(t, bucketEnv, program, "--data", dir, "--store", bucketURL(server.URL), "--upstream", upstream, "--sumdb", world.GOSUMDB())
				return url, dir, cmd
			}
			one, dir, first := start(world.URL("ok"))
			two, _, second := start("off")
			const path = "/example.com/hello/@v/v1.0.0.mod"
			for _, url := range []string{one, two, two} {
				if status, body := assaytest.Fetch(t, url+path); status != http.StatusOK {
					t.Fatalf("%d %s", status, body)
				}
			}
			deleted, told, release := false, make(chan struct{}, 1), make(chan struct{})
			server.Fail(func(r s3test.Request) s3test.Fault {
				deleted = deleted || r.Op == "DELETE" && strings.HasPrefix(r.Key, "store/o/")
				if !deleted || r.Op != "PUT" || r.Key != "store/s/news" {
					return s3test.Fault{}
				}
				select {
				case told <- struct{}{}:
				default:
				}
				return s3test.Fault{Hold: release, Before: http.StatusServiceUnavailable, Code: "SlowDown"}
			})
			if by == "command" {
				dir = t.TempDir()
			}
			purge := assay(program, "purge", "example.com/hello@v1.0.0", "--reason", "test", "--store", bucketURL(server.URL), "--data", dir)
			purge.Env = bucketEnv
			if err := purge.Start(); err != nil {
				t.Fatal(err)
			}
			<-told
			if by == "server" {
				kill(t, first)
				_ = purge.Wait() // its server was killed
			} else {
				kill(t, purge)
			}
			server.Fail(nil)
			close(release)
			assaytest.WaitFor(t, func() bool {
				status, _ := assaytest.Fetch(t, two+path)
				return status == http.StatusNotFound
			})
			kill(t, second)
		})
	}
}
