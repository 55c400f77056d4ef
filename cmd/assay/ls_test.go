package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage/bolt"
)

// countedLines is a buffer that counts its lines.
type countedLines struct {
	bytes.Buffer
	lines int
}

func (c *countedLines) Write(b []byte) (int, error) {
	c.lines += bytes.Count(b, []byte("\n"))
	return c.Buffer.Write(b)
}

// A list of a large store is printed while it is read, and only one module of it is in memory.
func TestListIsNotKept(t *testing.T) {
	t.Parallel()
	const modules = 5000
	var out countedLines
	read, most := 0, 0 // items read, and the maximum number of them that were not printed yet
	items := func(yield func(content.Item, error) bool) {
		for i := range modules {
			for _, version := range []string{"v1.10.0", "v1.9.0"} {
				for _, file := range []string{"info", "mod", "zip"} {
					read++
					most = max(most, read-3*out.lines)
					if !yield(content.Item{Module: fmt.Sprintf("example.com/m%04d", i), Version: version, File: file, Size: 1}, nil) {
						return
					}
				}
			}
		}
	}
	if err := printAll(&out, listVersions(items), false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1+2*modules || strings.Join(strings.Fields(lines[1]), " ") != "example.com/m0000 v1.9.0 info,mod,zip 3 -" {
		t.Errorf("%d lines, the second is %q", len(lines), lines[1])
	}
	if limit := 3*alignedRows + 1000; most > limit {
		t.Errorf("%d items were in memory, want at most %d", most, limit)
	}
	if slices.Contains(lines[1:], lines[0]) {
		t.Error("the header is there twice")
	}
}

// A user that may not read the data directory does not get the advice to open it.
func TestOfAnotherUser(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	db, err := bolt.Open(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(data, 0o700) })
	if _, err := os.ReadDir(data); err == nil {
		t.Skip("this user may read everything")
	}
	err = reading(t.Context(), config.Config{Data: data}, func(*admin.Client) error { return fs.ErrInvalid })
	if err == nil || !strings.HasSuffix(err.Error(), "run this command as the server's user, or as root") || strings.Contains(err.Error(), "writable") {
		t.Errorf("reading = %v", err)
	}
}

// What is listed does not control the terminal.
func TestPurgeRow(t *testing.T) {
	t.Parallel()
	row := purged{admin.Purge{Module: "example.com/a", Reason: "a\x1b[31m\n b\u009b c"}}.row()
	if !strings.HasSuffix(row, "\ta [31m b c") {
		t.Errorf("the row is %q", row)
	}
}
