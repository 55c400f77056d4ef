//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package admin

import (
	"os"

	"golang.org/x/sys/unix"
)

// hold locks the file or directory at path until release is called or the process ends. The error
// is errHeld if another process has locked it, fs.ErrNotExist if it no longer exists, and another
// one if the file system does not support such locks.
func hold(path string) (release func(), err error) {
	// The open does not block on a link or a pipe of another user.
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
		err = errHeld // another process had the lock, has removed the file and created a new one
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
