//go:build !linux && !darwin && !freebsd && !windows

package daemon

// diskSpace is not implemented for this system.
func diskSpace(string) (free, size uint64, ok bool) { return 0, 0, false }
