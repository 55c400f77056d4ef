//go:build !linux

package bolt

import "os"

// willNeed does nothing: this system has only the kernel's own read-ahead.
func willNeed(*os.File, int64, int64) {}
