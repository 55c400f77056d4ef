//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package admin

import (
	"os"

	"golang.org/x/sys/unix"
)

// hold locks the file or directory at path until release is called or the process ends.
// The error is errHeld if another process has it, fs.ErrNotExist if nothing is there any
// more, and another one if the file system has no such locks.
func hold(path string) (release func(), err error) {
	// A link or a pipe that another user has put there is not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == unix.EWOULDBLOCK {
		err = errHeld
	}
	if err == nil && !isAt(f, path) {
		err = errHeld // another process had it, has removed it and made a new one
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
