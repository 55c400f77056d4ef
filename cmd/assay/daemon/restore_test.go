package daemon_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/storage/bolt"
)

// A server does not use a data directory in which a restore began while the server opened the store:
// the restore would replace the files that the server has open.
func TestRestoreDuringStart(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	db, err := bolt.Open(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse([]string{"--listen", "127.0.0.1:0", "--data", data, "--upstream", "off", "--sumdb", "off"}); err != nil {
		t.Fatal(err)
	}
	load := func() (config.Config, config.Sources, error) {
		return config.Load(flags, func(string) string { return "" })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error)
	go func() {
		ended <- daemon.Run(ctx, daemon.Options{Load: load, Version: "test", Out: io.Discard, Err: new(assaytest.Output)})
	}()
	time.Sleep(300 * time.Millisecond) // it waits for the lock of the store, or is slower, and refuses at once
	if err := os.Mkdir(filepath.Join(data, "restore.unfinished"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the server has started")
	}
}
