package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration and where each setting comes from",
		Long: `Config takes the flags of serve and reads the same environment and file. It prints
the effective settings as a configuration file, with the origin of each setting. It omits
credentials, and the value of a setting that is in a file of its own (ASSAY_UPSTREAM_FILE).
If a setting is invalid, it prints the error and exits with status 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, from, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			if err := daemon.Check(c); err != nil {
				return err
			}
			for _, name := range config.StrayVariables(os.Environ(), daemon.TokenVariables(c)) {
				fmt.Fprintf(cmd.ErrOrStderr(), "assay: ignoring unknown environment variable %s\n", name)
			}
			return c.Print(cmd.OutOrStdout(), from)
		},
	}
	config.AddFlags(cmd.Flags())
	cmd.AddCommand(&cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the configuration file",
		Long: `Schema prints a JSON Schema (draft 2020-12) of the configuration file, with the meaning,
the default and the allowed values of each setting. Editors that know TOML, such as those
with Taplo, check and complete the file if its first line names the schema:

    assay config schema > assay.schema.json
    #:schema ./assay.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return config.WriteSchema(cmd.OutOrStdout()) },
	})
	return cmd
}
