//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package pinlog

import (
	"errors"
	"fmt"
	"os"
)

// lockFile returns an error: without a lock, two processes could sign one log and fork it.
func lockFile(*os.File) error {
	return fmt.Errorf("no file locks on this system: %w", errors.ErrUnsupported)
}
