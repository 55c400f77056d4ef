package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/content"
)

func newLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls [MODULE]",
		Short: "List the stored versions, and what vouches for each",
		Long: `Ls lists the stored versions, with the files that are stored of each, their size, and
the checksum database or own log that their content was proved with ("-" if it was not).
With a module path it lists that module and the modules below it, and exits with status
1 if there are none. The server may be running. With --json it prints an object for each
version, one a line.`,
	}
	return listing(cmd, func(out io.Writer, items iter.Seq2[content.Item, error], asJSON bool) error {
		return printAll(out, listVersions(items), asJSON)
	})
}

// listing makes cmd a command that prints the stored objects, or those of the module that its
// argument names, and fails if that module has none.
func listing(cmd *cobra.Command, show func(out io.Writer, items iter.Seq2[content.Item, error], asJSON bool) error) *cobra.Command {
	cmd.Args = cobra.MaximumNArgs(1)
	asJSON := cmd.Flags().Bool("json", false, "Print JSON.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, _, err := config.Load(cmd.Flags(), os.Getenv)
		if err != nil {
			return err
		}
		modulePath, err := listedModule(args)
		if err != nil {
			return err
		}
		return reading(cmd.Context(), c, func(client *admin.Client) error {
			found := false
			items := func(yield func(content.Item, error) bool) {
				for item, err := range client.Items(cmd.Context(), modulePath) {
					found = true
					if !yield(item, err) {
						return
					}
				}
			}
			err := show(cmd.OutOrStdout(), items, *asJSON)
			if err == nil && !found && modulePath != "" {
				return fmt.Errorf("nothing is stored of %s, nor of a module below it; assay ls lists what is", modulePath)
			}
			return err
		})
	}
	config.AddFlags(cmd.Flags(), "data", "store", "ca-file")
	return cmd
}

// listedModule is the module that the arguments of a command name, "" if they name none.
func listedModule(args []string) (modulePath string, err error) {
	if len(args) == 0 {
		return "", nil
	}
	modulePath = strings.TrimRight(args[0], "/")
	if modulePath == "" || strings.Contains(modulePath, "@") {
		return "", fmt.Errorf("%q is no module path; name a module, or the beginning of some, without a version", args[0])
	}
	return modulePath, nil
}

// storedVersion is a version with stored files.
type storedVersion struct {
	Module  string    `json:"module"`
	Version string    `json:"version"`
	Files   []string  `json:"files"` // info, mod, zip
	Bytes   int64     `json:"bytes"`
	Proof   string    `json:"proof"`  // the database or the own log that proves zip and go.mod, "" if none does
	Stored  time.Time `json:"stored"` // time of the last file
}

func (storedVersion) header() string { return "MODULE\tVERSION\tFILES\tBYTES\tPROVED BY" }

func (v *storedVersion) row() string {
	return fmt.Sprintf("%s\t%s\t%s\t%d\t%s", v.Module, v.Version, strings.Join(v.Files, ","), v.Bytes, cmp.Or(v.Proof, "-"))
}

// listVersions yields the stored versions: modules in the order of items, and the versions of a
// module sorted. It combines the files of a version from all places. It keeps one module in memory,
// because a store may have a million objects.
func listVersions(items iter.Seq2[content.Item, error]) iter.Seq2[*storedVersion, error] {
	return func(yield func(*storedVersion, error) bool) {
		var current moduleVersions
		for item, err := range items {
			if err != nil {
				yield(nil, err)
				return
			}
			if item.Module == "" {
				continue
			}
			if item.Module != current.module {
				if !current.yieldAll(yield) {
					return
				}
				current = moduleVersions{item.Module, map[string]*storedVersion{}}
			}
			current.add(item)
		}
		current.yieldAll(yield)
	}
}

// moduleVersions has the stored versions of a module, whose items are adjacent.
type moduleVersions struct {
	module   string
	versions map[string]*storedVersion
}

func (m *moduleVersions) add(item content.Item) {
	v := m.versions[item.Version]
	if v == nil {
		v = &storedVersion{Module: item.Module, Version: item.Version}
		m.versions[item.Version] = v
	}
	v.Files = append(v.Files, item.File)
	v.Bytes += item.Size
	if item.Stored.After(v.Stored) {
		v.Stored = item.Stored
	}
	if item.File != "info" || v.Proof == "" { // no database covers an .info file
		v.Proof = item.Proof
	}
}

// yieldAll yields the versions in their order. It returns false if the caller wants no more.
func (m *moduleVersions) yieldAll(yield func(*storedVersion, error) bool) bool {
	all := slices.SortedFunc(maps.Values(m.versions), func(a, b *storedVersion) int {
		return cmp.Or(semver.Compare(a.Version, b.Version), cmp.Compare(a.Version, b.Version))
	})
	for _, v := range all {
		slices.Sort(v.Files)
		v.Files = slices.Compact(v.Files) // each voucher may have its own
		if !yield(v, nil) {
			return false
		}
	}
	return true
}

// alignedRows is how many rows of a table are aligned with each other. They are kept in memory.
const alignedRows = 1000

// printAll prints rows as a table or as JSON. After an error, the rows before it are printed.
func printAll[T interface {
	header() string
	row() string
}](w io.Writer, rows iter.Seq2[T, error], asJSON bool) error {
	buffered := bufio.NewWriter(w)
	encoder := json.NewEncoder(buffered)
	table := tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0)
	n := 0
	for row, err := range rows {
		if err == nil && asJSON {
			err = encoder.Encode(row)
		} else if err == nil {
			if n == 0 {
				fmt.Fprintln(table, row.header())
			}
			fmt.Fprintln(table, row.row())
			if n++; n%alignedRows == 0 {
				err = table.Flush()
			}
		}
		if err != nil {
			return errors.Join(err, table.Flush(), buffered.Flush())
		}
	}
	return errors.Join(table.Flush(), buffered.Flush())
}

// withoutErrors yields rows without errors.
func withoutErrors[T any](rows []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}
