package sumdb

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/evidence"
)

// freezer knows whether a fork was seen that no administrator has cleared, and keeps the evidence
// of it. The evidence file is what freezes the mirror: the freeze outlives the process, and moving
// the file away ends it.
type freezer struct {
	name string // of the database
	key  string // its verifier key
	dir  evidence.Dir
	log  *slog.Logger

	mu     sync.Mutex
	frozen *freeze // nil if not frozen
}

// freeze is the reason why nothing new is accepted.
type freeze struct {
	file      string // the name of the file with the evidence
	unwritten string // the evidence, until the file has all of it
}

// stamp matches the part that follows fork-NAME- in the name of an evidence file. It tells
// fork-sum.example-20261120T101500Z.txt from a file about sum.example-corp.
var stamp = regexp.MustCompile(`^[0-9]{8}T.*\.txt$`)

// state reports whether a fork was seen that no administrator has cleared, and the path of its
// evidence, "" if that could not be written.
func (f *freezer) state() (file string, frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.frozen == nil:
		return "", false
	case f.frozen.unwritten != "":
		return "", true
	}
	return f.dir.Path("fork", f.frozen.file), true
}

// check returns ErrFrozen while nothing new is accepted.
func (f *freezer) check() error {
	if _, frozen := f.state(); frozen {
		return fmt.Errorf("%s: %w; the administrator of this mirror has the evidence", f.name, ErrFrozen)
	}
	return nil
}

// recheck looks for evidence files again. It writes evidence that could not be written before; as
// long as that fails, the mirror stays frozen.
func (f *freezer) recheck() error {
	f.mu.Lock() // held while looking, because another goroutine may be writing evidence
	defer f.mu.Unlock()
	found, err := f.find()
	if err != nil {
		return fmt.Errorf("evidence about %s: %w", f.name, err)
	}
	switch {
	case f.frozen != nil && f.frozen.unwritten != "":
		if err := f.dir.Write("fork", f.frozen.file, f.frozen.unwritten); err != nil {
			return fmt.Errorf("evidence about %s: %w", f.name, err)
		}
		f.frozen.unwritten = ""
	case found != "":
		if f.frozen == nil {
			f.log.Error("frozen: there is evidence of a fork", "file", f.dir.Path("fork", found))
		}
		f.frozen = &freeze{file: found}
	case f.frozen != nil:
		f.log.Warn("thawed: the evidence is gone", "file", f.dir.Path("fork", f.frozen.file))
		f.frozen = nil
	}
	return nil
}

// find returns the name of the oldest evidence of a fork, "" if there is none.
func (f *freezer) find() (string, error) {
	if f.dir == "" {
		return "", nil
	}
	entries, err := os.ReadDir(string(f.dir)) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if rest, ok := strings.CutPrefix(entry.Name(), "fork-"+f.fileName()+"-"); ok && stamp.MatchString(rest) {
			return f.fileName() + "-" + strings.TrimSuffix(rest, ".txt"), nil
		}
	}
	return "", nil
}

// fileName returns the name of the database with its slashes replaced.
func (f *freezer) fileName() string { return strings.ReplaceAll(f.name, "/", "!") }

// newFile returns a name for a new evidence file, with the name of the database and the time.
func (f *freezer) newFile() string {
	return f.fileName() + "-" + time.Now().UTC().Format("20060102T150405.000000000Z")
}

// freeze keeps the evidence that ours and theirs are heads of two logs, and freezes the mirror.
// theirs is signed by the database; from says where it was seen. freeze returns ErrFrozen.
func (f *freezer) freeze(ours, theirs *head, found comparison, from string) error {
	text := f.describe(ours, theirs, found, from)
	f.begin(text)
	file, _ := f.state()
	f.log.Error("the checksum database forked: nothing new is accepted from it until an administrator acts",
		"size", ours.tree.N, "other", theirs.tree.N, "source", from, "file", file, "evidence", text)
	return fmt.Errorf("%s: %w: tree %d in %s is not of the log we know at size %d",
		f.name, ErrFrozen, theirs.tree.N, from, ours.tree.N)
}

// begin freezes the mirror, if it is not frozen yet, and writes the evidence.
func (f *freezer) begin(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen != nil {
		return
	}
	f.frozen = &freeze{f.newFile(), text}
	if err := f.dir.Write("fork", f.frozen.file, text); err != nil {
		f.log.Error("evidence of the fork cannot be written", "err", err)
		return
	}
	f.frozen.unwritten = ""
}

// keepConflict keeps the evidence that the log has two records of one version. It returns the path
// of the file.
func (f *freezer) keepConflict(text string) (string, error) {
	return f.dir.Keep("conflict", f.newFile(), text)
}

// describe returns the text of the evidence: all that is needed to check, with nothing but the key,
// that the database signed two logs.
func (f *freezer) describe(ours, theirs *head, found comparison, from string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The checksum database %s signed two tree heads that cannot be of one log.\n", f.name)
	fmt.Fprintf(&b, "Seen %s in %s. Both signatures are by the key\n\t%s\n",
		time.Now().UTC().Format(time.RFC3339), from, f.key)
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
What this means: the database, or a holder of its key, shows different logs
to different people. This is what a checksum database must never do.

What happens now: this mirror goes on with what it has proved. Records, tiles and
the head it holds are answered; nothing new is accepted.

What to do: keep this file, and tell others: https://go.dev/security for
sum.golang.org, the operators of the database otherwise. Compare both heads with
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
