package daemon

import (
	"path/filepath"
	"runtime"
	"testing"
)

// The free bytes are at most the size, which a directory on a disk has; a directory that is gone has
// neither.
func TestDiskSpace(t *testing.T) {
	t.Parallel()
	switch runtime.GOOS {
	case "linux", "darwin", "freebsd", "windows":
	default:
		t.Skip("not implemented for this system")
	}
	dir := t.TempDir()
	free, size, ok := diskSpace(dir)
	if !ok || size == 0 || free > size {
		t.Errorf("%d of %d bytes are free, %t", free, size, ok)
	}
	if free, size, ok := diskSpace(filepath.Join(dir, "gone")); ok {
		t.Errorf("a directory that does not exist has %d of %d bytes", free, size)
	}
}
