package vcs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs"
)

// A git of a process that was killed may still write its traces while the next process
// clears the directory.
func TestClearWhileWritten(t *testing.T) {
	t.Parallel()
	for range 20 {
		dir := t.TempDir()
		traces := filepath.Join(dir, "traces")
		if err := os.MkdirAll(filepath.Join(dir, "cache"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(traces, 0o700); err != nil {
			t.Fatal(err)
		}
		started := make(chan struct{})
		var git sync.WaitGroup
		git.Go(func() {
			for i := range 2000 {
				_ = os.WriteFile(filepath.Join(traces, fmt.Sprint(i)), nil, 0o600) // until the directory is gone
				if i == 20 {
					close(started)
				}
			}
		})
		<-started
		if err := vcs.Clear(dir); err != nil {
			t.Errorf("Clear: %v", err)
		}
		git.Wait()
	}
}
