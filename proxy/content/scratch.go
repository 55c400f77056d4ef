package content

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// scratchPattern matches our scratch files, and no others.
const scratchPattern = "fill-*.part"

// clearScratch makes dir and removes the scratch files that a killed process left there.
func clearScratch(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	entries, err := os.ReadDir(dir) // not filepath.Glob: the directory's name may have wildcards
	if err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	for _, entry := range entries {
		if left, err := filepath.Match(scratchPattern, entry.Name()); err != nil || !left {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("scratch directory: %w", err)
		}
	}
	return nil
}

// createScratch makes an empty scratch file. It makes the directory again if another program
// has removed it.
func createScratch(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, scratchPattern)
	if errors.Is(err, fs.ErrNotExist) && os.MkdirAll(dir, 0o700) == nil {
		file, err = os.CreateTemp(dir, scratchPattern)
	}
	if err != nil {
		return nil, fmt.Errorf("scratch file: %w", err)
	}
	return file, nil
}
