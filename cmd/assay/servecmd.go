package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the proxy",
		Long: `Serve answers the GOPROXY protocol. By default it listens on localhost:3000, stores
its data in ./assay-data, fetches modules from the public mirror and verifies them with
sum.golang.org. Configure the go command:

    go env -w GOPROXY=http://localhost:3000

The value of a setting comes from the first of these that has one: its flag, its ASSAY_
variable, the file, the go command's variable that is named with the flag, the default.
Of GOPROXY, only the part before direct is used. A variable that ends in _FILE in place of
another one, such as ASSAY_UPSTREAM_FILE, names a file that has the value, as Docker,
Kubernetes and systemd pass secrets. SIGHUP reloads the settings. SIGTERM or an interrupt
finishes the transfers in progress and stops; a second one stops at once.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("serve takes only flags, not %q; the address is --listen, for example --listen :3000", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (config.Config, config.Sources, error) { return config.Load(cmd.Flags(), os.Getenv) }
			return daemon.Run(cmd.Context(), daemon.Options{Load: load, Version: thisBuild().Version, Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		},
	}
	config.AddFlags(cmd.Flags())
	return cmd
}
