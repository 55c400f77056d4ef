package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list and revoke bearer tokens",
		Long: `Token edits the file with the tokens that the server accepts. The file has the hashes
of the tokens, never the tokens. A running server sees a change within two seconds.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	config.AddFlags(cmd.PersistentFlags(), "data", "tokens")
	cmd.AddCommand(newTokenCreateCommand(), newTokenListCommand(), newTokenRevokeCommand())
	return cmd
}

func newTokenCreateCommand() *cobra.Command {
	groups, scope, expires := &config.FlagText{Kind: "GROUPS"}, &config.FlagText{Kind: "PATTERNS"}, &config.FlagText{Text: "90d", Kind: "WHEN"}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a token and print it once",
		Long: `Create makes a token for the user NAME and prints it on standard output. The token is
not stored, so it cannot be printed again. All messages go to standard error.

    assay token create ci --groups build --expires 90d | pass insert -e assay/ci`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := tokenFile(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			t := access.Token{Name: args[0]}
			if groups.Text != "" {
				t.Groups = strings.Split(groups.Text, ",")
			}
			if cmd.Flags().Changed("scope") {
				if scope.Text == "" { // for example from an unset variable; the token would be valid for everything
					return errors.New("--scope is empty; omit it for a token without a scope")
				}
				t.Scope = strings.Split(scope.Text, ",")
			}
			if t.Expires, err = parseExpiry(expires.Text, time.Now()); err != nil {
				return err
			}
			return createToken(file, t, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().Var(groups, "groups", "Groups of the token's user, separated by commas without spaces.")
	cmd.Flags().Var(scope, "scope", "Restrict the token to these modules, in the syntax of GOPRIVATE. Without it, the token is valid for all modules that its groups may read.")
	cmd.Flags().Var(expires, "expires", "A number of days (90d), the last day that it is valid, in UTC (2027-01-31), or never.")
	return cmd
}

func newTokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := tokenFile(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			return listTokens(file, time.Now(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func newTokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a token, by the ID that list prints",
		Long: `Revoke marks a token as revoked. It stays in the file, so that the server's log can
name the owner of a revoked token that is still in use.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := tokenFile(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			return revokeToken(file, args[0], cmd.ErrOrStderr())
		},
	}
}

// tokenFile returns the name of the file that the server reads. Its directory must exist: the
// server would never read a token in a mistyped one.
func tokenFile(flags *pflag.FlagSet, getenv func(string) string) (string, error) {
	c, _, err := config.Load(flags, getenv)
	if err != nil {
		return "", err
	}
	name := c.TokenFile()
	dir := filepath.Dir(name)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		full, _ := filepath.Abs(dir) // the error does not matter: dir is then ""
		return "", fmt.Errorf("there is no directory %s (%s); name the server's directory with --data, or the token file with --tokens", dir, full)
	case err != nil:
		return "", fmt.Errorf("token file: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("token file %s: %s is not a directory", name, dir)
	}
	return name, nil
}

// maxDays keeps the sum of a time and days within the range of a time. A hundred years are as good
// as never.
const maxDays = 36500

// parseExpiry returns when a token that is created at now expires; zero means never.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "never" {
		return time.Time{}, nil
	}
	if number, ok := strings.CutSuffix(text, "d"); ok {
		days, err := strconv.Atoi(number)
		if err != nil || days < 1 || days > maxDays {
			return time.Time{}, fmt.Errorf("--expires %s: want 1d to %dd", text, maxDays)
		}
		return now.Add(time.Duration(days) * 24 * time.Hour), nil
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("--expires %s: want a number of days like 90d, a day like 2027-01-31, or never", text)
	}
	return day.AddDate(0, 0, 1), nil // the token is valid on that day, too
}

// createToken creates a token. Only the secret is written to out.
func createToken(file string, t access.Token, out, errOut io.Writer) error {
	secret, err := access.CreateToken(file, t)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, secret); err != nil {
		return fmt.Errorf("the token was created but could not be printed; revoke it and create another: %w", err)
	}
	all, err := access.ListTokens(file)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(t access.Token) bool { return t.Matches(secret) })
	if i < 0 {
		return fmt.Errorf("the token is no longer in %s; another process has replaced the file", file)
	}
	made := all[i]
	fmt.Fprintf(errOut, "token %s of %s in %s, groups %s, scope %s, expires %s\n", made.ID, made.Name, file,
		orDash(strings.Join(made.Groups, ",")), orDash(strings.Join(made.Scope, ",")), expiry(made))
	fmt.Fprintln(errOut, "The token is on standard output, this one time only; the file has its hash.")
	return nil
}

// listTokens prints the tokens in the file.
func listTokens(file string, now time.Time, out, errOut io.Writer) error {
	all, err := access.ListTokens(file)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(errOut, "there is no %s yet, so there are no tokens\n", file)
		return nil
	}
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tGROUPS\tSCOPE\tCREATED\tEXPIRES\tSTATE")
	for _, t := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Name, orDash(strings.Join(t.Groups, ",")), orDash(strings.Join(t.Scope, ",")), orDash(moment(t.Created)), expiry(t), state(t, now))
	}
	return w.Flush()
}

func revokeToken(file, id string, errOut io.Writer) error {
	if err := access.RevokeToken(file, id); err != nil {
		return err
	}
	fmt.Fprintf(errOut, "token %s is revoked; a running server rejects it within two seconds\n", id)
	return nil
}

func state(t access.Token, now time.Time) string {
	switch {
	case t.Revoked:
		return "revoked"
	case t.ExpiredAt(now):
		return "expired"
	}
	return "valid"
}

func expiry(t access.Token) string {
	if t.Expires.IsZero() {
		return "never"
	}
	return moment(t.Expires)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
