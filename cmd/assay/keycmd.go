package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/sumdb"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the key of our own checksum database",
		Long: `Key prints the verifier key of the log in which private versions are pinned. With
serve --unified it is what clients set, and then they need no GONOSUMDB:

    go env -w GOSUMDB="$(assay key)"

The first start of serve makes the key. Keep a copy of the log's directory; what it
must not be is set back: see docs/operations.md.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := loadConfig(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			log, err := openLogToRead(cmd, c)
			if err != nil {
				return err
			}
			defer log.Close()
			_, err = fmt.Fprintln(cmd.OutOrStdout(), log.Key())
			return err
		},
	}
	addFlags(cmd.Flags(), "data")
	return cmd
}

// openLogToRead opens our own log, also while a server has it.
func openLogToRead(cmd *cobra.Command, c config) (*sumdb.Log, error) {
	config := c.logConfig()
	config.ReadOnly = true
	log, err := sumdb.OpenLog(cmd.Context(), config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no log in %s yet; assay serve makes it at its first start", config.Dir)
	}
	return log, err
}
