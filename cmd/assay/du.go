package main

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/spf13/cobra"

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
object for each module, one a line.`,
	}
	return listing(cmd, func(out io.Writer, items iter.Seq2[content.Item, error], asJSON bool) error {
		sizes, err := sumSizes(items)
		if err != nil {
			return err
		}
		return printAll(out, withoutErrors(sizes), asJSON)
	})
}

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
