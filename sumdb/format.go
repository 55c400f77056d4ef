package sumdb

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/notfound"
)

// This file is the format of a checksum database: names, paths, records and tiles. A mirror and
// our own log share nothing else.

const (
	// TileHeight is the height of every tile that a checksum database serves.
	TileHeight = 8

	// MaxTree bounds the size of a tree. No log will ever reach it, and it keeps the arithmetic on
	// stored hashes inside an int64.
	MaxTree = 1 << 48

	maxLevel = 7 // no log will have 2^(8*7) records
)

// NewVerifier is note.NewVerifier for a database. The name must be a host with or without a path,
// because it becomes a URL and a part of our keys.
func NewVerifier(key string) (note.Verifier, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("verifier key %q: %w", key, err)
	}
	name := verifier.Name()
	u, err := url.Parse("https://" + name)
	if err != nil || u.Host == "" || u.RawPath != "" || path.Clean("/"+name) != "/"+name ||
		*u != (url.URL{Scheme: "https", Host: u.Host, Path: u.Path}) {
		return nil, fmt.Errorf("database name %q is not host[/path]", name)
	}
	return verifier, nil
}

// LookupPath returns the path of the lookup of mod. The error is notfound.Stated if no database can
// have mod.
func LookupPath(mod module.Version) (string, error) {
	path, err := module.EscapePath(mod.Path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, notfound.Stated)
	}
	version, err := module.EscapeVersion(mod.Version)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, notfound.Stated)
	}
	if module.CanonicalVersion(mod.Version) != mod.Version {
		return "", fmt.Errorf("%s: not a canonical version: %w", mod, notfound.Stated)
	}
	return "lookup/" + path + "@" + version, nil
}

// Record is a record whose inclusion in the log was proved.
type Record struct {
	ID   int64
	Text []byte // the two lines of a go.sum file
}

// Hashes returns the hash of the zip and that of the go.mod file of mod, as
// "h1:…". The error is ErrInvalid if r is not exactly the record of mod.
func (r Record) Hashes(mod module.Version) (zip, gomod string, err error) {
	lines := strings.SplitAfter(string(r.Text), "\n")
	if len(lines) != 3 || lines[2] != "" {
		return "", "", fmt.Errorf("%w: record %d is not the two lines of %s", ErrInvalid, r.ID, mod)
	}
	zip, ok := lineHash(lines[0], mod.Path+" "+mod.Version+" ")
	gomod, ok2 := lineHash(lines[1], mod.Path+" "+mod.Version+"/go.mod ")
	if !ok || !ok2 {
		return "", "", fmt.Errorf("%w: record %d is not that of %s", ErrInvalid, r.ID, mod)
	}
	return zip, gomod, nil
}

// lineHash returns what follows prefix in line if it is one h1 hash.
func lineHash(line, prefix string) (string, bool) {
	hash, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), prefix)
	if !ok {
		return "", false
	}
	text, ok := strings.CutPrefix(hash, "h1:")
	sum, err := base64.StdEncoding.Strict().DecodeString(text)
	// The decoder skips line ends; with the length the text is canonical.
	return hash, ok && err == nil && len(sum) == tlog.HashSize &&
		len(text) == base64.StdEncoding.EncodedLen(tlog.HashSize)
}

// parseRecord parses the record of mod, and nothing else, at the start of msg.
func parseRecord(msg []byte, mod module.Version) (record Record, rest []byte, err error) {
	record.ID, record.Text, rest, err = tlog.ParseRecord(msg)
	if err != nil {
		return Record{}, nil, fmt.Errorf("%w: lookup of %s: %v", ErrInvalid, mod, err)
	}
	if record.ID < 0 || record.ID >= MaxTree {
		return Record{}, nil, fmt.Errorf("%w: lookup of %s: impossible record id %d", ErrInvalid, mod, record.ID)
	}
	if _, _, err := record.Hashes(mod); err != nil {
		return Record{}, nil, err
	}
	return record, rest, nil
}

// KnownTile reports whether t is a tile that a checksum database can have.
func KnownTile(t tlog.Tile) bool {
	return t.H == TileHeight && -1 <= t.L && t.L <= maxLevel &&
		0 <= t.N && t.N <= MaxTree>>TileHeight && 1 <= t.W && t.W <= 1<<TileHeight
}

// TileWidth returns the width that t has in a tree of the given size, 0 if the tree
// does not reach it. The width of a data tile is that of the hashes of its records.
func TileWidth(t tlog.Tile, size int64) int {
	level := max(t.L, 0)
	return int(min(max(size>>(TileHeight*level)-t.N<<TileHeight, 0), 1<<TileHeight))
}

// FormatDataTile makes a data tile of records, as x/mod's sumdb.Server does.
func FormatDataTile(records [][]byte) []byte {
	var data []byte
	for _, text := range records {
		data = append(data, text...)
		data = append(data, '\n')
	}
	return data
}

// parseDataTile is the inverse of FormatDataTile for a tile of w records. Each record ends in a
// blank line. The blank line of the last record may be missing: the server of x/mod writes it,
// others do not (golang/go#69348). The error is ErrInvalid.
func parseDataTile(data []byte, w int) ([][]byte, error) {
	var records [][]byte
	for len(data) > 0 && len(records) < w {
		text, rest, found := bytes.Cut(data, []byte("\n\n"))
		if found {
			text = data[:len(text)+1] // a record has its last newline
		}
		if _, err := tlog.FormatRecord(0, text); err != nil {
			return nil, fmt.Errorf("%w: record %d of a data tile: %v", ErrInvalid, len(records), err)
		}
		records = append(records, text)
		data = rest
	}
	if len(data) > 0 || len(records) != w {
		return nil, fmt.Errorf("%w: a data tile has not %d records", ErrInvalid, w)
	}
	return records, nil
}
