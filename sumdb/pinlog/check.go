package pinlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/sumdb"
)

// Witness compares a signed head that a client has seen with the log. A head that our key signed
// and that the log does not contain, because it is larger or has another root, freezes the log,
// also after a restart: the error is sumdb.ErrFrozen. For a head that our key did not sign the
// error is sumdb.ErrInvalid, and nothing changes. For a log in files that is open ReadOnly, a larger head is
// sumdb.ErrBeyond: another process may have appended since, or the log has lost entries. In a bucket the entries of a
// head are there before it is signed, so the head is evidence, which freezes all replicas, also with ReadOnly.
func (l *Log) Witness(head []byte) error {
	seen, err := openHead(head, l.key.verifier)
	if err != nil {
		return fmt.Errorf("head shown to the log %s: %w", l.Name(), err)
	}
	if l.book.view.Load().tree.contains(seen.tree) {
		return nil
	}
	if err := l.queue.lock(); err != nil {
		return err
	}
	defer l.queue.unlock()
	if seen.tree.N > l.book.entries.tree().size() { // perhaps another replica has signed it
		if err := l.ledger.look(context.Background()); err != nil {
			return err
		}
	}
	entries := l.book.entries.tree()
	if entries.contains(seen.tree) {
		return nil // the log signed it in the meantime
	}
	if l.config.ReadOnly && l.config.Bucket == nil && seen.tree.N > entries.size() {
		return fmt.Errorf("head of %d entries shown to the log %s: %w, which was tree %d when it was opened for reading: "+
			"if that is so when it is opened again, entries are lost", seen.tree.N, l.Name(), sumdb.ErrBeyond, entries.size())
	}
	return l.ledger.freeze(seen, !l.config.ReadOnly)
}

// freeze implements ledger.
func (l *fileLedger) freeze(seen signedHead, keep bool) error {
	refusal := l.refusals.contradicted(fmt.Errorf("a client has seen a signed head of %d entries that does not fit the %d entries here",
		seen.tree.N, l.entries.tree().size()), false)
	first := l.refusals.begin(refusal)
	var err error
	if keep {
		err = l.keepEvidence(seen)
	}
	if first || err != nil {
		l.log.Error("the log is frozen: a client has seen a head that is not of this log",
			"database", l.key.name(), "size", l.size(), "seen", seen.tree.N, "head", string(seen.note), "err", err)
	}
	return errors.Join(refusal, err)
}

// keepEvidence adds seen to the file that keeps the log frozen.
func (l *fileLedger) keepEvidence(seen signedHead) error {
	path := l.at.path("frozen")
	held, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.Contains(held, seen.note) {
		return nil
	}
	return durable.Replace(path, append(held, seen.note...), 0o600)
}

// readAgain reads everything of the log, and returns what is wrong with it, and the tree of its entries.
func (l *Log) readAgain(ctx context.Context) (damage []error, entries hashTree, err error) {
	if l.config.Bucket != nil {
		a := newAudit(l.config, l.key)
		err = a.run(ctx)
		return a.damage, a.index.tree, err
	}
	found, err := fileOpener{l}.read(ctx, true)
	if err != nil {
		return nil, entries, err
	}
	return found.damage, found.entries.index.tree, nil
}

// Check reads all files of the log again, and compares each entry with its checksum and the tree,
// each head that was ever signed with the key and the tree, the guards, the freeze, and the tree
// with the one in memory. The error contains all contradictions. Check takes a second for 10,000
// heads or 100,000 entries; appends go on meanwhile. In a bucket it reads each batch with a request of its
// own, 16 at a time, checks both of its signatures, and compares the segments with the batches.
func (l *Log) Check(ctx context.Context) error {
	v := l.book.view.Load()
	damage, entries, err := l.readAgain(ctx)
	if err != nil {
		return fmt.Errorf("check the log %s: %w", l.Name(), err)
	}
	var answered tlog.Tree
	if answered, err = v.tree.at(v.tree.size()); err == nil && !entries.contains(answered) {
		place := "on disk"
		if l.config.Bucket != nil {
			place = "in the bucket"
		}
		err = fmt.Errorf("the %d entries %s differ from those in memory", entries.size(), place)
	}
	if err != nil {
		damage = append(damage, err)
	}
	if len(damage) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the log %s does not pass its check: %w", sumdb.ErrInvalid, l.Name(), errors.Join(damage...))
}
