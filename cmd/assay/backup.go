package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage/bolt"
)

func newBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup DIR | FILE.tar | -",
		Short: "Back up the data directory, also while the server runs",
		Long: `Backup copies the data directory to a new directory DIR, to a new archive FILE.tar, or
to standard output: the stored modules, the own log with its key, the tokens and the
evidence, as they are at one moment. The server may be running, and serves meanwhile;
run the command as the server's user, or as root. The copy appears under its name when
it is complete and on disk.

The backup contains the key of the own log, which clients trust: protect it like the
data directory. assay restore puts it back.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			if c.Store != "" {
				return errors.New("the store is in a bucket, which this command does not back up; use what the object store has for it, " +
					"and keep the own log's key and guard: see docs/replicas.md")
			}
			o := bolt.Options{ReadOnly: true, Outdated: anyLayout} // a backup is what one wants before keys are moved
			return withAdmin(cmd.Context(), c, o, func(client *admin.Client) error {
				if err := checkTarget(c.Data, args[0], cmd.OutOrStdout()); err != nil {
					return err
				}
				return backup(cmd.Context(), client, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	config.AddFlags(cmd.Flags(), "data")
	return cmd
}

// checkTarget returns an error if a place is none for a backup.
func checkTarget(data, place string, out io.Writer) error {
	if place != "-" {
		return admin.CheckTarget(data, place)
	}
	if f, ok := out.(*os.File); ok && isTerminal(f) {
		return errors.New("standard output is a terminal, which changes what is written; redirect it, and give docker exec no -t, docker compose exec -T")
	}
	return nil
}

// backup writes a backup to a place, "-" for out, and prints a summary to errOut.
func backup(ctx context.Context, client *admin.Client, place string, out, errOut io.Writer) error {
	client.Waits = sayWaits(errOut)
	stream, err := client.Backup(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	archive := &progress{ctx: ctx, in: stream, out: errOut, told: time.Now()}
	var m admin.Manifest
	switch {
	case place == "-":
		m, err = admin.SaveTo(archive, out)
	case strings.HasSuffix(place, ".tar"):
		m, err = admin.SaveFile(archive, place)
	default:
		m, err = admin.SaveDirectory(archive, place)
	}
	if errors.Is(err, admin.ErrNotWhole) {
		return fmt.Errorf("the backup was interrupted, has the server been stopped? run the command again: %w", err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(errOut, "backed up %d files, %.1f MB\n", len(m.Files), float64(m.Size())/1e6)
	return err
}

// sayWaits prints what a command waits for.
func sayWaits(errOut io.Writer) func(running string) {
	return func(running string) { fmt.Fprintf(errOut, "waiting until %s that is running has ended\n", running) }
}

// progress is a reader that prints at intervals how much it has read. The end of ctx ends it.
type progress struct {
	ctx  context.Context
	in   io.Reader
	out  io.Writer
	read int64
	told time.Time
}

func (p *progress) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.in.Read(b)
	p.read += int64(n)
	if time.Since(p.told) >= progressEvery {
		p.told = time.Now()
		fmt.Fprintf(p.out, "%.1f MB so far\n", float64(p.read)/1e6)
	}
	return n, err
}
