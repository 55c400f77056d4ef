package pinlog

import (
	"os"
	"syscall"
)

// identify returns the inode number and the time of birth of f, which distinguish it from a copy,
// and the time of its last change.
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
