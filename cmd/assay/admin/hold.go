package admin

import (
	"errors"
	"os"
)

// errHeld means that another process holds a path.
var errHeld = errors.New("another command is writing it; wait until that has ended")

// isAt reports whether f is the file at path.
func isAt(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(ours, there)
}
