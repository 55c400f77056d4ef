package pinlog

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
)

// takeLock opens and locks the file at path.
func takeLock(path string) (*os.File, error) {
	f, err := durable.OpenFile(path, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockSoon(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w; stop that process, or open the log read-only", f.Name(), err), f.Close())
	}
	return f, nil
}

// lockWait is how long lockSoon waits for another process to release the lock; the store waits as
// long for its own. A process that starts a command shares the lock with it until the command
// executes, so the lock outlives its Close by that moment.
const lockWait = time.Second

// lockSoon retries lockFile for lockWait.
func lockSoon(f *os.File) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if err := lockFile(f); !errors.Is(err, storage.ErrInUse) || time.Since(begin) > lockWait {
			return err
		}
	}
}
