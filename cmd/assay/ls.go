package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

func newLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls [MODULE]",
		Short: "List the stored versions, and what vouches for each",
		Long: `Ls lists the stored versions, with the files that are stored of each, their size, and
the checksum database or own log that their content was proved with ("-" if it was not).
With a module path it lists that module and the modules below it. The server may be
running. With --json it prints an object for each version, one a line.`,
		Args: cobra.MaximumNArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "Print JSON.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, _, err := config.Load(cmd.Flags(), os.Getenv)
		if err != nil {
			return err
		}
		return reading(cmd.Context(), c, func(client *admin.Client) error {
			versions, err := listVersions(cmd.Context(), client, strings.Join(args, ""))
			if err != nil {
				return err
			}
			return printAll(cmd.OutOrStdout(), versions, *asJSON)
		})
	}
	config.AddFlags(cmd.Flags(), "data")
	return cmd
}

// storedVersion is a version of which files are stored.
type storedVersion struct {
	Module  string    `json:"module"`
	Version string    `json:"version"`
	Files   []string  `json:"files"` // info, mod, zip
	Bytes   int64     `json:"bytes"`
	Proof   string    `json:"proof"`  // the database or the own log that vouches for zip and go.mod, "" if none does
	Stored  time.Time `json:"stored"` // when the last file was
}

func (storedVersion) header() string { return "MODULE\tVERSION\tFILES\tBYTES\tPROVED BY" }

func (v *storedVersion) row() string {
	return fmt.Sprintf("%s\t%s\t%s\t%d\t%s", v.Module, v.Version, strings.Join(v.Files, ","), v.Bytes, cmp.Or(v.Proof, "-"))
}

// listVersions returns what is stored, sorted. Where the files of a version are does not
// matter.
func listVersions(ctx context.Context, client *admin.Client, modulePath string) ([]*storedVersion, error) {
	versions := map[module.Version]*storedVersion{}
	for item, err := range client.Items(ctx, modulePath) {
		if err != nil {
			return nil, err
		}
		if item.Module == "" {
			continue
		}
		mod := module.Version{Path: item.Module, Version: item.Version}
		v := versions[mod]
		if v == nil {
			v = &storedVersion{Module: item.Module, Version: item.Version}
			versions[mod] = v
		}
		v.Files = append(v.Files, item.File)
		v.Bytes += item.Size
		if item.Stored.After(v.Stored) {
			v.Stored = item.Stored
		}
		if item.File != "info" || v.Proof == "" { // no database covers an info
			v.Proof = item.Proof
		}
	}
	var all []*storedVersion
	for _, v := range versions {
		slices.Sort(v.Files)
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *storedVersion) int {
		return cmp.Or(cmp.Compare(a.Module, b.Module), semver.Compare(a.Version, b.Version), cmp.Compare(a.Version, b.Version))
	})
	return all, nil
}

// printAll prints rows as a table or as JSON.
func printAll[T interface {
	header() string
	row() string
}](w io.Writer, rows []T, asJSON bool) error {
	buffered := bufio.NewWriter(w)
	if asJSON {
		encoder := json.NewEncoder(buffered)
		for _, row := range rows {
			if err := encoder.Encode(row); err != nil {
				return err
			}
		}
		return buffered.Flush()
	}
	table := tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0)
	for i, row := range rows {
		if i == 0 {
			fmt.Fprintln(table, row.header())
		}
		fmt.Fprintln(table, row.row())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return buffered.Flush()
}
