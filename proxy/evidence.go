package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// keepMismatch writes down what an upstream sent in place of what the checksum
// database says.
func keepMismatch(dir string, m *mismatchError, now time.Time) (string, error) {
	return keepEvidence(dir, "mismatch", m.Module+"@"+m.Version+"-"+m.File+"-"+m.Got, fmt.Sprintf(`checksum mismatch
time:     %s
module:   %s
version:  %s
file:     %s
upstream: %s
got:      %s
database: %s
expected: %s

The content was not stored and not served. Compare with another upstream; if it
differs there too, tell the module's author and golang.org/issue.
`, now.UTC().Format(time.RFC3339), m.Module, m.Version, m.File, m.Source, m.Got, m.Database, m.Want))
}

// keepEvidence writes a text about something of a kind. The same is written once,
// so that a client that tries again and again cannot fill the disk. It returns the
// file's name.
func keepEvidence(dir, kind, about, text string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%s.txt", kind, evidenceName(about)))
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return name, nil
	}
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		_ = os.Remove(name) // half of it would keep the whole from being written later
		return "", err
	}
	return name, nil
}

// evidenceName makes s a part of a file name.
func evidenceName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '@':
			return r
		}
		return '_'
	}, s)
	return clip(s, 200)
}
