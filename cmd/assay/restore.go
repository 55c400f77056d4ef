package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// ofRoot is printed after a restore into a directory of root. The user of a unit with DynamicUser does not
// exist while the unit is stopped, so no chown can name it.
const ofRoot = `its files belong to root, as the directory does; systemd gives them to a unit with this StateDirectory
at its start; for another server that is not root: chown -R USER %s
`

func newRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore DIR | FILE.tar | -",
		Short: "Put a backup into an empty data directory",
		Long: `Restore puts a backup that assay backup has made into the data directory, which must be
empty or not exist. It checks each file of the backup. Run it as the server's user, or as
root: the files get the owner of the directory. A restore that was interrupted is begun
again by running the command again; until then no server starts in the directory.

The own log in a backup may be older than what clients have seen, and must never sign
anything that contradicts it. So the restored log serves its entries, and signs nothing
new before assay log adopt: see docs/backup.md.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			m, err := restore(cmd, args[0], c.Data)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored the backup of %s, %d files, %.1f MB\n", m.Time.Format(time.RFC3339), len(m.Files), float64(m.Size())/1e6)
			if admin.OfRoot(c.Data) {
				fmt.Fprintf(cmd.OutOrStdout(), ofRoot, daemon.ShellWord(c.Data))
			}
			return tellOfOwnLog(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	config.AddFlags(cmd.Flags(), "data", "log-guard")
	return cmd
}

// restore extracts the backup at a place, "-" for standard input, into a data directory, and prints
// its progress on standard error.
func restore(cmd *cobra.Command, place, data string) (admin.Manifest, error) {
	in := io.NopCloser(cmd.InOrStdin())
	if place != "-" {
		var err error
		if in, err = admin.OpenBackup(place); err != nil {
			return admin.Manifest{}, err
		}
	}
	defer in.Close()
	return admin.Restore(&progress{ctx: cmd.Context(), in: in, out: cmd.ErrOrStderr(), told: time.Now()}, data)
}

// tellOfOwnLog prints why the own log signs nothing new, and how to resolve it.
func tellOfOwnLog(ctx context.Context, c config.Config, out io.Writer) error {
	own := daemon.OwnLogConfig(c)
	own.Name, own.ReadOnly = "", true
	log, err := pinlog.Open(ctx, own)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the backup contains no log
	}
	if err != nil {
		return err
	}
	defer log.Close()
	if !log.Adoptable() {
		_, err = fmt.Fprintf(out, "\nthe own log has %d entries, serves them, and signs nothing new:\n%s\n", log.Size(), inLines(log.Refuses()))
		return err
	}
	fmt.Fprintf(out, "\nthe own log %s has %d entries, and signs no new ones yet, as it is a backup that was put back\n", log.Name(), log.Size())
	if log.Size() == 0 {
		fmt.Fprintln(out, "without private modules and --unified there is nothing to do: nothing needs it")
	}
	_, err = fmt.Fprintf(out, `if no client has fetched a private version, or with --unified any version, since this backup, run
    %[1]s --no-client-has-seen-more
otherwise do not: clients that have seen more would stop with a SECURITY ERROR; look for a newer backup, or run
    %[1]s --head FILE
where FILE is the newest $GOPATH/pkg/sumdb/%[2]s/latest of all clients
`, own.Adopt, log.Name())
	return err
}

// inLines is the text of an error with a line for each of its parts.
func inLines(err error) string { return strings.ReplaceAll(err.Error(), "; ", ";\n  ") }
