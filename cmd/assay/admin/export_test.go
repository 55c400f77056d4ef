package admin

import "io/fs"

// Claim is claim.
func Claim(path string, clear func() error, create func() (fs.FileInfo, error)) (release func(), err error) {
	return claim(path, clear, create)
}
