package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3"
)

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Copy the store into a bucket, or back",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStoreCopyCommand())
	return cmd
}

func newStoreCopyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy all objects and states of a store into another one",
		Long: `Copy copies a store into another one, and checks each object that it has copied. FROM
and TO are data directories, or URLs of buckets as in --store. Servers of FROM may be
running; no server may use TO. What TO has is not copied again, so a copy that was
interrupted goes on when the command is run again, and a second copy brings what was
stored since the first one.

To move with a short interruption: copy while the old server runs, stop it, copy again,
and start servers with the new store. The own log is not copied: assay log move does
that. The new store needs an object store that keeps conditions, or --single-replica.
If FROM is a bucket, --data names the directory of a server of it on this machine.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			from, to := withPlace(c, args[0]), withPlace(c, args[1])
			if from.Store == to.Store && (from.Store != "" || from.Data == to.Data) {
				return errors.New("FROM and TO are the same store")
			}
			if err := checkFrozen(from); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(from.Data, "meta.db")); from.Store == "" && errors.Is(err, fs.ErrNotExist) && !daemon.HasCopies(from.Data) {
				return fmt.Errorf("there is no store in %s: FROM is the data directory of a server, or the URL of a bucket", from.Data)
			}
			if to.Store == "" && daemon.HasCopies(to.Data) {
				return fmt.Errorf("%[1]s is the data directory of a server of a bucket, and has copies of it: name another one as TO; "+
					"or, if no server uses it with --store any more, remove %[1]s/tier and copy again", to.Data)
			}
			return reading(cmd.Context(), from, func(client *admin.Client) (err error) {
				target, err := openTarget(cmd.Context(), to)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, target.Close()) }()
				copying := &storeCopy{from: client, to: target, progress: sayCopied(cmd.ErrOrStderr())}
				done, err := copying.run(cmd.Context())
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "copied %d objects, %.1f MB, and %d states; %d objects were there\n",
					done.Objects, float64(done.Bytes)/1e6, done.States, done.Held)
				return sayDamaged(cmd.ErrOrStderr(), done.Damaged)
			})
		},
	}
	config.AddFlags(cmd.Flags(), "data", "single-replica", "ca-file")
	return cmd
}

// checkFrozen refuses to copy a store beside which is evidence that a checksum database has forked: the servers of the
// copy would not know of it.
func checkFrozen(c config.Config) error {
	if c.Store != "" {
		return nil // it is in the store, and copied
	}
	found, err := filepath.Glob(filepath.Join(c.Data, "evidence", "fork-*.txt"))
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("a checksum database has forked, and the servers of the copy would not know of it; read %s, and act on it first", found[0])
	}
	return err
}

// withPlace returns c with the store at a place, which is a data directory or the URL of a bucket.
func withPlace(c config.Config, place string) config.Config {
	c.Store = ""
	if strings.HasPrefix(place, "s3://") {
		c.Store = place
	} else {
		c.Data = place
	}
	return c
}

// openTarget opens the store that is copied into, and makes it if it does not exist.
func openTarget(ctx context.Context, c config.Config) (storage.Store, error) {
	quiet := slog.New(slog.DiscardHandler)
	if c.Store == "" {
		if err := admin.CheckRestored(c.Data); err != nil {
			return nil, err
		}
		return bolt.Open(c.Data, &bolt.Options{Logger: quiet})
	}
	db, err := daemon.OpenBucket(ctx, c, s3.Options{Logger: quiet})
	if err != nil {
		return nil, err
	}
	if _, err := daemon.PrepareBucket(ctx, db, c.SingleReplica, quiet); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}
