package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
)

func newGCCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc --store URL",
		Short: "Delete from the bucket what nothing refers to",
		Long: `Gc deletes from the bucket of --store the contents of zips to which no object refers:
those of purged and replaced objects, and of servers that were killed while they stored
one. It reads a record of each stored object. Servers may be running.

It takes three runs until a content is deleted: one begins a new generation, the next
marks what nothing refers to, and the one after that looks again, and deletes what still
nothing refers to. A run less than --wait after the one before is refused, because
clients may be reading what was deleted meanwhile. So run it once a day or a week. It
also deletes the leases that killed servers have left an hour ago or earlier. The own log,
other states and everything else that servers rely on are never deleted.`,
		Args: cobra.NoArgs,
	}
	wait := cmd.Flags().Duration("wait", time.Hour, "Least time since the run before: longer than any download of a client takes.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, _, err := config.Load(cmd.Flags(), os.Getenv)
		if err != nil {
			return err
		}
		if c.Store == "" {
			return errors.New("name the bucket with --store; a store in the data directory needs no gc")
		}
		if *wait < 0 {
			return fmt.Errorf("wait is %v; it must not be negative", *wait)
		}
		say := func(done admin.Collected, err error) error {
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted %d contents, %d unfinished uploads and %d leases of killed servers, marked %d of %d contents for the next run\n",
				done.Deleted, done.Uploads, done.Leases, done.Marked, done.Contents)
			return err
		}
		db, err := existingBucket(cmd.Context(), c)
		if err != nil {
			return err
		}
		defer db.Close()
		if daemon.CheckChange(cmd.Context(), db) == nil { // not in the server, whose memory is for clients: it lists all contents
			return say(daemon.Collect(db)(cmd.Context(), *wait))
		}
		return changing(cmd.Context(), c, func(client *admin.Client) error { return say(client.Collect(cmd.Context(), *wait)) })
	}
	config.AddFlags(cmd.Flags(), "data", "store", "ca-file")
	return cmd
}
