//go:build !windows

package access

import (
	"os"
	"syscall"

	"github.com/assay-proxy/assay/internal/durable"
)

// lockFile waits for the lock of a file, which is released when the file is closed or the process
// ends. The file stays: if it were removed, a third process could lock a new file beside a second
// process that waits for the old one.
func lockFile(name string) (*os.File, error) {
	f, err := durable.OpenFile(name, 0o600)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
