package s3_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// versitygw starts the S3 server that VERSITYGW names, with one bucket in a directory, and returns
// its URL. Without that variable the test is skipped; .ci/run sets it.
func versitygw(t *testing.T) string {
	t.Helper()
	program := os.Getenv("VERSITYGW")
	if program == "" {
		t.Skip("VERSITYGW does not name the program; see docs/design/bucket.md")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The program closes the listener at once: a port that is free now.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "--port", address, "--quiet", "--keep-alive", "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=testaccess", "ROOT_SECRET_KEY=testsecret123")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	url := "http://" + address
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(url)
		if err == nil {
			response.Body.Close()
			return url
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not answer: %v", err)
		}
	}
}

func TestVersitygw(t *testing.T) {
	t.Parallel()
	url := versitygw(t)
	var stores atomic.Int64
	storagetest.Test(t, func(t *testing.T) storage.Store {
		return open(t, s3.Options{Bucket: "bucket", Prefix: fmt.Sprintf("store-%d", stores.Add(1)), Endpoint: url, PathStyle: true, Spool: t.TempDir()})
	})
}

// A gateway over a directory keeps its promises too.
func TestVersitygwProbe(t *testing.T) {
	t.Parallel()
	report, err := open(t, s3.Options{Bucket: "bucket", Endpoint: versitygw(t), PathStyle: true}).Probe(t.Context())
	if err != nil || report.Err() != nil || report.Left != 0 {
		t.Errorf("Probe = %+v, %v, want nothing broken", report, err)
	}
}
