package s3

import (
	"errors"
	"os"
	"path/filepath"
)

// drafts is the pattern of the names of files.
const drafts = "assay-draft-*"

// sweep removes the files that a process left where a file cannot be removed while it is open.
func sweep(dir string) error {
	if dir == "" {
		return nil
	}
	left, err := filepath.Glob(filepath.Join(dir, drafts))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}
