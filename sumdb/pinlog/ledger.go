package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/assay-proxy/assay/internal/durable"
)

// fileLedger is a log in files. Only the holder of the queue uses it.
type fileLedger struct {
	*book
	at     location
	heads  *headFile // nil if the log signs nothing: it is open for reading, or refuses
	guards guards

	// repaired means that the leftovers of a crash after the last entry and the last head are
	// removed.
	repaired bool
}

// resume completes what a crash interrupted: it cuts off torn writes, and signs whole entries that
// are not signed yet. If that fails, for example because the disk is full, the next append does it;
// until then the log serves the head that was found.
func (l *fileLedger) resume(found *findings) error {
	l.showSigned(found.newestHead())
	if found.complete {
		l.guards.written = l.view.Load().head.tree
	}
	size := l.entries.tree().size()
	if found.guards.changed {
		l.log.Info("another program changed the file of entries; chown, chmod and a backup by links do so, "+
			"and so does a copy that was restored with all its guards", "database", l.key.name(), "size", size)
	}
	if found.entries.torn != nil {
		l.log.Warn("a torn entry is cut off", "database", l.key.name(), "size", size, "err", found.entries.torn)
	}
	err := l.repair()
	if err == nil {
		err = l.publish(!found.complete, nil)
	}
	switch {
	case err != nil && l.view.Load().head == nil:
		return err
	case l.refusals.reason() != nil: // the reason is logged already
	case err != nil:
		l.log.Error("the log cannot be written; the next append tries again", "database", l.key.name(), "size", l.size(), "err", err)
	default:
		l.log.Info("log opened", "database", l.key.name(), "size", l.size())
	}
	return nil
}

// repair cuts off, once, the incomplete rest of a crash. No head and no guard covers it.
func (l *fileLedger) repair() error {
	if l.repaired {
		return nil
	}
	err := l.refuseIfUnknown(l.entries.rewrite(l.size()))
	if err == nil {
		err = errors.Join(l.heads.cutTail(), durable.SyncDir(l.at.dir))
	}
	l.repaired = err == nil
	return err
}

// append implements ledger.
func (l *fileLedger) append(_ context.Context, pins []*pin) error {
	if err := l.refusals.reason(); err != nil {
		return err
	}
	if err := l.checkAlone(); err != nil {
		return err
	}
	if err := l.repair(); err != nil {
		return err
	}
	entries := make([]Entry, len(pins))
	for i, p := range pins {
		entries[i] = p.entry
	}
	if err := l.refuseIfUnknown(l.entries.append(entries)); err != nil {
		return err
	}
	return l.publish(false, pins)
}

// publish makes everything on disk visible. It writes the guards first: if the process stops after
// that, the next start knows what may have been signed. If the newest head covers everything
// already, publish writes it again only if again is set. The dependents of pins are stored with the
// guards, if that is possible.
func (l *fileLedger) publish(again bool, pins []*pin) error {
	entries := l.entries.tree()
	tree, err := entries.at(entries.size())
	if err != nil {
		return err
	}
	if head := l.view.Load().head; !again && head != nil && head.tree == tree {
		return nil
	}
	if err := l.guards.write(tree, l.entries.file, pins); err != nil {
		return fmt.Errorf("guard: %w", diskError(err))
	}
	// A backup may have been restored during these writes.
	if err := l.refuseUnlessAlone(l.checkEnds()); err != nil {
		return err
	}
	head, err := signHead(tree, l.key.signer)
	if err != nil {
		return err
	}
	if err := l.heads.write(head); err != nil {
		return diskError(err)
	}
	l.view.Store(&view{entries, tree.N, &head})
	return nil
}

// checkAlone makes the log refuse if another process signs it, or if its files were replaced or
// written to. So a lock that does not hold, a copy that was adopted while this process runs, and a
// backup that was restored under it are found before there is a second continuation, or an entry
// that no start would find.
func (l *fileLedger) checkAlone() error {
	err := l.checkEntries()
	if err == nil {
		err = l.guards.check(l.entries.tree())
	}
	if err == nil && l.repaired {
		err = l.checkEnds()
	}
	return l.refuseUnlessAlone(err)
}

// checkEntries checks that entries is still the file that is open.
func (l *fileLedger) checkEntries() error {
	path := l.at.path("entries")
	ours, err := l.entries.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !os.SameFile(ours, there) {
		return fmt.Errorf("%w: %s is another file than when it was opened", errNotAlone, path)
	}
	return nil
}

// checkEnds checks that entries and heads end where this process left them. The rest of a failed
// write after the last head is overwritten.
func (l *fileLedger) checkEnds() error {
	entries, err := l.entries.file.Stat()
	if err != nil {
		return err
	}
	heads, err := l.heads.history.Stat()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name        string
		size, end   int64
		mayBeLonger bool
	}{{"entries", entries.Size(), l.entries.tree().end(), false}, {"heads", heads.Size(), l.heads.end, true}} {
		if f.size < f.end || f.size > f.end && !f.mayBeLonger {
			return fmt.Errorf("%w: %s has %d bytes, this process left it with %d", errNotAlone, l.at.path(f.name), f.size, f.end)
		}
	}
	return nil
}

// refuseUnlessAlone makes the log refuse if err is an errNotAlone. It returns err.
func (l *fileLedger) refuseUnlessAlone(err error) error {
	if errors.Is(err, errNotAlone) {
		return l.refuse(l.refusals.contradicted(err, false))
	}
	return err
}

// refuseIfUnknown makes the log refuse if err means that the content of the disk is unknown. It
// returns the refusal then, otherwise err.
func (l *fileLedger) refuseIfUnknown(err error) error {
	var unknown *durable.UnknownError
	if errors.As(err, &unknown) {
		return l.refuse(l.refusals.diskFailed(unknown.Err))
	}
	return err
}

// writable implements ledger.
func (l *fileLedger) writable() bool { return l.heads != nil }

// look implements ledger: no other process writes to the files.
func (l *fileLedger) look(context.Context) error { return nil }

func (l *fileLedger) close() error {
	var errs []error
	if l.entries != nil {
		errs = append(errs, l.entries.close())
	}
	if l.heads != nil {
		errs = append(errs, l.heads.close())
	}
	return errors.Join(errs...)
}
