//go:build !linux && !darwin

package pinlog

import "os"

// identify returns nothing: this system has nothing that distinguishes a file from a copy.
func identify(*os.File) (identity, error) { return identity{}, nil }
