//go:build !unix

package budget

import "io/fs"

// allocated returns how many bytes a file takes on disk.
func allocated(info fs.FileInfo) int64 { return info.Size() }
