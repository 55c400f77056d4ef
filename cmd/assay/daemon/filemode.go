package daemon

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// What others may not be allowed to do with a file: anything with a secret, write to
// one that says whom to trust.
const (
	othersAny   fs.FileMode = 0o007
	othersWrite fs.FileMode = 0o002
)

// checkMode refuses a file with which others on this machine can do what is forbidden.
func checkMode(name string, forbidden fs.FileMode) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	switch {
	case runtime.GOOS == "windows" || mode&forbidden == 0:
		return nil
	case forbidden == othersWrite:
		return fmt.Errorf("other users can change %s (mode %04o); run: chmod o-w %s", name, mode, name)
	}
	return fmt.Errorf("other users can read or change %s (mode %04o); run: chmod o-rwx %s", name, mode, name)
}
