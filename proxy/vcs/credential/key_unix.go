//go:build unix

package credential

import (
	"io/fs"
	"os"
	"syscall"
)

// ownedByOther reports whether a file belongs to another user than that of this process.
func ownedByOther(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) != os.Geteuid()
}
