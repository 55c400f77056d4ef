package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

func newSumdbCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sumdb",
		Short: "Act on the mirror of a checksum database",
	}
	cmd.AddCommand(newThawCommand())
	return cmd
}

func newThawCommand() *cobra.Command {
	var order admin.Thaw
	cmd := &cobra.Command{
		Use:   "thaw DATABASE --reason TEXT",
		Short: "Accept new data of a checksum database again after a fork",
		Long: `Thaw clears the evidence that a checksum database has forked: the mirror of it accepts
new heads and records again. If several replicas share the store, it thaws all of them.
The files fork-*.txt in the directory evidence keep their content, and get another name.
The reason is logged. The server may be running. For a store in a bucket, name it with
--store; no server need run on this machine.

Thaw only after you know that the head of this mirror belongs to the true log. If the
other one does, begin with an empty store instead.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			order.Database = args[0]
			if strings.TrimSpace(order.Reason) == "" {
				return errors.New("say why, with --reason TEXT; it is logged")
			}
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			return changing(cmd.Context(), c, func(client *admin.Client) error {
				done, err := client.Thaw(cmd.Context(), order)
				if err != nil {
					return err
				}
				for _, file := range done.Files {
					fmt.Fprintf(cmd.OutOrStdout(), "cleared %s\n", file)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s accepts new data again\n", order.Database)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&order.Reason, "reason", "", "Why, as `TEXT` for the log.")
	config.AddFlags(cmd.Flags(), "data", "store", "ca-file")
	return cmd
}
