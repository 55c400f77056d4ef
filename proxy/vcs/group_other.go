//go:build !unix

package vcs

import "os/exec"

// ownGroup does nothing: without process groups only the command is killed, and its child
// processes end when their pipes are closed.
func ownGroup(*exec.Cmd) {}

func endGroup(*exec.Cmd) {}
