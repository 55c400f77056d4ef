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

// storeGuard is the name of the state in the store with a guard of the log. Like the guard
// outside, it is written before anything is signed.
const storeGuard = "log/guard"

// errNoState means that the store does not remember a log. A damaged state counts as none.
var errNoState = errors.New("the store remembers no log")

// readStoreGuard returns the guard in store.
func readStoreGuard(ctx context.Context, store storage.Store) (guard, error) {
	text, err := store.State(ctx, storeGuard)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
		return guard{}, errNoState
	}
	if err != nil {
		return guard{}, fmt.Errorf("guard of the log: %w", err)
	}
	g, err := decodeGuard(text)
	if err != nil {
		return guard{}, errNoState
	}
	return g, nil
}

// pinned is a version in the store that a log proved, and when it was stored.
type pinned struct {
	mod  module.Version
	time time.Time
}

// pinnedBy returns the versions in store that the log called name proved.
func pinnedBy(ctx context.Context, store storage.Store, name string) (all []pinned, err error) {
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("versions that the log has pinned: %w", err)
		}
		if info.Proof != name {
			continue
		}
		key := info.Key // the path alone, until an old store is moved
		if _, path, ok := storage.CutVoucher(key); ok {
			key = path
		}
		escaped, file, _ := strings.Cut(key, "/@v/")
		mod, err1 := module.UnescapePath(escaped)
		version, err2 := module.UnescapeVersion(strings.TrimSuffix(file, path.Ext(file)))
		if err1 == nil && err2 == nil {
			all = append(all, pinned{module.Version{Path: mod, Version: version}, info.Time})
		}
	}
	return all, nil
}
