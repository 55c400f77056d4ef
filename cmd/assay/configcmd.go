package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration and where each setting comes from",
		Long: `Config takes the flags of serve and reads the same environment and file. It prints
the result as a configuration file, with the origin of each setting, or says what
is wrong and exits with status 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, from, err := loadConfig(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			if err := c.validate(); err != nil {
				return err
			}
			return printConfig(cmd.OutOrStdout(), c, from)
		},
	}
	addFlags(cmd.Flags())
	return cmd
}

// printConfig writes c as a configuration file.
func printConfig(w io.Writer, c config, from origins) error {
	var b strings.Builder
	for i, s := range settings() {
		if i > 0 {
			b.WriteByte('\n')
		}
		for line := range strings.Lines(wrap(s.Help, 90)) {
			fmt.Fprintf(&b, "# %s", line)
		}
		if c.redacted(s) {
			b.WriteString("\n# Its credentials are left out here: put them in again before you use this as a file.")
		}
		fmt.Fprintf(&b, "\n# From: %s\n%s = %s\n", from[s.Name], s.TOML(), tomlValue(s, c.text(s)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrap breaks text into lines of at most width bytes.
func wrap(text string, width int) string {
	var b strings.Builder
	length := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case length == 0:
		case length+1+len(word) > width:
			b.WriteByte('\n')
			length = 0
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += len(word)
	}
	return b.String()
}
