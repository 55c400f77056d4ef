package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the verifier key of the own log",
		Long: `Key prints the verifier key of the own log, in which private versions are pinned. With
serve --unified, clients set this key and need no GONOSUMDB:

    go env -w GOSUMDB="$(assay key)"

The first start of serve creates the key. Keep a copy of the log's directory, and never
restore an older state of it without assay log adopt: see docs/backup.md.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			return withOwnLog(cmd.Context(), c, nil, func(own *pinlog.Log) error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), own.Key())
				return err
			})
		},
	}
	config.AddFlags(cmd.Flags(), "data", "store", "log-key", "log-name", "ca-file")
	return cmd
}
