package config

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// Permissions that others must not have for a file: any for one with a secret, writing for one that
// defines whom to trust.
const (
	OthersAny   fs.FileMode = 0o007
	OthersWrite fs.FileMode = 0o002
)

// CheckMode returns an error if other users of this machine have a forbidden permission for a file, or if it is not
// a regular file: to open a pipe would wait for a process that writes into it.
func CheckMode(name string, forbidden fs.FileMode) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; name a file", name)
	}
	mode := info.Mode().Perm()
	switch {
	case runtime.GOOS == "windows" || mode&forbidden == 0:
		return nil
	case forbidden == OthersWrite:
		return fmt.Errorf("other users can change %s (mode %04o); run: chmod o-w %s", name, mode, name)
	}
	return fmt.Errorf("other users can read or change %s (mode %04o); run: chmod o-rwx %s", name, mode, name)
}
