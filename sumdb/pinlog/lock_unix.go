//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package pinlog

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/assay-proxy/assay/storage"
)

// lockFile locks f until it is closed or the process ends in any way. The error is storage.ErrInUse
// if another process has it locked.
func lockFile(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return storage.ErrInUse
		default:
			return err
		}
	}
}
