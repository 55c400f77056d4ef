package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/content"
)

func newPinCommand() *cobra.Command {
	var remove, asJSON bool
	cmd := &cobra.Command{
		Use:   "pin [MODULE[@VERSION]]",
		Short: "Keep what is stored of a module or a version, whatever the disk limit is",
		Long: `Pin keeps the stored zips of a version, or of all versions of a module, also future ones:
a server with disk-limit does not evict them. It fetches nothing. With --remove they may be
evicted again. Without a module, or as assay pin list, it lists what is kept.

Private versions, and what came from a repository, are always kept, and need no order. The
orders are in the store, and so in its backups. The server may be running.

From a bucket nothing is evicted, and it needs no order. With --store, all servers that use
the bucket keep their local copies of what is pinned, also those of go.mod and .info files,
and serve them while the bucket is away. No server need run on this machine.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := len(args) == 0 || args[0] == "list"
			if list && remove {
				return errors.New("name the module that is not to be kept any longer")
			}
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			if list {
				return reading(cmd.Context(), c, func(client *admin.Client) error { return listKeeps(cmd, client, asJSON) })
			}
			order := admin.Keep{Remove: remove}
			var hasAt bool
			if order.Module, order.Version, hasAt = strings.Cut(args[0], "@"); hasAt && order.Version == "" {
				return fmt.Errorf("%s has an @ and no version; without the @ all versions are meant", args[0])
			}
			return changing(cmd.Context(), c, func(client *admin.Client) error { return client.Keep(cmd.Context(), order) })
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "Keep it no longer.")
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print JSON.")
	config.AddFlags(cmd.Flags(), "data", "store", "ca-file")
	return cmd
}

// kept is an order as a row of a table.
type kept struct{ content.Keep }

func (kept) header() string { return "SINCE\tMODULE\tVERSION" }

func (k kept) row() string {
	version := k.Version
	if version == "" {
		version = "all"
	}
	return fmt.Sprintf("%s\t%s\t%s", k.Time.Format(time.RFC3339), k.Module, version)
}

func listKeeps(cmd *cobra.Command, client *admin.Client, asJSON bool) error {
	all, err := client.Keeps(cmd.Context())
	if err != nil {
		return err
	}
	var rows []kept
	for _, k := range all {
		rows = append(rows, kept{k})
	}
	return printAll(cmd.OutOrStdout(), withoutErrors(rows), asJSON)
}
