package content

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// spoolPattern matches our files in the directory for temporary files, and no others.
const spoolPattern = "fill-*.part"

// clearSpool makes dir and removes the files that a killed process left there.
func clearSpool(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	entries, err := os.ReadDir(dir) // not filepath.Glob: the directory's name may have wildcards
	if err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	for _, entry := range entries {
		if left, err := filepath.Match(spoolPattern, entry.Name()); err != nil || !left {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("spool directory: %w", err)
		}
	}
	return nil
}

// createSpool makes an empty temporary file. It makes the directory again if another program
// has removed it.
func createSpool(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, spoolPattern)
	if errors.Is(err, fs.ErrNotExist) && os.MkdirAll(dir, 0o700) == nil {
		file, err = os.CreateTemp(dir, spoolPattern)
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return file, nil
}
