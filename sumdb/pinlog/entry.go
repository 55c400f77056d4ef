package pinlog

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// maxRecord bounds the two lines of a record, so that a mirror accepts a data tile of 256 of them.
// Real ones have about 200 bytes.
const maxRecord = 4 << 10

// userinfo matches user and password in a URL, which no entry may contain. A password may contain
// an @.
var userinfo = regexp.MustCompile(`//[^/\s]*@`)

// Entry is the content of a Log for one module version.
type Entry struct {
	ID       int64          // the place in the log, from 0; Pin sets it
	Module   module.Version // of a canonical version
	Zip, Mod string         // "h1:…" of the zip and of the go.mod file
	Time     time.Time      // of the append; Pin sets it if it is zero

	// Origin says where a private module came from: repository and commit.
	// It is one line of free text. Pin cuts user and password out of a URL.
	Origin string

	// Public is set if the record is a copy of one in a public database.
	Public *PublicProof
}

// PublicProof says which record of which database was copied, so that an auditor can look it up
// there.
type PublicProof struct {
	Name string // of the database, for instance sum.golang.org
	ID   int64  // of the record there
	Head []byte // the signed head under which it was proved to be there
}

// Record returns the entry as the log serves it: its two lines of a go.sum file.
func (e Entry) Record() sumdb.Record {
	return sumdb.Record{ID: e.ID, Text: fmt.Appendf(nil, "%s %s %s\n%s %s/go.mod %s\n",
		e.Module.Path, e.Module.Version, e.Zip, e.Module.Path, e.Module.Version, e.Mod)}
}

// same reports whether e and other have the same content; their times and origins may differ.
func (e Entry) same(other Entry) bool {
	return e.Module == other.Module && e.Zip == other.Zip && e.Mod == other.Mod
}

// Source describes where the content of e came from.
func (e Entry) Source() string {
	switch {
	case e.Public != nil:
		return fmt.Sprintf("record %d of %s", e.Public.ID, e.Public.Name)
	case e.Origin != "":
		return e.Origin
	}
	return "unknown origin"
}

// ConflictError means that the log has the version with other content. The log is not changed.
type ConflictError struct {
	Have Entry // the content in the log, which never changes
	Got  Entry // the refused content
}

// Error names both contents and where they came from.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s has other content than when it was first seen: first (%s, %s) zip %s go.mod %s, now (%s) zip %s go.mod %s",
		e.Have.Module, e.Have.Time.UTC().Format(time.DateOnly), e.Have.Source(), e.Have.Zip, e.Have.Mod,
		e.Got.Source(), e.Got.Zip, e.Got.Mod)
}

// normal returns e in its stored form. The error is sumdb.ErrInvalid.
func (e Entry) normal() (Entry, error) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Round(0)
	e.Origin = userinfo.ReplaceAllString(e.Origin, "//")
	if e.Public != nil {
		proof := *e.Public
		proof.Head = bytes.Clone(proof.Head)
		e.Public = &proof
	}
	return e, e.check()
}

// check returns an error if e cannot be in a log. The error is sumdb.ErrInvalid.
func (e Entry) check() error {
	if _, err := sumdb.LookupPath(e.Module); err != nil {
		return fmt.Errorf("%w: entry of %q: %v", sumdb.ErrInvalid, e.Module, err)
	}
	record := e.Record()
	if _, _, err := record.Hashes(e.Module); err != nil {
		return fmt.Errorf("%w: entry of %s: zip %q and go.mod %q are not two h1 hashes", sumdb.ErrInvalid, e.Module, e.Zip, e.Mod)
	}
	if len(record.Text) > maxRecord {
		return fmt.Errorf("%w: entry of %s: a record of %d bytes, more than %d", sumdb.ErrInvalid, e.Module, len(record.Text), maxRecord)
	}
	if year := e.Time.Year(); year < 1 || year > 9999 || e.Time.IsZero() || e.Time.Location() != time.UTC {
		return fmt.Errorf("%w: entry of %s: at %s, which is no time in UTC of the years 1 to 9999", sumdb.ErrInvalid, e.Module, e.Time)
	}
	if len(e.Origin) > maxRecord || !printable(e.Origin) || strings.TrimSpace(e.Origin) != e.Origin {
		return fmt.Errorf("%w: entry of %s: its origin is not one line of at most %d bytes", sumdb.ErrInvalid, e.Module, maxRecord)
	}
	if p := e.Public; p != nil && (p.ID < 0 || !validDatabase(p.Name) || !validNote(p.Head)) {
		return fmt.Errorf("%w: entry of %s: no proof of a public record", sumdb.ErrInvalid, e.Module)
	}
	return nil
}

// printable reports whether s is UTF-8 without control characters, such as line ends.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func validDatabase(name string) bool {
	return name != "" && len(name) <= maxRecord && printable(name) && !strings.ContainsFunc(name, unicode.IsSpace)
}

// validNote reports whether text has the form of a signed note: complete lines. It does not check
// signatures, because it does not know their keys.
func validNote(text []byte) bool {
	if len(text) == 0 || len(text) > maxHead || text[len(text)-1] != '\n' {
		return false
	}
	for line := range bytes.Lines(text) {
		if !printable(string(line[:len(line)-1])) {
			return false
		}
	}
	return true
}

// encode returns the text of e as it is stored:
//
//	id 17
//	time 2026-11-20T10:15:00Z
//	origin https://git.corp.example/x 1f3870be
//	public sum.golang.org 61234567
//		go.sum database tree
//		…
//
//	corp.example/x v1.0.0 h1:…
//	corp.example/x v1.0.0/go.mod h1:…
func (e Entry) encode() []byte {
	b := fmt.Appendf(nil, "id %d\ntime %s\n", e.ID, e.Time.Format(time.RFC3339Nano))
	if e.Origin != "" {
		b = fmt.Appendf(b, "origin %s\n", e.Origin)
	}
	if e.Public != nil {
		b = fmt.Appendf(b, "public %s %d\n", e.Public.Name, e.Public.ID)
		for line := range bytes.Lines(e.Public.Head) {
			b = append(append(b, '\t'), line...)
		}
	}
	b = append(b, '\n')
	return append(b, e.Record().Text...)
}

// decodeEntry is the inverse of encode: every entry has exactly one text. The error is
// sumdb.ErrInvalid.
func decodeEntry(text []byte) (Entry, error) {
	var e Entry
	fields, record, found := strings.Cut(string(text), "\n\n")
	ok := found
	for line := range strings.Lines(fields + "\n") {
		ok = ok && e.setField(strings.TrimSuffix(line, "\n"))
	}
	if words := strings.Fields(record); ok && len(words) == 6 {
		e.Module = module.Version{Path: words[0], Version: words[1]}
		e.Zip, e.Mod = words[2], words[5]
	}
	if !ok || !bytes.Equal(e.encode(), text) {
		return Entry{}, fmt.Errorf("%w: not the text of an entry", sumdb.ErrInvalid)
	}
	return e, e.check()
}

// setField sets the field of one line. The caller checks that each field appears once, in order,
// and in its only form.
func (e *Entry) setField(line string) bool {
	if text, ok := strings.CutPrefix(line, "\t"); ok {
		if e.Public != nil {
			e.Public.Head = append(append(e.Public.Head, text...), '\n')
		}
		return e.Public != nil
	}
	name, value, _ := strings.Cut(line, " ")
	var err error
	switch name {
	case "id":
		e.ID, err = strconv.ParseInt(value, 10, 64)
	case "time":
		e.Time, err = time.Parse(time.RFC3339Nano, value)
	case "origin":
		e.Origin = value
	case "public":
		database, id, _ := strings.Cut(value, " ")
		e.Public = &PublicProof{Name: database}
		e.Public.ID, err = strconv.ParseInt(id, 10, 64)
	default:
		return false
	}
	return err == nil && e.ID >= 0 && e.ID < sumdb.MaxTree
}

// leaf returns the hash of e at level 0 of the tree.
func (e Entry) leaf() tlog.Hash { return tlog.RecordHash(e.Record().Text) }
