package pinlog

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"

	"github.com/assay-proxy/assay/storage"
)

// lockFile locks f until it is closed or the process ends in any way. The error is storage.ErrInUse
// if another process has it locked.
func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return storage.ErrInUse
	}
	return err
}
