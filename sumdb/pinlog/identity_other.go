//go:build !linux && !darwin

package pinlog

import "os"

// identify knows nothing that tells a file from a copy of it on this system.
func identify(*os.File) (identity, error) { return identity{}, nil }
