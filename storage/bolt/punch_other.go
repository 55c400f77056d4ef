//go:build !linux

package bolt

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// punch makes a hole in a file, which reads as zeros and takes no disk space.
func punch(f *os.File, _, _ int64) error {
	return fmt.Errorf("no way to make holes in %s on %s: %w", f.Name(), runtime.GOOS, errors.ErrUnsupported)
}

// allocated returns how many bytes a file takes on disk.
func allocated(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
