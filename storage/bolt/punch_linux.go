package bolt

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// punch makes a hole in a file, which reads as zeros and takes no disk space.
func punch(f *os.File, offset, length int64) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			failed = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
			if failed != unix.EINTR {
				return
			}
		}
	})
	if failed == unix.EOPNOTSUPP || failed == unix.ENOSYS {
		failed = fmt.Errorf("the file system cannot make holes in %s: %w", f.Name(), errors.ErrUnsupported)
	}
	return errors.Join(err, failed)
}

// allocated returns how many bytes a file takes on disk.
func allocated(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size(), nil
	}
	return stat.Blocks * 512, nil
}
