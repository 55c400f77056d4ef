// Command assay is a private Go module proxy that serves only proved modules. See README.md, or run
// assay --help.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run()) }

// run is main with an exit status.
func run() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2) // room for both, so that a second one is never lost
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go stopOn(signals, cancel, os.Exit)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		tell(os.Stderr, fmt.Sprintln("assay:", err))
		return 1
	}
	return 0
}

// tell writes text, and gives up after a while: out may be a pipe that is not read.
func tell(out io.Writer, text string) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(out, text) // an error cannot be reported anywhere else
	}()
	select {
	case <-written:
	case <-time.After(2 * time.Second):
	}
}

// stopOn stops the program gracefully at the first signal, and ends it immediately at the second.
func stopOn(signals <-chan os.Signal, stop context.CancelFunc, exit func(status int)) {
	<-signals
	stop()
	<-signals
	exit(1)
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "assay",
		Short: "A Go module proxy that serves only what it has verified",
		Long: `Assay is a private Go module proxy. It stores modules, checksum database records and
their proofs, and serves only what it has verified.

Start it, and configure the go command:

    assay serve
    go env -w GOPROXY=http://localhost:3000

List all settings: assay serve --help. Print the effective settings: assay config.`,
		Version:       versionLine(),
		SilenceUsage:  true,
		SilenceErrors: true, // run prints them, once
	}
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.SetVersionTemplate("{{.Version}}")
	// Long lines of help are easier to read when they are wrapped.
	cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 100"))
	cmd.AddCommand(newServeCommand(), newConfigCommand(), newVerifyCommand(), newBackupCommand(), newRestoreCommand(),
		newLsCommand(), newDuCommand(), newPurgeCommand(), newPinCommand(), newCompactCommand(), newGCCommand(), newStoreCommand(), newHealthCommand(), newKeyCommand(), newLogCommand(), newSumdbCommand(),
		newTokenCommand(), newGoAuthCommand(), newVersionCommand())
	return cmd
}
