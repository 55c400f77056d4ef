//go:build unix

package daemon

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// connectionWaits reports whether the kernel has a connection that Accept would return at once.
func connectionWaits(l net.Listener) bool {
	socket, ok := l.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(poll, 0)
		}
		waits = err == nil && n == 1 && poll[0].Revents&unix.POLLIN != 0
	})
	return err == nil && waits
}
