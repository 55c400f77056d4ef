//go:build unix

package budget

import (
	"io/fs"
	"syscall"
)

// allocated returns how many bytes a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(stat.Blocks) * 512
	}
	return info.Size()
}
