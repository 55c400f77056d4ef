package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/assay-proxy/assay/internal/durable"
)

// Open opens the log in c.Dir, or creates an empty one with a new key. Only one process at a time
// can have it open, except with ReadOnly; the error for a second one is storage.ErrInUse. A log
// whose files are damaged or contradict each other is opened and Refuses, unless none of its files
// can be used: then the error is sumdb.ErrFrozen. With ReadOnly, a missing log or one whose
// creation was interrupted is fs.ErrNotExist.
//
// With c.Bucket it opens the log in a bucket, which other replicas may have open too. A bucket that does
// not have what a guard or evidence says, and one about which nothing outside of it says anything, makes a
// log that Refuses.
func Open(ctx context.Context, c Config) (*Log, error) {
	l, err := newLog(c)
	if err != nil {
		return nil, fmt.Errorf("log in %s: %w", c.Dir, err)
	}
	if c.Bucket != nil {
		if err := (bucketOpener{l}).open(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("log in the bucket: %w", err), l.closeFiles())
		}
		return l, nil
	}
	if err := (fileOpener{l}).open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("log in %s: %w", c.Dir, err), l.closeFiles())
	}
	return l, nil
}

// newLog checks c, and returns a log without open files.
func newLog(c Config) (*Log, error) {
	if c.Dir == "" && (c.Bucket == nil || !c.ReadOnly) {
		return nil, errors.New("no directory")
	}
	if c.Adopt == "" {
		c.Adopt = "assay log adopt"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Guard != "" && c.Dir != "" {
		if in, err := inside(c.Dir, c.Guard); err != nil || in {
			return nil, errors.Join(err, fmt.Errorf("the guard %s must be outside the directory that it guards", c.Guard))
		}
	}
	l := &Log{config: c, queue: newQueue(), log: c.Logger}
	l.metrics = newMetrics(l.Size, l.Refuses, c.ReadOnly)
	return l, nil
}

// fileOpener opens a log in files.
type fileOpener struct{ *Log }

// open implements Open, but leaves files open if it fails.
func (l fileOpener) open(ctx context.Context) error {
	if err := l.openKey(ctx, true); err != nil {
		return err
	}
	found, err := l.read(ctx, false)
	if err != nil {
		return err
	}
	if len(found.damage) > 0 {
		return l.openRefusing(ctx)
	}
	files, err := l.openFiles(found, !l.config.ReadOnly)
	if err != nil {
		return err
	}
	if !l.config.ReadOnly {
		return files.resume(found)
	}
	head := found.newestHead()
	if l.book.showSigned(head); head == nil {
		return fmt.Errorf("nothing is signed yet: the creation of the log was interrupted: %w", fs.ErrNotExist)
	}
	return nil
}

// openKey locks the log and reads its key. If there is no log, openKey creates one if mayCreate is
// set; otherwise the error is fs.ErrNotExist.
func (l fileOpener) openKey(ctx context.Context, mayCreate bool) (err error) {
	at := l.config.location()
	if l.config.ReadOnly {
		if l.key, err = readPublicKey(at); err != nil {
			return err
		}
		return l.useKey()
	}
	if mayCreate {
		if err := durable.MakeDir(at.dir, 0o700); err != nil {
			return err
		}
	}
	if l.lock, err = takeLock(at.path("lock")); err != nil {
		return err
	}
	l.key, err = readKey(at.keyPath())
	if mayCreate && errors.Is(err, fs.ErrNotExist) {
		if l.key, err = create(ctx, at, l.config.Name); err != nil {
			return err
		}
		return l.useKey()
	}
	if err != nil {
		return err
	}
	if err := l.useKey(); err != nil {
		return err
	}
	return l.key.checkPublicFile(at)
}

// useKey returns an error if the key is not that of the log that the administrator configured.
func (l fileOpener) useKey() error {
	l.refusals = &refusals{name: l.key.name(), adopt: l.config.Adopt}
	return l.key.checkName(l.config.Name)
}

// read reads the files of the log.
func (l fileOpener) read(ctx context.Context, allHeads bool) (*findings, error) {
	return reader{l.config.location(), l.key, allHeads}.read(ctx)
}

// openRefusing opens a log that must not sign. It changes nothing on disk. It searches all heads
// for the newest one that the entries still contain.
func (l fileOpener) openRefusing(ctx context.Context) error {
	found, err := l.read(ctx, true)
	if err != nil {
		return err
	}
	if _, err := l.openFiles(found, false); err != nil {
		return err
	}
	if found.moved != nil && len(found.damage) == 1 {
		l.refusals.begin(frozen("the log %s signs nothing new here: %w; it goes on there: start the server with --store, and with a copy of "+
			"its key as --log-key, or bring the log back with assay log move --back", l.Name(), found.moved))
		l.book.showAll(found.newestHead())
		l.log.Error("the log signs nothing new", "database", l.Name(), "size", l.Size(), "err", l.Refuses())
		return nil
	}
	newest := found.mayAdopt(l.Name(), false) == nil
	l.refusals.begin(l.refusals.contradicted(errors.Join(found.damage...), newest))
	l.book.showAll(found.newestHead())
	l.log.Error("the log signs nothing new", "database", l.Name(), "size", l.Size(), "entries", found.entries.index.tree.size(), "err", l.Refuses())
	return nil
}

// openFiles opens the files that stay open, in the state that was found.
func (l fileOpener) openFiles(found *findings, writable bool) (*fileLedger, error) {
	at := l.config.location()
	entries, err := openEntries(l.Name(), at.path("entries"), writable, found.entries.index, l.config.Memory)
	if err != nil {
		return nil, err
	}
	book := &book{key: l.key, entries: entries, refusals: l.refusals, log: l.log}
	files := &fileLedger{book: book, at: at, guards: guards{at: at, key: l.key.public}}
	l.use(book, files)
	if writable {
		files.heads, err = openHeads(at, found.headsEnd)
	}
	return files, err
}
