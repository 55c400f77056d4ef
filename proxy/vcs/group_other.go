//go:build !unix

package vcs

import "os/exec"

// ownGroup does nothing: where there are no process groups, the command alone is
// ended, and its children end when they find their pipes closed.
func ownGroup(*exec.Cmd) {}

func endGroup(*exec.Cmd) {}
