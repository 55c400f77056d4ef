package pinlog

import (
	"errors"
	"fmt"
	"path/filepath"
)

// identity tells a file from a copy of it. Zero is what the system cannot tell.
// Times are nanoseconds of Unix time.
type identity struct {
	inode uint64
	born  int64

	// changed is when its content, owner, mode or links changed. It is no part of
	// what the file is.
	changed int64
}

// differs says whether a and b are certainly two files.
func (a identity) differs(b identity) bool {
	return a.inode != 0 && b.inode != 0 && a.inode != b.inode ||
		a.born != 0 && b.born != 0 && a.born != b.born
}

// inside says whether path is below dir.
func inside(dir, path string) (bool, error) {
	dir, err1 := filepath.Abs(dir)
	path, err2 := filepath.Abs(path)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel), nil
}

// diskError adds the next step to an error of writing.
func diskError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; what is in the log stays readable, nothing is signed that is not on disk", err)
}
