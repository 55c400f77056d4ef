//go:build unix

package fetch_test

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// A named pipe is not a file, and opening it must not wait for its other end.
func TestDirectoryPipe(t *testing.T) {
	root := tree(t, map[string]string{"x": ""})
	if err := syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := read(t, newChain(t, fetch.Config{List: fileURL(root)}), "pipe")
	wantIs(t, err, fs.ErrNotExist)
}
