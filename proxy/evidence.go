package proxy

import (
	"crypto/sha256"
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

// maxEvidence is how many files of a kind are kept. Who runs the proxy moves them away;
// what is not kept is in the log.
const maxEvidence = 1000

// keepEvidence writes a text about something of a kind. The same is written once, and
// no more than maxEvidence in all: neither a client that tries again and again nor an
// upstream that sends something else each time can fill the disk. It returns the file's
// name.
func keepEvidence(dir, kind, about, text string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(about))
	name := filepath.Join(dir, fmt.Sprintf("%s-%s-%x.txt", kind, evidenceName(about), sum[:6]))
	if _, err := os.Lstat(name); err == nil {
		return name, nil
	}
	if err := evidenceRoom(dir, kind); err != nil {
		return "", err
	}
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

// evidenceRoom returns an error if there are maxEvidence files of a kind.
func evidenceRoom(dir, kind string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	kept := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), kind+"-") {
			kept++
		}
	}
	if kept >= maxEvidence {
		return fmt.Errorf("there are %d evidence files of this kind already; move them away", kept)
	}
	return nil
}

// evidenceName makes s a part of a file name, which is not one of its own: several have
// the same.
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
