package access

import (
	"os"

	"golang.org/x/sys/windows"

	"github.com/assay-proxy/assay/internal/durable"
)

// lockFile waits for the lock of a file, which is released when the file is closed or the process
// ends.
func lockFile(name string) (*os.File, error) {
	f, err := durable.OpenFile(name, 0o600)
	if err != nil {
		return nil, err
	}
	if err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, new(windows.Overlapped)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
