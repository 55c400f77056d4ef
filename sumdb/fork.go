package sumdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
)

// freeze says why nothing new is accepted.
type freeze struct {
	file      string // where the evidence is
	unwritten string // the evidence until it is there, whole
}

// stamp is what follows fork-NAME- in the name of a file of evidence. It tells
// fork-sum.example-20261120T101500Z.txt from a file about sum.example-corp.
var stamp = regexp.MustCompile(`^[0-9]{8}T.*\.txt$`)

// Frozen says whether a fork was seen that no operator has cleared, and in which
// file its evidence is; the name is empty if it could not be written.
func (m *Mirror) Frozen() (evidenceFile string, frozen bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.frozen == nil:
		return "", false
	case m.frozen.unwritten != "":
		return "", true
	}
	return m.frozen.file, true
}

// thawed returns ErrFrozen if we are frozen.
func (m *Mirror) thawed() error {
	if _, frozen := m.Frozen(); frozen {
		return fmt.Errorf("%s: %w; its operator has the evidence", m.name, ErrFrozen)
	}
	return nil
}

// Recheck looks for evidence again: an operator thaws the mirror by moving the
// files away, and freezes it by putting one there. Evidence that could not be
// written is written now; as long as that fails, the mirror stays frozen.
func (m *Mirror) Recheck() error {
	m.mu.Lock() // also while we look: evidence may be written at this moment
	defer m.mu.Unlock()
	file, err := m.findEvidence()
	if err != nil {
		return fmt.Errorf("evidence about %s: %w", m.name, err)
	}
	switch {
	case m.frozen != nil && m.frozen.unwritten != "":
		if err := m.writeEvidence(m.frozen.file, m.frozen.unwritten); err != nil {
			return fmt.Errorf("evidence about %s: %w", m.name, err)
		}
		m.frozen.unwritten = ""
	case file != "":
		if m.frozen == nil {
			m.log.Error("frozen: there is evidence of a fork", "file", file)
		}
		m.frozen = &freeze{file: file}
	case m.frozen != nil:
		m.log.Warn("thawed: the evidence is gone", "file", m.frozen.file)
		m.frozen = nil
	}
	return nil
}

// findEvidence returns the oldest file of evidence of a fork, if there is one.
func (m *Mirror) findEvidence() (string, error) {
	if m.config.Evidence == "" {
		return "", nil
	}
	entries, err := os.ReadDir(m.config.Evidence) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if rest, ok := strings.CutPrefix(entry.Name(), "fork-"+m.fileName()+"-"); ok && stamp.MatchString(rest) {
			return filepath.Join(m.config.Evidence, entry.Name()), nil
		}
	}
	return "", nil
}

// fileName is our name without the slashes it may have.
func (m *Mirror) fileName() string { return strings.ReplaceAll(m.name, "/", "!") }

// freeze keeps the evidence that theirs, a head signed by the database and seen
// in from, and ours are of two logs, and lets nothing new in from now on. It
// returns ErrFrozen.
func (m *Mirror) freeze(ours, theirs *head, found comparison, from string) error {
	m.metrics.heads.WithLabelValues("fork").Inc()
	m.metrics.forks.Inc()
	evidence := m.describeFork(ours, theirs, found, from)
	m.mu.Lock()
	first := m.frozen == nil
	if first {
		m.frozen = &freeze{m.evidenceFile("fork"), evidence}
		if err := m.writeEvidence(m.frozen.file, evidence); err != nil {
			m.log.Error("evidence of the fork cannot be written", "err", err)
		} else {
			m.frozen.unwritten = ""
		}
	}
	m.mu.Unlock()
	file, _ := m.Frozen()
	m.log.Error("the checksum database forked: nothing new is accepted from it until an administrator acts",
		"size", ours.tree.N, "other", theirs.tree.N, "source", from, "file", file, "evidence", evidence)
	return fmt.Errorf("%s: %w: tree %d in %s is not of the log we know at size %d",
		m.name, ErrFrozen, theirs.tree.N, from, ours.tree.N)
}

// describeFork is the text of the evidence: all that is needed to check with the
// key alone that the database signed two logs.
func (m *Mirror) describeFork(ours, theirs *head, found comparison, from string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The checksum database %s signed two tree heads that cannot be of one log.\n", m.name)
	fmt.Fprintf(&b, "Seen %s in %s. Both signatures are by the key\n\t%s\n",
		time.Now().UTC().Format(time.RFC3339), from, m.config.Key)
	fmt.Fprintf(&b, "\nOur tree head, accepted %s:\n%s", ours.time.UTC().Format(time.RFC3339), indent(ours.note))
	fmt.Fprintf(&b, "\nThe other tree head:\n%s", indent(theirs.note))
	fmt.Fprintf(&b, "\nThe tree of size %d has, at size %d, the root\n\t%s\nand the head of size %d says it is\n\t%s\n",
		found.newer.N, found.older.N, found.root, found.older.N, found.older.Hash)
	if len(found.proof) > 0 {
		fmt.Fprintf(&b, "\nProof of the former, as checked by tlog.CheckTree:\n")
		for _, hash := range found.proof {
			fmt.Fprintf(&b, "\t%s\n", hash)
		}
	}
	b.WriteString(`
What this means: the database, or somebody who has its key, shows different logs
to different people. This is what a checksum database must never do.

What happens now: this mirror goes on with what it has proved. Records, tiles and
the head it holds are answered; nothing new is accepted.

What to do: keep this file, and tell others: https://go.dev/security for
sum.golang.org, the people who run the database otherwise. Compare both heads with
those that other mirrors have. If ours is the true log, move this file out of this
directory and restart, or send SIGHUP. If the other is, everything that was
verified here is in doubt: begin with an empty store.
`)
	return b.String()
}

func indent(text []byte) string {
	lines := slices.Collect(strings.Lines(string(text)))
	return "\t" + strings.Join(lines, "\t")
}

// evidenceFile is the name of a new file KIND-NAME-TIME.txt for evidence.
func (m *Mirror) evidenceFile(kind string) string {
	now := time.Now().UTC().Format("20060102T150405.000000000Z")
	return filepath.Join(m.config.Evidence, kind+"-"+m.fileName()+"-"+now+".txt")
}

// writeEvidence makes text the content of file, which is one of evidenceFile. What
// an error leaves of it stays: after a restart it still freezes.
func (m *Mirror) writeEvidence(file, text string) error {
	if m.config.Evidence == "" {
		return errors.New("no directory for evidence")
	}
	if err := durable.MakeDir(m.config.Evidence, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close(), durable.SyncDir(m.config.Evidence))
}
