//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package main

import "os"

// isTerminal knows no terminals on this system.
func isTerminal(*os.File) bool { return false }
