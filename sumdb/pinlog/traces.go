package pinlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/assay-proxy/assay/storage"
)

// tracesOf returns an error if something shows that there was a log called name, which the bucket does not have.
func tracesOf(ctx context.Context, c Config, name string) error {
	at := c.location()
	if key, err := readPublicKey(at); err == nil && key.name() == name && hasContent(at.path("entries")) {
		return frozen("%s has the log %s: bring it to the bucket with assay log move, or begin a new log under a new name, log-name, "+
			"with a new key", at.dir, name)
	}
	g, err := readStoreGuard(ctx, c.Bucket.Store)
	switch {
	case err == nil && g.tree.N > 0 && g.name() == name:
		return frozen("the store remembers the log %s of %d entries: if it is in the data directory of a server, bring it to the bucket with "+
			"assay log move; otherwise put it back, or begin a new log under a new name, log-name, with a new key and --other-log-ended", name, g.tree.N)
	case err != nil && !errors.Is(err, errNoState):
		return err
	}
	named, _, err := otherLog(ctx, c.Bucket.Store, name, true)
	if err != nil {
		return err
	}
	if signed, _, _ := strings.Cut(string(named), "+"); signed == name {
		return frozen("the log %s has signed in the store, and the bucket does not have it: put back the newest state of the bucket, "+
			"or begin a new log under a new name, log-name, with a new key and --other-log-ended", name)
	}
	for key, err := range c.Bucket.Store.Keys(ctx, string(storage.PinnedIn(name))+"/") {
		if err != nil {
			return fmt.Errorf("versions that the log has pinned: %w", err)
		}
		return frozen("the store has versions that a log called %s pinned, such as %s, and the bucket does not have that log: put back the "+
			"newest state of the bucket, or begin a new log under a new name, log-name, with a new key and --other-log-ended", name, key)
	}
	return nil
}

func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}
