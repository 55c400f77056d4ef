package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
)

// Adopt makes a log that refuses sign again, after its administrator has checked that it extends
// every head that clients have seen. This is needed after a copy of the log was restored, after it
// was moved to another disk, and when a guard was lost or is new. No process may have the log open.
//
// head is the newest signed head that any client or other machine has seen. A client keeps its own
// in $GOPATH/pkg/sumdb/NAME/latest. The log must contain head, all signed heads found in c.Dir, the
// trees of the guards, and all that c.Store has of the log. Then Adopt rewrites the guards,
// lifts the freeze, and moves the bytes after the last whole entry to a file cut-TIME in c.Dir.
// Otherwise the log stays as it is. The error is sumdb.ErrFrozen if the log does not contain one of
// these, sumdb.ErrInvalid if head is not a head of this log, fs.ErrNotExist if there is no log.
//
// A nil head means that clients have seen no heads of the log but those in c.Dir. If that is wrong,
// the log signs a head that contradicts a client's head, and that client stops forever with a
// SECURITY ERROR. So ask the administrator twice.
func Adopt(ctx context.Context, c Config, head []byte) error {
	l, err := newLog(c)
	if err == nil && c.ReadOnly {
		err = errors.New("open for reading only")
	}
	if err != nil {
		return fmt.Errorf("adopt the log in %s: %w", c.Dir, err)
	}
	err = fileOpener{l}.adopt(ctx, head)
	if err = errors.Join(err, l.closeFiles()); err != nil {
		return fmt.Errorf("adopt the log in %s: %w", c.Dir, err)
	}
	return nil
}

func (l fileOpener) adopt(ctx context.Context, head []byte) error {
	if _, err := os.Stat(l.config.Dir); err != nil {
		return err
	}
	if err := l.openKey(ctx, false); err != nil {
		return err
	}
	found, err := l.read(ctx, true)
	if err != nil {
		return err
	}
	if head != nil {
		seen, err := openHead(head, l.key.verifier)
		if err != nil {
			return fmt.Errorf("the head to adopt is none of the log %s: %w", l.Name(), err)
		}
		found.claims = append(found.claims, claim{"what was seen", seen.tree, true, seen.note})
	}
	if err := found.mayAdopt(l.Name(), head != nil); err != nil {
		return err
	}
	files, err := l.openFiles(found, true)
	if err != nil {
		return err
	}
	return files.adopt(found)
}

// adopt makes the found entries the log. It lifts the freeze last: if adopt is interrupted, the log
// still refuses.
func (l *fileLedger) adopt(found *findings) error {
	l.showSigned(found.newestHead())
	if err := l.keepTail(); err != nil {
		return err
	}
	if err := l.heads.replace(found.heads(l.at.path("heads"))); err != nil {
		return err
	}
	if err := l.repair(); err != nil {
		return err
	}
	if err := l.publish(true, nil); err != nil {
		return err
	}
	for _, name := range []string{BackupMark, "frozen"} {
		if err := os.Remove(l.at.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	l.log.Warn("log adopted", "database", l.key.name(), "size", l.size())
	return durable.SyncDir(l.at.dir)
}

// keepTail copies the bytes after the last whole entry into a file of their own, which the
// administrator can inspect.
func (l *fileLedger) keepTail() error {
	tail, err := l.entries.tail()
	if err != nil || tail == nil {
		return err
	}
	return durable.Replace(l.at.path("cut-"+time.Now().UTC().Format("20060102T150405.000Z")), tail, 0o600)
}
