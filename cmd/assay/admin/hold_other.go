//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package admin

// hold locks nothing: this system cannot lock directories.
func hold(string) (release func(), err error) { return func() {}, nil }
