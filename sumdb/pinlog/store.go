package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/storage"
)

// storeGuard is the name of the record in the store that has a guard of the log. It is
// written as the guard outside is, before anything is signed.
const storeGuard = "log/guard"

// writeStore writes g into the store, if there is one.
func (l *Log) writeStore(g guard) error {
	if l.config.Store == nil {
		return nil
	}
	// The append is for all who wait, so it has the context of none of them.
	return l.config.Store.SetRecord(context.Background(), storeGuard, g.encode())
}

// errNoRecord says that the store does not remember a log. A damaged record is as good
// as none.
var errNoRecord = errors.New("the store remembers no log")

// readStoreGuard returns the guard in store.
func readStoreGuard(ctx context.Context, store storage.Store) (guard, error) {
	text, err := store.Record(ctx, storeGuard)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
		return guard{}, errNoRecord
	}
	if err != nil {
		return guard{}, fmt.Errorf("guard of the log: %w", err)
	}
	g, err := decodeGuard(text)
	if err != nil {
		return guard{}, errNoRecord
	}
	return g, nil
}

// pinned is a version in the store that was proved by a log, and when it was stored.
type pinned struct {
	mod  module.Version
	time time.Time
}

// pinnedBy returns the versions in store that were proved by the log called name.
func pinnedBy(ctx context.Context, store storage.Store, name string) (all []pinned, err error) {
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("versions that the log has pinned: %w", err)
		}
		if info.Proof != name {
			continue
		}
		escaped, file, _ := strings.Cut(info.Key, "/@v/")
		mod, err1 := module.UnescapePath(escaped)
		version, err2 := module.UnescapeVersion(strings.TrimSuffix(file, path.Ext(file)))
		if err1 == nil && err2 == nil {
			all = append(all, pinned{module.Version{Path: mod, Version: version}, info.Time})
		}
	}
	return all, nil
}

// readStore adds what the store says of the log. A store that has no guard of a log,
// which the first version of this program did not write, has versions that were pinned.
func (r diskReader) readStore(ctx context.Context, d *disk) error {
	if r.store == nil {
		return nil
	}
	g, err := readStoreGuard(ctx, r.store)
	if errors.Is(err, errNoRecord) {
		d.pinned, err = pinnedBy(ctx, r.store, r.verifier.Name())
		return err
	}
	if err != nil {
		return err
	}
	switch {
	case g.key == r.key:
		d.claims = append(d.claims, claim{file: storeFile, tree: g.tree})
	case g.tree.N > 0 && keyName(g.key) == r.verifier.Name():
		d.foreign = fmt.Errorf("the store beside it remembers a log of the same name with the key %s", g.key)
		d.damage = append(d.damage, d.foreign)
	}
	return nil
}

// storeFile is what a claim of the store has instead of the path of a file.
const storeFile = "the store"

// keyName is the name in a verifier key.
func keyName(key string) string {
	name, _, _ := strings.Cut(key, "+")
	return name
}

// judgePinned counts the versions in the store that the log must have pinned and does
// not have. What was stored before its first entry was pinned in an older log of the
// same name.
func (d *disk) judgePinned() {
	missing := make(map[module.Version]bool)
	for _, p := range d.pinned {
		_, ok := d.index[keyOf(p.mod)]
		if !ok && (d.tree.size() == 0 || !p.time.Before(d.began.Truncate(time.Second))) {
			missing[p.mod] = true
		}
	}
	if len(missing) > 0 {
		d.missing = fmt.Errorf("the store has %d versions that this log pinned, and the log does not have them", len(missing))
		d.damage = append(d.damage, d.missing)
	}
}

// checkStoreVacant says whether the store remembers a log where a new one shall be. A
// new log needs a new name, else its clients stop at its first head.
func (l *Log) checkStoreVacant(ctx context.Context) error {
	if l.config.Store == nil {
		return nil
	}
	g, err := readStoreGuard(ctx, l.config.Store)
	if errors.Is(err, errNoRecord) {
		if l.config.Name == "" {
			return nil // it gets one that no log had
		}
		old, err := pinnedBy(ctx, l.config.Store, l.config.Name)
		if err != nil || len(old) == 0 {
			return err
		}
		return frozen("the store has versions that a log called %s pinned, and that log is gone: put it back, or begin a new log under a new name", l.config.Name)
	}
	if err != nil {
		return err
	}
	if name := keyName(g.key); g.tree.N > 0 && (l.config.Name == "" || l.config.Name == name) {
		return frozen("the store remembers the log %s of %d entries, and that log is gone: put it back, or begin a new log under a new name, log-name", name, g.tree.N)
	}
	return nil
}
