//go:build !linux

package bolt

import "os"

// willNeed is what the kernel's own readahead does, where it is not told.
func willNeed(*os.File, int64, int64) {}
