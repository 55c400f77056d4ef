package pinlog

import (
	"os"
	"syscall"
)

// identify returns what tells f from a copy of it: its inode number and its time
// of birth; and when it was changed.
func identify(f *os.File) (identity, error) {
	info, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, nil
	}
	return identity{stat.Ino, stat.Birthtimespec.Nano(), stat.Ctimespec.Nano()}, nil
}
