package vcstest

import (
	"os"
	"path/filepath"
)

// The hosts of a World. Other names do not exist.
const (
	PageHost = "corp.example"     // has go-import pages
	GitHost  = "git.corp.example" // has repositories
)

// T is the part of testing.TB that a World needs.
type T interface {
	Helper()
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Cleanup(func())
	TempDir() string
}

func writeFile(t T, name string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, mode); err != nil {
		t.Fatal(err)
	}
}
