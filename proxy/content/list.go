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
	// listLimit holds a list of 100,000 pseudo-versions.
	listLimit = 4 << 20

	// ListMemory is what the largest list takes of Memory.Fetches while it is cleaned
	// and kept.
	ListMemory = listLimit / 2 * listHalves

	// listHalves is how many halves of its size a list takes: it is there as it came,
	// where it is sorted too, and as versions, of which the shortest, v0.0.0 with its
	// newline, has 7 bytes and takes 8 and a string of 16. Then it is there four times:
	// as it is answered, encoded, as a value of the store and in its pages.
	listHalves = 9
)

// cleanList returns the tagged versions of an upstream's list, sorted. The
// go command asks for one more file when it sees a pseudo-version or a time in
// it, and ignores what is no version. A list of nothing but that is no list.
// The result is where data was: ListMemory counts on it.
func cleanList(modulePath string, data []byte) ([]byte, error) {
	const shortest = len("v0.0.0\n")
	versions := make([]string, 0, len(data)/shortest+1) // never more, so that it does not grow
	lines := 0
	for line := range bytes.Lines(data) {
		v := string(firstField(line))
		if v == "" {
			continue
		}
		lines++
		if module.CanonicalVersion(v) != v || module.IsPseudoVersion(v) || module.Check(modulePath, v) != nil {
			if semver.IsValid(v) {
				lines-- // a version, though none to list
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

// firstField returns the first field of a line, which is its version; the second one is a
// time, for people. A line of millions of fields takes no memory.
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
