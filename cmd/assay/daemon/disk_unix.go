//go:build linux || darwin || freebsd

package daemon

import "golang.org/x/sys/unix"

// diskSpace returns how many bytes of the file system at dir are free for this user, and its size; ok
// is false if the system does not tell.
func diskSpace(dir string) (free, size uint64, ok bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, false
	}
	block := uint64(s.Bsize)
	return uint64(max(s.Bavail, 0)) * block, s.Blocks * block, true // on FreeBSD less than nothing can be free
}
