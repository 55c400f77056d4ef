package pinlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// evidence is a tree that a log must contain, or no replica signs: a replica has seen it, and then has not
// found it in the bucket. It is signed, with a text that no tree head has. When the bucket has the tree
// again, it says nothing any longer. A head that a client has shown is evidence, too: the key has signed it.
type evidence struct {
	tree tlog.Tree
	why  string // one line
	note []byte
}

const evidenceStart = "assay log evidence\n"

// maxEvidence is how many pieces a log keeps. The largest trees stay: what contains one of them contains
// the smaller ones too, if they are of one log.
const maxEvidence = 16

func newEvidence(tree tlog.Tree, why string, signer note.Signer) (evidence, error) {
	e := evidence{tree: tree, why: why}
	var err error
	e.note, err = note.Sign(&note.Note{Text: e.text()}, signer)
	return e, err
}

func (e evidence) text() string {
	return fmt.Sprintf("%ssize %d\nroot %s\nwhy %s\n", evidenceStart, e.tree.N, e.tree.Hash, e.why)
}

// openEvidence parses a piece of evidence that verifier must have signed. The error is sumdb.ErrInvalid.
func openEvidence(msg []byte, verifier note.Verifier) (e evidence, err error) {
	n, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return e, fmt.Errorf("%w: evidence: %v", sumdb.ErrInvalid, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) == 5 {
		e.tree, err = parseTree(strings.TrimPrefix(lines[1], "size "), strings.TrimPrefix(lines[2], "root "))
		e.why, e.note = strings.TrimPrefix(lines[3], "why "), msg
	}
	if err != nil || e.text() != n.Text {
		return e, fmt.Errorf("%w: not the text of evidence", sumdb.ErrInvalid)
	}
	return e, nil
}

// seenHead is the evidence that a client has seen a head.
func seenHead(head signedHead) evidence {
	return evidence{tree: head.tree, why: "a client has seen a signed head of it", note: head.note}
}

// openAllEvidence is the inverse of joinEvidence. It omits what our key did not sign: any program that can
// write to the bucket could put it there. The error is sumdb.ErrInvalid if data has another form.
func openAllEvidence(data []byte, verifier note.Verifier) (all []evidence, err error) {
	in := bufio.NewReader(bytes.NewReader(data))
	for {
		msg, err := readFrame(in)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if e, err := openEvidence(msg, verifier); err == nil {
			all = append(all, e)
		} else if head, err := openHead(msg, verifier); err == nil {
			all = append(all, seenHead(head))
		}
	}
}

// joinEvidence returns the text of several pieces of evidence.
func joinEvidence(all []evidence) (data []byte) {
	for _, e := range all {
		data = appendFrame(data, e.note)
	}
	return data
}

// mergeEvidence adds to all the pieces of more about other trees, without the smallest ones that are too many.
func mergeEvidence(all, more []evidence) []evidence {
	merged := slices.Clone(all)
	for _, e := range more {
		if !slices.ContainsFunc(merged, func(other evidence) bool { return other.tree == e.tree }) {
			merged = append(merged, e)
		}
	}
	slices.SortStableFunc(merged, func(a, b evidence) int { return int(max(min(a.tree.N-b.tree.N, 1), -1)) })
	return merged[max(0, len(merged)-maxEvidence):]
}

// evidenceState is the evidence that a bucket keeps for all replicas.
type evidenceState struct {
	store    storage.Store
	name     string // of the state
	verifier note.Verifier
}

func newEvidenceState(store storage.Store, verifier note.Verifier) evidenceState {
	return evidenceState{store, "log/frozen/" + path.Base(storage.LogDir(verifier.Name())), verifier}
}

// read returns the evidence, and the value of the state, nil if there is none.
func (s evidenceState) read(ctx context.Context) (all []evidence, value []byte, err error) {
	value, err = s.store.State(ctx, s.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err == nil {
		all, err = openAllEvidence(value, s.verifier)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("evidence against the log %s: %w", s.verifier.Name(), err)
	}
	return all, value, nil
}

// add adds evidence.
func (s evidenceState) add(ctx context.Context, more []evidence) error {
	for {
		all, value, err := s.read(ctx)
		if err != nil {
			return err
		}
		merged := joinEvidence(mergeEvidence(all, more))
		if bytes.Equal(merged, value) {
			return nil
		}
		if err := s.store.SwapState(ctx, s.name, value, merged); !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}

// evidenceFile is the evidence that a replica keeps in its own directory, in case that the bucket cannot be
// written.
type evidenceFile struct {
	dir      string // "": none
	verifier note.Verifier
}

func (f evidenceFile) path() string { return filepath.Join(f.dir, "frozen") }

func (f evidenceFile) read() ([]evidence, error) {
	if f.dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(f.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := openAllEvidence(data, f.verifier)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(), err)
	}
	return all, nil
}

func (f evidenceFile) add(more []evidence) error {
	if f.dir == "" {
		return nil
	}
	all, err := f.read()
	if err != nil {
		return err
	}
	return durable.Replace(f.path(), joinEvidence(mergeEvidence(all, more)), 0o600)
}

// patience is how long an append, and each look at the bucket, may take. The store has time-outs of its own
// for each request.
const patience = time.Minute

// alarm tells all replicas, and the next start of this one, that the log is frozen.
type alarm struct {
	posted   evidenceState
	kept     evidenceFile
	announce func()

	unposted []evidence // what could not be written to the bucket yet
}

// raise keeps evidence that a log must contain trees, because of why.
func (a *alarm) raise(why error, trees []tlog.Tree, signer note.Signer) error {
	text := strings.TrimPrefix(oneLine(why), errContradicts.Error()+": ")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
	for _, tree := range trees {
		e, err := newEvidence(tree, text, signer)
		if err != nil {
			return err
		}
		a.unposted = append(a.unposted, e)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(a.kept.add(a.unposted), a.post(ctx))
}

// show tells the other replicas that a client has seen a head. It keeps nothing in a directory: a command that only reads
// has none.
func (a *alarm) show(head signedHead) error {
	a.unposted = append(a.unposted, seenHead(head))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return a.post(ctx)
}

// post writes evidence to the bucket that is not there yet.
func (a *alarm) post(ctx context.Context) error {
	if len(a.unposted) == 0 {
		return nil
	}
	if err := a.posted.add(ctx, a.unposted); err != nil {
		return err
	}
	a.unposted = nil
	a.announce()
	return nil
}
