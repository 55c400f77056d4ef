package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/content"
)

func newDuCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "du [MODULE]",
		Short: "Show how much is stored of each module",
		Long: `Du shows how many bytes are stored of each module, in how many files, the largest
first. With a module path it shows that module and the modules below it, and exits with
status 1 if nothing is stored of them; without one also the records and tiles of checksum
databases, and what else is stored. Content that several files have in common is counted
for each of them. The files meta.db and blobs.db are larger by what was deleted: assay
compact gives that back to the disk. The server may be running. With --json it prints an
object for each module, one a line.

With --limit it shows how a running server uses its disk-limit: what the data directory
takes on disk, what may be evicted of it, and what else is stored, by the reason why it
is kept.`,
	}
	cmd = listing(cmd, func(out io.Writer, items iter.Seq2[content.Item, error], asJSON bool) error {
		sizes, err := sumSizes(items)
		if err != nil {
			return err
		}
		return printAll(out, withoutErrors(sizes), asJSON)
	})
	limit := cmd.Flags().Bool("limit", false, "Show how the disk limit of a running server is used.")
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*limit {
			return list(cmd, args)
		}
		if len(args) > 0 {
			return errors.New("--limit is about the whole data directory; name no module")
		}
		return showLimit(cmd)
	}
	return cmd
}

// showLimit shows how the disk limit is used.
func showLimit(cmd *cobra.Command) error {
	c, _, err := config.Load(cmd.Flags(), os.Getenv)
	if err != nil {
		return err
	}
	return reading(cmd.Context(), c, func(client *admin.Client) error {
		r, err := client.Limit(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON, err := cmd.Flags().GetBool("json"); err == nil && asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
		}
		limit := "limit"
		if r.Limit == 0 {
			limit = "no limit"
		}
		rows := []limitRow{{r.Limit, limit}, {r.Taken, "data directory"}, {r.Evictable, fmt.Sprintf("%d objects that may be evicted", r.Objects)}}
		for _, reason := range slices.Sorted(maps.Keys(r.Kept)) {
			rows = append(rows, limitRow{r.Kept[reason], reason})
		}
		return printAll(cmd.OutOrStdout(), withoutErrors(rows), false)
	})
}

// limitRow is a part of the disk limit as a row of a table.
type limitRow struct {
	bytes int64
	what  string
}

func (limitRow) header() string { return "BYTES\tWHAT" }

func (l limitRow) row() string { return fmt.Sprintf("%d\t%s", l.bytes, l.what) }

// storedSize is how much is stored of a module, or of another kind of object.
type storedSize struct {
	Name  string `json:"name"`
	Files int64  `json:"files"`
	Bytes int64  `json:"bytes"`
}

func (storedSize) header() string { return "BYTES\tFILES\tMODULE" }

func (s *storedSize) row() string { return fmt.Sprintf("%d\t%d\t%s", s.Bytes, s.Files, s.Name) }

func sumSizes(items iter.Seq2[content.Item, error]) ([]*storedSize, error) {
	sizes := map[string]*storedSize{}
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		name := sizeName(item)
		s := sizes[name]
		if s == nil {
			s = &storedSize{Name: name}
			sizes[name] = s
		}
		s.Files++
		s.Bytes += item.Size
	}
	var all []*storedSize
	for _, s := range sizes {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *storedSize) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name)) })
	return all, nil
}

// sizeName returns the name under which an object is counted.
func sizeName(item content.Item) string {
	switch {
	case item.Module != "":
		return item.Module
	case item.Database != "":
		return "(checksum database " + item.Database + ")"
	}
	return "(other)"
}
