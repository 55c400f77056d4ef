package pinlog

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/assay-proxy/assay/storage"
)

// location is the place of the files of a log, and of the guards.
type location struct {
	dir   string
	guard string        // the guard outside of dir, may be ""
	store storage.Store // may be nil
}

// path returns the path of a file of the log.
func (l location) path(name string) string { return filepath.Join(l.dir, name) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// inside reports whether path is below dir.
func inside(dir, path string) (bool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel), nil
}

// diskError adds to a write error what it means for the log.
func diskError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; the log stays readable, and signs only entries that are on disk", err)
}
