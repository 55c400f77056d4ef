package main

import (
	"os"
	"strings"
	"testing"
)

// An archive is not written to a terminal, which would change its bytes after they were checked.
func TestBackupToTerminal(t *testing.T) {
	t.Parallel()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer terminal.Close()
	if err := checkTarget(t.TempDir(), "-", terminal); err == nil || !strings.Contains(err.Error(), "standard output is a terminal") {
		t.Errorf("checkTarget of a terminal = %v", err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, f := range []*os.File{out, null} {
		if err := checkTarget(t.TempDir(), "-", f); err != nil {
			t.Errorf("checkTarget of %s = %v", f.Name(), err)
		}
	}
}
