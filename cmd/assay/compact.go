package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

func newCompactCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Give the space of deleted objects back to the disk",
		Long: `Compact gives the space that deleted objects have left in meta.db and blobs.db back to
the file system. It needs no other space and moves nothing: the files keep their length,
and take less room on disk (du, not ls -l). It checks the structure of both files before.
The server may be running; while a file is compacted it stores nothing new. If the command
is killed the store is whole. Only Linux file systems with holes can do it (ext4, XFS,
Btrfs, ZFS, tmpfs); elsewhere use a backup that is restored.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			if c.Store != "" {
				return errors.New("the store is in a bucket, which has no free space to give back; assay gc deletes there what is not needed")
			}
			return changing(cmd.Context(), c, func(client *admin.Client) error {
				client.Waits = sayWaits(cmd.ErrOrStderr())
				freed, err := client.Compact(cmd.Context())
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "the disk has %.1f MB more\n", float64(freed)/1e6)
				return err
			})
		},
	}
	config.AddFlags(cmd.Flags(), "data")
	return cmd
}
