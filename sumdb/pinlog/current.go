package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/assay-proxy/assay/storage"
)

// currentLog is the name of the state with the verifier key of the log that signs in a bucket. The files of two logs
// would be different bytes for one version.
const currentLog = "log/current"

// otherSigns returns the refusal of a log because another one signs in its bucket.
func otherSigns(name, other string) error {
	return frozen("the log %s signs nothing here, because the bucket has another log, %s: two logs would give clients different bytes for "+
		"one version. Use that one, with its key as log-key, or give this one a store with another prefix; if %s has ended, "+
		"stop all its servers, and run assay log create --other-log-ended with the key of the new log", name, other, other)
}

// otherLog returns the verifier key of the log that signs in a store, nil if none is recorded, and the name of a log
// that is not the one called own, "" if there is none. Versions that another log has pinned count, unless moved is set.
func otherLog(ctx context.Context, store storage.Store, own string, moved bool) (named []byte, other string, err error) {
	named, err = store.State(ctx, currentLog)
	if err == nil {
		name, _, _ := strings.Cut(string(named), "+")
		if name == own {
			name = ""
		}
		return named, name, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("log that signs in the bucket: %w", err)
	}
	dirs, err := bucketLogs(ctx, store)
	if err != nil {
		return nil, "", err
	}
	for _, dir := range dirs {
		if own == "" || dir != storage.LogDir(own) {
			return nil, path.Base(dir), nil
		}
	}
	if moved {
		return nil, "", nil
	}
	pinned := path.Dir(string(storage.PinnedIn("any"))) + "/"
	for key, err := range store.Keys(ctx, pinned) {
		if err != nil {
			return nil, "", fmt.Errorf("versions that logs have pinned: %w", err)
		}
		if name, _, _ := strings.Cut(strings.TrimPrefix(key, pinned), "/"); own == "" || pinned+name != string(storage.PinnedIn(own)) {
			return nil, name, nil
		}
	}
	return nil, "", nil
}

// Elsewhere returns the name of an own log that has signed in a store, and is not the one in c.Dir; "" if there is none.
// A log that c.Dir has, or that gets a name of its own, may come after one of which the store has only versions.
func Elsewhere(ctx context.Context, c Config, store storage.Store) (string, error) {
	own, named := "", c.Name != ""
	if key, err := readPublicKey(c.location()); err == nil {
		own, named = key.name(), true
	} else if key, err := readKey(c.location().keyPath()); err == nil {
		own, named = key.name(), true
	}
	_, other, err := otherLog(ctx, store, own, named)
	return other, err
}
