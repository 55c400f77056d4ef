//go:build unix

package admin

import (
	"os"
	"syscall"
)

// OfRoot reports whether root owns the data directory: then root owns what a command has made there.
func OfRoot(data string) bool {
	info, err := os.Stat(data)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0
}
