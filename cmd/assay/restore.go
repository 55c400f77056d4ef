package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

func newRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore DIR | FILE.tar | -",
		Short: "Put a backup into an empty data directory",
		Long: `Restore puts a backup that assay backup has made into the data directory, which must be
empty or not exist. It checks each file of the backup. Run it as the server's user. A
restore that was interrupted is begun again by running the command again; until then no
server starts in the directory.

The own log in a backup may be older than what clients have seen, and must never sign
anything that contradicts it. So the restored log serves its entries, and signs nothing
new before assay log adopt: see docs/backup.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			m, err := restore(args[0], c.Data, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored the backup of %s, %d files, %.1f MB\n", m.Time, len(m.Files), float64(m.Size())/1e6)
			if os.Geteuid() == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "its files belong to root; for a server of another user: chown -R USER %s\n", c.Data)
			}
			return tellOfOwnLog(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	config.AddFlags(cmd.Flags(), "data", "log-guard")
	return cmd
}

// restore puts the backup at a place, "-" for in, into a data directory. It prints on errOut
// how far it is.
func restore(place, data string, in io.Reader, errOut io.Writer) (admin.Manifest, error) {
	if place == "-" {
		return admin.Restore(&progress{in: in, out: errOut, told: time.Now()}, data)
	}
	info, err := os.Stat(place)
	if err != nil {
		return admin.Manifest{}, err
	}
	if info.IsDir() {
		return admin.RestoreDirectory(place, data)
	}
	f, err := os.Open(place)
	if err != nil {
		return admin.Manifest{}, err
	}
	defer f.Close()
	return admin.Restore(&progress{in: f, out: errOut, told: time.Now()}, data)
}

// tellOfOwnLog says why the own log signs nothing new, and what to do.
func tellOfOwnLog(ctx context.Context, c config.Config, out io.Writer) error {
	own := daemon.OwnLogConfig(c)
	own.Name, own.ReadOnly = "", true
	log, err := pinlog.Open(ctx, own)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the backup has none
	}
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = fmt.Fprintf(out, "the own log has %d entries; before it signs new ones, read this: %v\n", log.Size(), log.Refuses())
	return err
}
