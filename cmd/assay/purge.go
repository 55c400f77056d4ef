package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

func newPurgeCommand() *cobra.Command {
	var order admin.Purge
	var list, asJSON bool
	cmd := &cobra.Command{
		Use:   "purge MODULE[@VERSION] --reason TEXT",
		Short: "Forget what is stored of a module or a version",
		Long: `Purge removes the stored files of a version, or of all versions of a module, and the
kept list and latest version of the module. What a client requests after it is fetched
and verified again: purge does not forbid a version. The reason is logged and kept, and
assay purge --list shows the last 1000. The server may be running.

A private version is pinned in the own log. If its repository does not have it any more,
it cannot be fetched again, so its files are removed only with --pinned. The entry in the
log stays: the version is never accepted with other content.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list == (len(args) == 1) {
				return errors.New("say either MODULE[@VERSION] or --list")
			}
			if !list && strings.TrimSpace(order.Reason) == "" {
				return errors.New("say why, with --reason TEXT; it is logged and kept")
			}
			if !list {
				var hasAt bool
				if order.Module, order.Version, hasAt = strings.Cut(args[0], "@"); hasAt && order.Version == "" {
					return fmt.Errorf("%s has an @ and no version; without the @ all versions are purged", args[0])
				}
			}
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			if list {
				return reading(cmd.Context(), c, func(client *admin.Client) error { return listPurges(cmd, client, asJSON) })
			}
			return changing(cmd.Context(), c, func(client *admin.Client) error {
				return purge(cmd.Context(), cmd, client, order)
			})
		},
	}
	cmd.Flags().StringVar(&order.Reason, "reason", "", "Why, as `TEXT` for the log and the list.")
	cmd.Flags().BoolVar(&order.Pinned, "pinned", false, "Also remove private versions, which the own log has pinned.")
	cmd.Flags().BoolVar(&list, "list", false, "List what was purged, and why.")
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print JSON.")
	config.AddFlags(cmd.Flags(), "data", "store", "ca-file")
	return cmd
}

func purge(ctx context.Context, cmd *cobra.Command, client *admin.Client, order admin.Purge) error {
	done, err := client.Purge(ctx, order)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "purged %d files, %d bytes\n", done.Files, done.Bytes)
	return err
}

// purged is a purge as a row of a table.
type purged struct{ admin.Purge }

func (purged) header() string { return "TIME\tMODULE\tVERSION\tFILES\tBYTES\tREASON" }

func (p purged) row() string {
	version := p.Version
	if version == "" {
		version = "all"
	}
	reason := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // a terminal may obey it
			return ' '
		}
		return r
	}, p.Reason)
	return fmt.Sprintf("%s\t%s\t%s\t%d\t%d\t%s", p.Time.Format(time.RFC3339), p.Module, version, p.Files, p.Bytes, strings.Join(strings.Fields(reason), " "))
}

func listPurges(cmd *cobra.Command, client *admin.Client, asJSON bool) error {
	all, err := client.Purges(cmd.Context())
	if err != nil {
		return err
	}
	var rows []purged
	for _, p := range all {
		rows = append(rows, purged{p})
	}
	return printAll(cmd.OutOrStdout(), withoutErrors(rows), asJSON)
}
