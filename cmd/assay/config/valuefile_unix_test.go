//go:build unix

package config_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// A pipe in place of a file with a value is refused. To open one would wait for a process that writes into it.
func TestValueFilePipe(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := config.CheckMode(pipe, config.OthersAny); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Fatalf("CheckMode of a pipe: %v", err)
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.AddFlags(flags)
	_, _, err := config.Load(flags, func(name string) string {
		if name == "ASSAY_UPSTREAM_FILE" {
			return pipe
		}
		return ""
	})
	if err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("Load: %v", err)
	}
}
