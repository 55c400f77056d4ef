package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/assay-proxy/assay/storage"
)

// identity is the name of the state that makes keys in a bucket a store. It is
//
//	assay store 1 ID
//
// with the version of the layout and a random ID. Another store that takes the place of this one, in a bucket of the
// same name, has another ID.
const identity = "store"

const identityFormat = "assay store 1 "

// Identity returns the ID of the store, which never changes. With create a store that has none gets one; otherwise the
// error is fs.ErrNotExist. The error is storage.ErrNewer if a newer version of this program has changed the layout, and
// storage.ErrForeign if it is no store.
func (db *DB) Identity(ctx context.Context, create bool) (id string, err error) {
	if db.closed.Load() {
		return "", fs.ErrClosed
	}
	_, value, _, err := db.records.state(ctx, identity)
	if errors.Is(err, fs.ErrNotExist) && create {
		err = db.SwapState(ctx, identity, nil, []byte(identityFormat+newID()))
		if err != nil && !errors.Is(err, storage.ErrConflict) { // of another replica that starts
			return "", err
		}
		_, value, _, err = db.records.state(ctx, identity)
	}
	if err != nil {
		return "", fmt.Errorf("state %q: %w", identity, err)
	}
	id, known := strings.CutPrefix(string(value), identityFormat)
	switch {
	case known:
		return id, nil
	case strings.HasPrefix(string(value), strings.TrimSuffix(identityFormat, "1 ")):
		return "", fmt.Errorf("store in %s has the layout %.40q: %w; use that version of Assay", db.Place(), value, storage.ErrNewer)
	}
	return "", fmt.Errorf("store in %s: %w", db.Place(), storage.ErrForeign)
}

// Confirm returns nil if the store is still the one with this ID, by one request. If it is not, because the bucket was
// emptied, or another one has its name, nothing in the bucket is read or written from then on, but by Confirm and
// Identity: all other methods fail with storage.ErrAway, until Confirm finds the store again.
func (db *DB) Confirm(ctx context.Context, id string) error {
	now, err := db.Identity(ctx, false)
	why := ""
	switch {
	case err == nil && now == id:
		if db.strange.Swap(nil) != nil {
			db.log.Info("the bucket has the store of this server again", "place", db.Place())
		}
		return nil
	case err == nil:
		why = "has another store than the one with which this server began"
	case errors.Is(err, fs.ErrNotExist):
		why = "does not have the store any more with which this server began"
	case errors.Is(err, storage.ErrNewer), errors.Is(err, storage.ErrForeign), errors.Is(err, storage.ErrDamaged):
		why = "does not have the store any more with which this server began: " + err.Error()
	default:
		return err // it is closed, or the object store does not answer: what it has is not known
	}
	strange := &awayError{fmt.Sprintf("%s %s; this server reads and writes nothing there. Put back the bucket, or its address: "+
		"the server goes on within seconds. If what is there now is meant, restart the server", db.Place(), why)}
	if before := db.strange.Swap(strange); before == nil || before.text != strange.text {
		db.log.Error("the bucket was emptied or exchanged", "err", strange)
	}
	return strange
}

// Place returns where the store is, for texts and for comparison: the same bucket and prefix at the same server have
// the same place.
func (db *DB) Place() string {
	place := "s3://" + db.records.name
	if prefix := strings.TrimSuffix(db.records.prefix, "/"); prefix != "" {
		place += "/" + prefix
	}
	if db.endpoint != "" {
		place += " at " + db.endpoint
	}
	return place
}
