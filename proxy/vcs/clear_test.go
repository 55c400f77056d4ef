package vcs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs"
)

// A git of a process that was killed may still make temporary files while the next process
// clears the directory.
func TestClearWhileWritten(t *testing.T) {
	t.Parallel()
	for range 20 {
		dir := t.TempDir()
		temp := filepath.Join(dir, "tmp")
		if err := os.MkdirAll(filepath.Join(dir, "cache"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(temp, 0o700); err != nil {
			t.Fatal(err)
		}
		started := make(chan struct{})
		var git sync.WaitGroup
		git.Go(func() {
			for i := range 200 {
				if err := os.WriteFile(filepath.Join(temp, fmt.Sprint(i)), nil, 0o600); err != nil {
					return // the directory is gone
				}
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
