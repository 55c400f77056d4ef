package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/durable"
)

// ledger is a log on disk: the written entries, the signed ones, and the visible ones. The view may
// be read at any time; only the holder of the queue uses the rest.
type ledger struct {
	at       location
	key      keyPair
	entries  *entryFile
	heads    *headFile // nil if the log signs nothing: it is open for reading, or refuses
	guards   guards
	refusals *refusals
	log      *slog.Logger

	// repaired means that the leftovers of a crash after the last entry and the last head are
	// removed.
	repaired bool

	// view is the visible part of the log. It is replaced as a whole.
	view atomic.Pointer[view]
}

// view is the visible log at one moment. It does not change.
type view struct {
	tree    hashTree
	visible int64       // entries that can be found, at most those of tree
	head    *signedHead // nil only if the log refuses and has lost all heads
}

// size returns the number of entries under the signed head.
func (v *view) size() int64 {
	if v.head == nil {
		return 0
	}
	return v.head.tree.N
}

// size returns the number of entries under the newest signed head.
func (l *ledger) size() int64 {
	if v := l.view.Load(); v != nil {
		return v.size()
	}
	return 0
}

// visible returns the number of the entry of mod, if it can be found, and the view with this entry.
func (l *ledger) visible(mod module.Version) (v *view, id int64, ok bool) {
	v = l.view.Load()
	id, ok = l.entries.find(mod)
	return v, id, ok && id < v.visible
}

// signed returns the view, which has a head.
func (l *ledger) signed(ctx context.Context) (*view, error) {
	v := l.view.Load()
	if v.head == nil {
		return nil, l.refusals.reason()
	}
	return v, ctx.Err()
}

// showSigned makes the entries visible that head, which may be nil, covers.
func (l *ledger) showSigned(head *signedHead) {
	v := &view{tree: l.entries.tree(), head: head}
	v.visible = v.size()
	l.view.Store(v)
}

// showAll makes all entries visible, also those that no head covers.
func (l *ledger) showAll(head *signedHead) {
	tree := l.entries.tree()
	l.view.Store(&view{tree, tree.size(), head})
}

// resume completes what a crash interrupted: it cuts off torn writes, and signs whole entries that
// are not signed yet. If that fails, for example because the disk is full, the next append does it;
// until then the log serves the head that was found.
func (l *ledger) resume(found *findings) error {
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
func (l *ledger) repair() error {
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

// append writes the entries of pins, guards and signs everything on disk, and makes it visible. After
// an error none of the entries is visible.
func (l *ledger) append(pins []*pin) error {
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
func (l *ledger) publish(again bool, pins []*pin) error {
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
func (l *ledger) checkAlone() error {
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
func (l *ledger) checkEntries() error {
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
func (l *ledger) checkEnds() error {
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

// refuse makes the log refuse until it is opened again. It returns the reason.
func (l *ledger) refuse(why error) error {
	l.refusals.begin(why)
	l.log.Error("the log signs nothing new", "database", l.key.name(), "size", l.size(), "err", why)
	return why
}

// refuseUnlessAlone makes the log refuse if err is an errNotAlone. It returns err.
func (l *ledger) refuseUnlessAlone(err error) error {
	if errors.Is(err, errNotAlone) {
		return l.refuse(l.refusals.contradicted(err, false))
	}
	return err
}

// refuseIfUnknown makes the log refuse if err means that the content of the disk is unknown. It
// returns the refusal then, otherwise err.
func (l *ledger) refuseIfUnknown(err error) error {
	var unknown *durable.UnknownError
	if errors.As(err, &unknown) {
		return l.refuse(l.refusals.diskFailed(unknown.Err))
	}
	return err
}

func (l *ledger) close() error {
	var errs []error
	if l.entries != nil {
		errs = append(errs, l.entries.close())
	}
	if l.heads != nil {
		errs = append(errs, l.heads.close())
	}
	return errors.Join(errs...)
}
