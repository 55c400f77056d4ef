//go:build unix

package daemon

import "syscall"

// descriptorLimit returns how many file descriptors this process may have. Package os has raised
// the soft limit to the hard one before main begins; commands that it runs get the original soft
// limit.
func descriptorLimit() int64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > noLimit {
		return noLimit
	}
	return int64(limit.Cur)
}
