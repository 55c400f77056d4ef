package bolt

import (
	"os"

	"golang.org/x/sys/unix"
)

// willNeed tells the kernel to read a part of f into its cache. It is only a hint, so an error has
// no consequence.
func willNeed(f *os.File, offset, length int64) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.Fadvise(int(fd), offset, length, unix.FADV_WILLNEED)
		})
	}
}
