package sumdb

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// This file has the names of evidence about a database, and its text.

// stamp matches the part that follows fork-NAME- in the name of an evidence file. It tells
// fork-sum.example-20261120T101500Z.txt from a file about sum.example-corp.
var stamp = regexp.MustCompile(`^[0-9]{8}T[^/\\\x00-\x1f\x7f]{0,180}$`)

// fileName returns the name of a database with its slashes replaced.
func fileName(database string) string { return strings.ReplaceAll(database, "/", "!") }

// isEvidence reports whether file is a name of evidence about the database.
func isEvidence(database, file string) bool {
	rest, ok := strings.CutPrefix(file, fileName(database)+"-")
	return ok && stamp.MatchString(rest)
}

// evidenceAt returns a name for a new evidence file, with the name of the database and the time.
func evidenceAt(database string, t time.Time) string {
	return fileName(database) + "-" + t.UTC().Format("20060102T150405.000000000Z")
}

// thawCommand returns the command that clears the evidence.
func thawCommand(database string) string { return "assay sumdb thaw " + database + " --reason TEXT" }

func notFrozen(database, dir string) error {
	return fmt.Errorf("%s is not frozen: there is no evidence of a fork of it in %s", database, dir)
}

// mostText bounds the text of evidence that is shared: two heads and a proof are some 10 KiB.
const mostText = 256 << 10

// readText reads the file of evidence at path, as much as is shared of it.
func readText(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, mostText))
	return string(text), err
}
