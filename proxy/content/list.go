package content

import (
	"bytes"
	"fmt"
	"slices"
	"unicode"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

const (
	// listLimit is enough for a list of 100,000 pseudo-versions.
	listLimit = 4 << 20

	// ListMemory is how much of Memory.Fetches the largest list takes while it is cleaned
	// and stored.
	ListMemory = listLimit / 2 * listHalves

	// listHalves is how many halves of its size a list takes in memory. First it exists
	// as it arrived, which is sorted in place, and as versions: the shortest, v0.0.0 with
	// its newline, has 7 bytes and takes 8 and a string of 16. Then it exists four times:
	// as the answer, encoded, as a value of the store and in the pages of the store.
	listHalves = 9
)

// cleanList returns the tagged versions of an upstream's list, sorted. The go command
// requests one more file when it sees a pseudo-version or a time in it, and ignores lines
// that are not versions. A list with nothing else than lines that are not versions is
// invalid. The result reuses the memory of data: ListMemory relies on it.
func cleanList(modulePath string, data []byte) ([]byte, error) {
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
		return nil, fmt.Errorf("no version in %d lines", lines)
	}
	return appendList(data[:0], versions), nil
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

// appendList sorts versions, each once, and appends them as lines to list.
func appendList(list []byte, versions []string) []byte {
	semver.Sort(versions)
	for _, v := range slices.Compact(versions) {
		list = append(append(list, v...), '\n')
	}
	return list
}
