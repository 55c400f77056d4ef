package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// oneArgument is an error with the usage of cmd if there is not exactly one argument.
func oneArgument(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments instead of one; usage: %s", len(args), cmd.UseLine())
	}
	return nil
}
