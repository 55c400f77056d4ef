package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
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
			for _, name := range c.strayVariables(os.Environ()) {
				fmt.Fprintf(cmd.ErrOrStderr(), "assay: the variable %s is no setting, and means nothing\n", name)
			}
			return printConfig(cmd.OutOrStdout(), c, from)
		},
	}
	addFlags(cmd.Flags())
	return cmd
}

// serviceVariable matches what Kubernetes sets for a service that is called like us.
var serviceVariable = regexp.MustCompile(`_(PORT|SERVICE)(_|$)`)

// strayVariables returns the names of variables that look like settings and are
// none: a misspelt ASSAY_PRIVATE would let private names out.
func (c config) strayVariables(environ []string) []string {
	known := []string{"ASSAY_CONFIG", "ASSAY_TOKEN"}
	for _, s := range settings() {
		known = append(known, s.Env)
	}
	credentials, _ := c.vcsCredentials() // an error is told elsewhere
	for _, credential := range credentials {
		known = append(known, credential.TokenEnv)
	}
	var stray []string
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "ASSAY_") && value != "" && !slices.Contains(known, name) && !serviceVariable.MatchString(name) {
			stray = append(stray, name)
		}
	}
	return stray
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
