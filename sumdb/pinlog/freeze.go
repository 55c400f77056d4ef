package pinlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/sumdb"
)

// Witness compares a signed head that a client has seen with the log. A head that
// our key signed and that the log does not contain, because it is larger or has
// another root, freezes the log, also after a restart: the error is sumdb.ErrFrozen. A
// head that our key did not sign is sumdb.ErrInvalid and changes nothing. To a log that is
// open ReadOnly a larger head is sumdb.ErrBeyond: others may have appended since, or the
// log has lost entries.
func (l *Log) Witness(head []byte) error {
	seen, err := openHead(head, l.verifier)
	if err != nil {
		return fmt.Errorf("head shown to the log %s: %w", l.Name(), err)
	}
	if l.view.Load().tree.contains(seen.tree) {
		return nil
	}
	if err := l.takeTurn(); err != nil {
		return err
	}
	defer l.giveTurn()
	if l.tree.contains(seen.tree) {
		return nil // it was signed meanwhile
	}
	if l.config.ReadOnly && seen.tree.N > l.tree.size() {
		return fmt.Errorf("head of %d entries shown to the log %s: %w, which was tree %d when it was opened for reading: "+
			"if that is so when it is opened again, entries are lost", seen.tree.N, l.Name(), sumdb.ErrBeyond, l.tree.size())
	}
	return l.freeze(seen)
}

// freeze makes the log refuse because seen was signed and is not of it. The turn
// is ours.
func (l *Log) freeze(seen signedHead) error {
	why := fmt.Errorf("a signed head of %d entries was seen that is not of the %d entries here", seen.tree.N, l.tree.size())
	refuses := l.refusal(why, nil)
	l.mu.Lock()
	first := l.refuses == nil
	if first {
		l.refuses = refuses
	}
	l.mu.Unlock()
	var err error
	if !l.config.ReadOnly {
		err = l.keepEvidence(seen)
	}
	if first || err != nil {
		l.log.Error("the log is frozen: a client has seen a head that is not of this log",
			"database", l.Name(), "size", l.Size(), "seen", seen.tree.N, "head", string(seen.note), "err", err)
	}
	return errors.Join(refuses, err)
}

// keepEvidence adds seen to the file that keeps the log frozen.
func (l *Log) keepEvidence(seen signedHead) error {
	path := l.path("frozen")
	held, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.Contains(held, seen.note) {
		return nil
	}
	return durable.Replace(path, append(held, seen.note...), 0o600)
}

// Adopt makes a log that refuses sign again, when its operator has made sure
// that it continues everything that was ever shown: after a copy of it was put
// back, it was moved to another disk, or a guard was lost or is new. No process may
// have the log open.
//
// head is the newest signed head that any client or other machine has seen. A
// client keeps its own in $GOPATH/pkg/sumdb/NAME/latest. The log must contain it,
// all signed heads that are found in c.Dir, the trees of the guards, and what c.Store
// remembers of the log. Then the guards are rewritten, the freeze is lifted, and what follows the last whole
// entry is moved to a file cut-TIME in c.Dir. Otherwise the log stays as it is, and
// the error is sumdb.ErrFrozen;
// sumdb.ErrInvalid if head is not one of this log; fs.ErrNotExist if there is no log.
//
// A nil head says that no client has ever seen a head of the log but those in c.Dir.
// If that is wrong, the log signs what contradicts the head that was seen, and
// every client that has it stops for ever with a SECURITY ERROR. So ask
// the operator twice.
func Adopt(ctx context.Context, c Config, head []byte) error {
	l, err := newLog(c)
	if err == nil && c.ReadOnly {
		err = errors.New("open for reading only")
	}
	if err != nil {
		return fmt.Errorf("adopt the log in %s: %w", c.Dir, err)
	}
	err = l.adopt(ctx, head)
	if err = errors.Join(err, l.closeFiles()); err != nil {
		return fmt.Errorf("adopt the log in %s: %w", c.Dir, err)
	}
	return nil
}

func (l *Log) adopt(ctx context.Context, head []byte) error {
	if _, err := os.Stat(l.config.Dir); err != nil {
		return err
	}
	if err := l.openKey(ctx, false); err != nil {
		return err
	}
	d, err := l.reader(true).read(ctx)
	if err != nil {
		return err
	}
	if head != nil {
		seen, err := openHead(head, l.verifier)
		if err != nil {
			return fmt.Errorf("the head to adopt is none of the log %s: %w", l.Name(), err)
		}
		d.claims = append(d.claims, claim{"what was seen", seen.tree, true, seen.note})
	}
	if err := l.mayAdopt(d, head != nil); err != nil {
		return err
	}
	if err := l.openFiles(d); err != nil {
		return err
	}
	return l.begin(d)
}

// mayAdopt says why the entries in d must not be continued.
func (l *Log) mayAdopt(d *disk, seen bool) error {
	if d.foreign != nil {
		return frozen("the log %s stays as it is: %w; name another file, or put the right key back", l.Name(), d.foreign)
	}
	if d.unread != nil {
		return frozen("the log %s stays as it is: %w; make it readable, since it may contradict what is here", l.Name(), d.unread)
	}
	if err := d.lost(); err != nil {
		return frozen("the log %s stays as it is: %w; to sign on would contradict it. "+
			"Put back a copy of the log that has it, or begin a new log under a new name", l.Name(), err)
	}
	if d.unverified != nil && !seen {
		return frozen("the log %s stays as it is: %w; with a head of the log that a client has seen it can be adopted nevertheless", l.Name(), d.unverified)
	}
	return nil
}

// begin makes the entries in d the log, from the inside out: should it be
// interrupted, the log still refuses.
func (l *Log) begin(d *disk) error {
	l.showSigned(d)
	if err := l.keepTail(); err != nil {
		return err
	}
	var heads []byte
	for _, c := range d.claims {
		if c.signed && c.file == l.path("heads") {
			heads = append(heads, c.note...)
		}
	}
	if err := l.rewriteHeads(heads); err != nil {
		return err
	}
	if err := l.cutTails(); err != nil {
		return err
	}
	if err := l.publish(true); err != nil {
		return err
	}
	if err := os.Remove(l.path("frozen")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.log.Warn("log adopted", "database", l.Name(), "size", l.Size())
	return durable.SyncDir(l.config.Dir)
}

// keepTail puts aside what follows the last whole entry: it may be worth a look.
func (l *Log) keepTail() error {
	info, err := l.entries.Stat()
	if err != nil || info.Size() <= l.tree.end() {
		return err
	}
	tail, err := io.ReadAll(io.NewSectionReader(l.entries, l.tree.end(), info.Size()-l.tree.end()))
	if err != nil {
		return err
	}
	return durable.Replace(l.path("cut-"+time.Now().UTC().Format("20060102T150405.000Z")), tail, 0o600)
}

// rewriteHeads makes heads the history.
func (l *Log) rewriteHeads(heads []byte) error {
	old := l.heads
	l.heads = nil
	if err := old.Close(); err != nil {
		return err
	}
	if err := durable.Replace(l.path("heads"), heads, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path("heads"), os.O_RDWR, 0)
	l.heads, l.headsEnd = f, int64(len(heads))
	return err
}

// Check reads everything again that the log has on disk, and compares: each entry
// with its checksum and the tree, each head that was ever signed with our key and
// the tree, the guards, the freeze, and the tree with what is answered. All that is
// wrong is in the error, nil if nothing is. It takes a second for 10,000 heads or
// 100,000 entries; appends go on meanwhile.
func (l *Log) Check(ctx context.Context) error {
	v := l.view.Load()
	d, err := l.reader(true).read(ctx)
	if err != nil {
		return fmt.Errorf("check the log %s: %w", l.Name(), err)
	}
	damage := d.damage
	var answered tlog.Tree
	if answered, err = v.tree.at(v.tree.size()); err == nil && !d.tree.contains(answered) {
		err = fmt.Errorf("the %d entries on disk are not those that are answered", d.tree.size())
	}
	if err != nil {
		damage = append(damage, err)
	}
	if len(damage) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the log %s is damaged: %w", sumdb.ErrInvalid, l.Name(), errors.Join(damage...))
}
