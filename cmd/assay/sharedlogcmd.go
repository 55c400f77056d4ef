package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// loadShared loads the configuration of a command for a log in a bucket.
func loadShared(cmd *cobra.Command) (config.Config, error) {
	c, _, err := config.Load(cmd.Flags(), os.Getenv)
	if err == nil && (!daemon.SharesLog(c) || c.LogKey == "") {
		err = errors.New("name the bucket with --store, and the file with the log's secret key with --log-key")
	}
	return c, err
}

func newLogCreateCommand() *cobra.Command {
	var ended, unused bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Begin an own log in a bucket, which several servers share",
		Long: `Create begins an own log in the bucket of --store, and prints its verifier key. If the
file of --log-key does not exist, it gets a new secret key for a log with the name of
--log-name; all servers need a copy of it, which no other user can read. Servers with
new data directories may use the log from then on, within an hour.

To begin a second log with the key of another one would contradict what clients have seen,
and a bucket that was emptied looks like a new one. So if the file exists, say with
--key-never-used that no log ever had this key. Create refuses a name of which the store
or the data directory has traces. To bring a log of one server to the bucket, use assay
log move.

In a bucket one log signs. If another one has ended, stop all its servers, and say so with
--other-log-ended: then the new log signs in its place. Clients need the new key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadShared(cmd)
			if err != nil {
				return err
			}
			return withSharedConfig(cmd.Context(), c, true, func(own pinlog.Config) error {
				own.Bucket.OthersEnded, own.Bucket.KeyUnused = ended, unused
				key, err := pinlog.Create(cmd.Context(), own)
				if errors.Is(err, storage.ErrInUse) {
					return fmt.Errorf("a server is using %s; name another directory with --data", c.Data)
				}
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&ended, "other-log-ended", false, otherLogEnded)
	cmd.Flags().BoolVar(&unused, "key-never-used", false, "No log ever had the key in the existing file of --log-key.")
	config.AddFlags(cmd.Flags(), sharedLogFlags...)
	return cmd
}

const otherLogEnded = "The other log in the bucket has ended, and all its servers are stopped."

func newLogMoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move [--back]",
		Short: "Bring the own log of one server to a bucket, or back",
		Long: `Move brings the own log in the data directory to the bucket of --store, where several
servers can use it: the same log, with the same key, entries and heads. Give --log-key a
copy of log/key in the data directory. No server may be using the log. The log in the
directory then signs nothing any more, whatever is done with it, until it is brought back;
its key is renamed to key.moved there.

With --back it brings the log from the bucket to the data directory. The log in the bucket
ends with a last batch: servers that still use it refuse to sign.

At the end everything in the bucket is read again and compared. A move that was
interrupted goes on when the command is run again, with the same bucket and the same
directory, and with no other one; until it is complete, no place signs.`,
		Args: cobra.NoArgs,
	}
	back := cmd.Flags().Bool("back", false, "Bring the log from the bucket to the data directory.")
	ended := cmd.Flags().Bool("other-log-ended", false, otherLogEnded)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadShared(cmd)
		if err != nil {
			return err
		}
		return withSharedConfig(cmd.Context(), c, !*back, func(own pinlog.Config) error {
			own.Bucket.OthersEnded = *ended
			err := withStore(c.Data, bolt.Options{Existing: true}, func(store storage.Store) error {
				own.Store = store
				return moveLog(cmd, own, *back)
			})
			if errors.Is(err, storage.ErrInUse) {
				return fmt.Errorf("a server is using the log in %s; stop it first", own.Dir)
			}
			return err
		})
	}
	config.AddFlags(cmd.Flags(), append(sharedLogFlags, "log-trust-bucket")...)
	return cmd
}

// moveLog moves the log, and prints where it is.
func moveLog(cmd *cobra.Command, own pinlog.Config, back bool) error {
	move, to := pinlog.Move, own.Bucket.Place
	if back {
		move, to = pinlog.MoveBack, own.Dir
	}
	if _, err := os.Stat(own.Dir); !back && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no log in %s; name the server's directory with --data", own.Dir)
	}
	size, err := move(cmd.Context(), own)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "the log with its %d entries is in %s, and signs nothing elsewhere\n", size, to)
	return err
}
