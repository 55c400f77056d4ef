package content

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// Versions are versions of a module, in order, each once. A value never changes.
type Versions struct {
	// lines has each version and its newline, as the protocol writes a list: this is the
	// most compact form, and a list can have 600,000 versions.
	lines []byte
}

// versionsOf returns the versions. It sorts its argument.
func versionsOf(versions []string) Versions { return Versions{appendSorted(nil, versions)} }

// All yields the versions in order.
func (v Versions) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		text := string(v.lines) // once, because 10,000 small strings take longer
		for line := range strings.Lines(text) {
			if !yield(strings.TrimSuffix(line, "\n")) {
				return
			}
		}
	}
}

// Where returns the versions for which keep returns true. They take memory of their own.
func (v Versions) Where(keep func(version string) bool) Versions {
	kept := make([]byte, 0, len(v.lines))
	for version := range v.All() {
		if keep(version) {
			kept = append(append(kept, version...), '\n')
		}
	}
	return Versions{bytes.Clone(kept)}
}

func (v Versions) none() bool { return len(v.lines) == 0 }

// Text returns the versions as a response of the protocol. It must not be changed.
func (v Versions) Text() []byte { return v.lines }

const (
	// listLimit is enough for a list of 100,000 pseudo-versions.
	listLimit = 4 << 20

	// ListMemory is how much of Memory.Fetches the largest list takes while it is parsed
	// and stored.
	ListMemory = listLimit / 2 * listHalves

	// listHalves is how many halves of its size a list takes in memory. First it exists
	// as it arrived, which is sorted in place, and as versions: the shortest, v0.0.0 with
	// its newline, has 7 bytes and takes 8 and a string of 16. Then it exists four times:
	// as the answer, encoded, as a value of the store and in the pages of the store.
	listHalves = 9
)

// parseVersions returns the tagged versions of an upstream's list. The go command requests
// one more file when it sees a pseudo-version or a time in it, and ignores lines that are
// not versions. A list with nothing else than lines that are not versions is invalid. The
// result takes the memory of data, as ListMemory assumes: the caller must not use data
// any more.
func parseVersions(modulePath string, data []byte) (Versions, error) {
	const shortest = len("v0.0.0\n")
	versions := make([]string, 0, len(data)/shortest+1) // the maximum, so that it does not grow
	lines := 0
	for line := range bytes.Lines(data) {
		v := string(firstField(line))
		if v == "" {
			continue
		}
		lines++
		if module.CanonicalVersion(v) != v || module.IsPseudoVersion(v) || module.Check(modulePath, v) != nil {
			if semver.IsValid(v) {
				lines-- // a version, but not a tagged one
			}
			continue
		}
		versions = append(versions, v)
	}
	if lines > 0 && len(versions) == 0 {
		return Versions{}, fmt.Errorf("no version in %d lines", lines)
	}
	return Versions{appendSorted(data[:0], versions)}, nil
}

// firstField returns the first field of a line, which is its version; the second field is
// a time, for users. It needs no memory for a line with millions of fields.
func firstField(line []byte) []byte {
	line = bytes.TrimLeftFunc(line, unicode.IsSpace)
	if end := bytes.IndexFunc(line, unicode.IsSpace); end >= 0 {
		line = line[:end]
	}
	return line
}

// appendSorted sorts versions and appends them to lines, each once.
func appendSorted(lines []byte, versions []string) []byte {
	semver.Sort(versions)
	for _, v := range slices.Compact(versions) {
		lines = append(append(lines, v...), '\n')
	}
	return lines
}
