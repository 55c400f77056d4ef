package pinlog

import (
	"os"

	"golang.org/x/sys/unix"
)

// identify returns the inode number of f; its time of birth where the file system has it, because
// inode numbers are reused; and the time of its last change.
func identify(f *os.File) (identity, error) {
	var stat unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_CTIME, &stat)
	if err != nil {
		return identity{}, &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	id := identity{inode: stat.Ino, changed: stat.Ctime.Sec*1e9 + int64(stat.Ctime.Nsec)}
	if stat.Mask&unix.STATX_BTIME != 0 {
		id.born = stat.Btime.Sec*1e9 + int64(stat.Btime.Nsec)
	}
	return id, nil
}
