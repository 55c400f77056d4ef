//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package pinlog

import (
	"errors"
	"fmt"
	"os"
)

// lockFile refuses: two processes that sign one log would fork it.
func lockFile(*os.File) error {
	return fmt.Errorf("no file locks on this system: %w", errors.ErrUnsupported)
}
