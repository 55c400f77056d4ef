//go:build !unix

package durable

import (
	"io/fs"
	"os"
)

// A file has the access rules of its directory here.

func own(*os.File) error { return nil }

func ownDir(string) error { return nil }

// Inherit does nothing: a file has the access rules of its directory.
func Inherit(*os.File, fs.FileInfo) error { return nil }
