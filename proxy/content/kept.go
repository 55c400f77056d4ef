package content

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// A store with a limit of the disk evicts zips that can be fetched again. Which those are is decided here: only a
// zip that a checksum database proves is the same when it comes again, and what an operator keeps, or what came
// from a repository, stays.

// Keep is the order of an operator to evict no zip of a version, or of any version of a module.
type Keep struct {
	Module  string    `json:"module"`
	Version string    `json:"version,omitempty"` // "": all versions, also future ones
	Time    time.Time `json:"time"`
}

const (
	// keepsState is the state with all orders, one a line.
	keepsState = "kept"

	// maxKeeps is how many orders there can be, which bounds the state.
	maxKeeps = 10_000

	// directPrefix is the beginning of the names of states which say that a version came from its repository.
	directPrefix = "direct/"
)

// Keeps returns all orders, the oldest first.
func Keeps(ctx context.Context, store storage.Store) ([]Keep, error) {
	value, err := keepsValue(ctx, store)
	if err != nil {
		return nil, err
	}
	return parseKeeps(value)
}

// keepsValue returns the state, nil if there is none.
func keepsValue(ctx context.Context, store storage.Store) ([]byte, error) {
	value, err := store.State(ctx, keepsState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return value, err
}

func parseKeeps(value []byte) (all []Keep, err error) {
	for line := range bytes.Lines(value) {
		var k Keep
		if err := json.Unmarshal(line, &k); err != nil {
			return nil, fmt.Errorf("the state with what is kept: %w: %w", storage.ErrDamaged, err)
		}
		all = append(all, k)
	}
	return all, nil
}

// AddKeep adds an order, which may be there already. The version "" stands for all versions of the module.
func AddKeep(ctx context.Context, store storage.Store, mod module.Version, now time.Time) error {
	if err := checkKeep(mod); err != nil {
		return err
	}
	return changeKeeps(ctx, store, func(all []Keep) ([]Keep, error) {
		if slices.ContainsFunc(all, func(k Keep) bool { return k.is(mod) }) {
			return all, nil
		}
		if len(all) == maxKeeps {
			return nil, fmt.Errorf("%d modules and versions are kept already, which is the limit; remove some", maxKeeps)
		}
		return append(all, Keep{mod.Path, mod.Version, now.UTC().Truncate(time.Second)}), nil
	})
}

func checkKeep(mod module.Version) error {
	if mod.Version == "" {
		return module.CheckPath(mod.Path)
	}
	return module.Check(mod.Path, mod.Version)
}

func (k Keep) is(mod module.Version) bool { return k.Module == mod.Path && k.Version == mod.Version }

// RemoveKeep removes an order. The error is fs.ErrNotExist if there is none for just this module and version.
func RemoveKeep(ctx context.Context, store storage.Store, mod module.Version) error {
	return changeKeeps(ctx, store, func(all []Keep) ([]Keep, error) {
		left := slices.DeleteFunc(slices.Clone(all), func(k Keep) bool { return k.is(mod) })
		if len(left) == len(all) {
			return nil, fs.ErrNotExist
		}
		return left, nil
	})
}

// changeKeeps replaces the orders with what change returns.
func changeKeeps(ctx context.Context, store storage.Store, change func([]Keep) ([]Keep, error)) error {
	for {
		old, err := keepsValue(ctx, store)
		if err != nil {
			return err
		}
		all, err := parseKeeps(old)
		if err == nil {
			all, err = change(all)
		}
		if err != nil {
			return err
		}
		value := []byte{}
		for _, k := range all {
			line, err := json.Marshal(k)
			if err != nil {
				return err
			}
			value = append(append(value, line...), '\n')
		}
		if err := store.SwapState(ctx, keepsState, old, value); !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}

// Keeper says which objects of a store are never evicted, and why.
type Keeper struct {
	store storage.Store

	mu    sync.Mutex
	keeps map[module.Version]bool
}

// NewKeeper returns a Keeper for a store.
func NewKeeper(ctx context.Context, store storage.Store) (*Keeper, error) {
	k := &Keeper{store: store}
	_, err := k.Load(ctx)
	return k, err
}

// Load reads the orders of operators again, and reports whether they have changed.
func (k *Keeper) Load(ctx context.Context) (changed bool, err error) {
	all, err := Keeps(ctx, k.store)
	if err != nil {
		return false, err
	}
	keeps := map[module.Version]bool{}
	for _, order := range all {
		keeps[module.Version{Path: order.Module, Version: order.Version}] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	changed = !maps.Equal(k.keeps, keeps)
	k.keeps = keeps
	return changed, nil
}

// Reason returns why an object is not evicted, in words that end a sentence like "8 MiB for", or "" if it may be.
func (k *Keeper) Reason(ctx context.Context, info storage.Info) (string, error) {
	voucher, path, ok := storage.CutVoucher(info.Key)
	switch {
	case !ok:
		return "records and tiles", nil
	case voucher.OwnLog():
		return "private versions", nil
	case !strings.HasSuffix(path, ".zip"):
		return "go.mod and .info files", nil
	case !voucher.Database():
		return "zips that no checksum database proves", nil
	}
	req, err := request.Parse(path)
	if err != nil || req.Kind != request.Zip {
		return "versions with long names", nil // the key does not show which one it is
	}
	if reason := k.ordered(req); reason != "" {
		return reason, nil
	}
	_, err = k.store.State(ctx, directState(req.ModuleVersion()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return "versions from their repositories", nil
}

// Ordered is Reason for copies of what a bucket has: only the orders of operators count, for all files of a version.
func (k *Keeper) Ordered(_ context.Context, info storage.Info) (string, error) {
	_, path, ok := storage.CutVoucher(info.Key)
	req, err := request.Parse(path)
	if !ok || err != nil {
		return "", nil // a record, a tile, or the key does not show which version it is
	}
	return k.ordered(req), nil
}

// ordered returns the reason if an operator keeps the version of a request, or all versions of its module.
func (k *Keeper) ordered(req request.Request) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keeps[req.ModuleVersion()] || k.keeps[module.Version{Path: req.Module}] {
		return "versions that assay pin keeps"
	}
	return ""
}

// directState returns the name of the state which says that a version came from its repository.
func directState(of module.Version) string {
	return storage.Key(directPrefix + request.Request{Kind: request.Zip, Module: of.Path, Version: of.Version}.Path())
}

// noteDirect notes that a public version comes from its repository, which may vanish.
func noteDirect(ctx context.Context, store storage.Store, of module.Version) error {
	return store.SetState(ctx, directState(of), []byte("direct"))
}

// forgetDirect forgets that a version came from its repository.
func forgetDirect(ctx context.Context, store storage.Store, of module.Version) error {
	if err := store.DeleteState(ctx, directState(of)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
